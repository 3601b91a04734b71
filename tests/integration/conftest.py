"""A gateway on real sockets, in front of services that answer as a test says."""

from collections.abc import AsyncIterator

import pytest

from batchyard.gateway.app import GatewayAddresses
from support.gateway import FakeServices, a_gateway


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
async def gateway(services: FakeServices) -> AsyncIterator[GatewayAddresses]:
    async with a_gateway(services) as addresses:
        yield addresses
