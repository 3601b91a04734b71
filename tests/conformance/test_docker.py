"""The contracts of runtimes and of those that run containers, on Docker."""

from itertools import pairwise

import pytest

from batchyard.storage.log_files import LogFolder
from support.docker import docker_host
from support.images import image_registry

pytest.register_assert_rewrite("conformance.runtime_contract", "conformance.container_contract")
from conformance.container_contract import ContainerContract, OpenContainers  # noqa: E402
from conformance.runtime_contract import FIRST  # noqa: E402

__all__ = ["docker_host", "image_registry"]


@pytest.mark.docker
class TestDocker(ContainerContract):
    @pytest.fixture
    def engine(self, docker_host: str) -> str:
        return docker_host

    async def test_a_container_that_is_louder_than_the_engine_keeps_is_copied_in_order_and_nothing_twice(
        self, opened: OpenContainers, logs: LogFolder
    ) -> None:
        last = 60_000
        script = f'BEGIN {{ for (i = 1; i <= {last}; i++) printf "%d %0300d\\n", i, 0 }}'
        async with opened(log_bytes_max=2 * 1024 * 1024) as runtime:
            followed = await self.with_lease(runtime)
            await followed.offer("awk", script)
            assert (await followed.done(FIRST)).exit_code == 0
        numbers = [int(line.split()[0]) for line in self.output(logs).splitlines()]
        assert [(earlier, later) for earlier, later in pairwise(numbers) if earlier >= later] == []
        assert numbers[-1] == last
