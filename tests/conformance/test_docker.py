"""The contracts of runtimes and of those that run containers, on Docker."""

import pytest

from support.docker import docker_host
from support.images import image_registry

pytest.register_assert_rewrite("conformance.runtime_contract", "conformance.container_contract")
from conformance.container_contract import ContainerContract  # noqa: E402

__all__ = ["docker_host", "image_registry"]


@pytest.mark.docker
class TestDocker(ContainerContract):
    @pytest.fixture
    def engine(self, docker_host: str) -> str:
        return docker_host
