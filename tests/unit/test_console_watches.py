"""The watches that the console's open pages share."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import anyio

from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange, WatchJobsResponse
from batchyard.domain.names import Caller
from batchyard.gateway.console.watches import Watches
from support.waiting import eventually

CALLER = Caller()


class SlowToLeave:
    """A server whose watches begin at once, and take as long to end as the test lets them."""

    def __init__(self) -> None:
        self.begun = 0
        self.is_ending, self.may_end = anyio.Event(), anyio.Event()
        self.changes: list[JobChange] = []

    async def watch(self, _caller: Caller, _job_ids: Sequence[str]) -> AsyncIterator[WatchJobsResponse]:
        """Tell that it has begun, then of changes."""
        self.begun += 1
        yield WatchJobsResponse()
        told = 0
        try:
            while True:
                if len(self.changes) > told:
                    told = len(self.changes)
                    yield WatchJobsResponse(changes=self.changes)
                await anyio.sleep(0.001)
        finally:
            self.is_ending.set()
            with anyio.CancelScope(shield=True):
                await self.may_end.wait()


async def test_a_page_that_opens_while_the_last_one_leaves_hears_of_changes() -> None:
    server = SlowToLeave()
    watches = Watches(cast("Any", server))
    first: list[Sequence[JobChange]] = []
    second: list[Sequence[JobChange]] = []
    async with anyio.create_task_group() as pages:
        leaving = anyio.CancelScope()

        async def leave() -> None:
            with leaving:
                await watches.jobs(CALLER, first.append)

        pages.start_soon(leave)
        await eventually(lambda: first, "the first page hears that its watch has begun")
        leaving.cancel()
        await server.is_ending.wait()
        pages.start_soon(watches.jobs, CALLER, second.append)
        await eventually(lambda: second, "the second page hears that its watch has begun")
        server.may_end.set()
        server.changes.append(JobChange(job_id="job"))
        await eventually(lambda: any(second), "the second page hears of a change")
        pages.cancel_scope.cancel()
    assert server.begun == 2


async def test_pages_that_are_open_together_share_a_watch() -> None:
    server = SlowToLeave()
    server.may_end.set()
    watches = Watches(cast("Any", server))
    heard: list[list[Sequence[JobChange]]] = [[], [], []]
    async with anyio.create_task_group() as pages:
        for page in heard:
            pages.start_soon(watches.jobs, CALLER, page.append)
        await eventually(lambda: all(heard), "all hear that it has begun")
        server.changes.append(JobChange(job_id="job"))
        await eventually(lambda: all(any(page) for page in heard), "all hear of a change")
        pages.cancel_scope.cancel()
    assert server.begun == 1
