"""The contracts of runtimes and of those that run containers, on Podman."""

import pytest

from support.images import image_registry
from support.podman import podman_host

pytest.register_assert_rewrite("conformance.runtime_contract", "conformance.container_contract")
from conformance.container_contract import HAS_CGROUP_V1, ContainerContract  # noqa: E402

__all__ = ["image_registry", "podman_host"]


@pytest.mark.docker
class TestPodman(ContainerContract):
    stamps_are_exact = False

    # On cgroup v1 Podman does not tell.
    tells_of_memory = not HAS_CGROUP_V1

    @pytest.fixture
    def engine(self, podman_host: str) -> str:
        return podman_host
