"""What the commands for people are tried on."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import Installation, start_up


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A `batchyard up` of the module's own: its tests see all that is there."""
    with closing(start_up(tmp_path_factory.mktemp("client") / "data", "--faults")) as running:
        yield running


@pytest.fixture(scope="module")
def account(up: Installation) -> Iterator[Account]:
    """The account that commands act for unless they are told otherwise, with a queue and a definition."""
    with closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
        account.make_queue()
        account.define()
        yield account
