"""Following a job's output over several attempts."""

from collections.abc import AsyncGenerator
from typing import Any, cast

import anyio
import pytest

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_RUNNING, JOB_STATUS_SUCCEEDED
from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange
from batchyard.api.operations.v1.logs_service_pb2 import LogEvent
from batchyard.cli import job_client
from batchyard.cli.job_client import Follower


class Client:
    """A job whose two attempts are told of at once. The log of the first takes its time, or never ends."""

    def __init__(self, *, ends: bool = True) -> None:
        self._ends = ends

    async def changes(self, _: str) -> AsyncGenerator[JobChange]:
        """Yield both attempts and the end."""
        yield JobChange(status=JOB_STATUS_RUNNING, log_stream_name="first")
        yield JobChange(status=JOB_STATUS_RUNNING, log_stream_name="second")
        yield JobChange(status=JOB_STATUS_SUCCEEDED, log_stream_name="second")

    async def lines(self, stream: str) -> AsyncGenerator[LogEvent]:
        """Yield two lines of an attempt."""
        yield LogEvent(message=f"{stream} 1")
        if stream == "first":
            await anyio.wait_all_tasks_blocked()
            if not self._ends:
                await anyio.sleep_forever()
        yield LogEvent(message=f"{stream} 2")


async def test_one_attempt_is_printed_after_the_other() -> None:
    printed: list[str] = []
    await Follower(cast("Any", Client()), "id", lambda event: printed.append(event.message)).to_the_end()
    assert printed == ["first 1", "first 2", "second 1", "second 2"]


async def test_a_log_that_never_ends_holds_up_the_next_attempt_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_client, "EARLIER_LINES_TIMEOUT_S", 0.05)
    printed: list[str] = []
    await Follower(cast("Any", Client(ends=False)), "id", lambda event: printed.append(event.message)).to_the_end()
    assert printed[0] == "first 1"
    assert printed[-2:] == ["second 1", "second 2"]


async def test_each_line_gives_the_next_one_as_much_time() -> None:
    """Else the end of a long log would be lost, as the next attempt has begun before it has been printed."""
    deadlines: list[float] = []

    def show(_: LogEvent) -> None:
        assert follower._printing is not None
        deadlines.append(follower._printing.deadline)

    class Talkative(Client):
        async def lines(self, stream: str) -> AsyncGenerator[LogEvent]:
            await anyio.wait_all_tasks_blocked()
            for _ in range(3 if stream == "first" else 0):
                yield LogEvent()
                await anyio.sleep(0.001)

    follower = Follower(cast("Any", Talkative()), "id", show)
    await follower.to_the_end()
    assert len(deadlines) == 3
    assert sorted(set(deadlines)) == deadlines, "each later than the one before"
