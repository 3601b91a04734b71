"""The contract of runtimes, on plain processes. `test_docker` and others have it on containers."""

import pytest

from support.agent import NEEDS_NAMESPACES

pytest.register_assert_rewrite("conformance.runtime_contract", "conformance.process_contract")
from conformance.process_contract import (  # noqa: E402
    NEEDS_CGROUPS,
    CgroupContract,
    ProcessContract,
)
from conformance.runtime_contract import Open  # noqa: E402


class TestPlainProcesses(ProcessContract):
    """Without a namespace and without cgroups, as where the host allows neither."""

    cgroups = False

    async def test_an_agent_says_that_memory_is_only_watched(
        self, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened():
            assert "no cgroups can be made here: the memory of jobs is watched" in caplog.text


@NEEDS_NAMESPACES
@NEEDS_CGROUPS
class TestProcessesInANamespace(CgroupContract):
    namespace = True
