"""The contract of runtimes on an engine that is none: what is tested on it is tested on what behaves as engines do."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.address import capacity_of_engine
from batchyard.agent.runtimes.docker import open_docker_runtime
from batchyard.agent.runtimes.secrets import Secrets
from batchyard.agent.runtimes.settings import DockerSettings
from batchyard.storage.log_files import LogFolder
from support.agent import NEEDS_ROOT
from support.fake_engine import FakeEngine, a_fake_engine

pytest.register_assert_rewrite("conformance.runtime_contract")
from conformance.runtime_contract import Open, RuntimeContract  # noqa: E402

CAPACITY = (4000, 4096, 0)
GRACE_S = 0.2


class TestFakeEngine(RuntimeContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[FakeEngine]:
        async with a_fake_engine() as fake:
            yield fake

    @pytest.fixture
    def opened(self, tmp_path: Path, logs: LogFolder, secrets: Secrets, engine: FakeEngine) -> Open:
        settings = DockerSettings(engine.url, "none", tmp_path.name, GRACE_S, secrets=secrets)

        def opened() -> AbstractAsyncContextManager[Runtime]:
            return open_docker_runtime(
                tmp_path / "docker", agent_id=tmp_path.name, capacity=CAPACITY, logs=logs, settings=settings
            )

        return opened

    @NEEDS_ROOT
    async def test_user_and_ulimits_are_set(self, opened: Open, logs: LogFolder) -> None:
        await super().test_user_and_ulimits_are_set(opened, logs)

    async def test_no_more_is_offered_than_the_engine_has_and_gpus_only_where_it_gives_them(
        self, engine: FakeEngine
    ) -> None:
        gib = 1024
        assert await capacity_of_engine(engine.url, (8000, 16 * gib, 2)) == (4000, 4 * gib, 0)
        assert await capacity_of_engine(engine.url, (1500, gib, 2)) == (1500, gib, 0)
        engine.runtimes["nvidia"] = {}
        assert await capacity_of_engine(engine.url, (8000, 16 * gib, 2)) == (4000, 4 * gib, 2)
