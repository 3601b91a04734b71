"""What followers are told of commits."""

import anyio

from batchyard.jobstore.feed import Feed
from batchyard.storage.jobs import Counters, Leader


def _counters(revision: int) -> Counters:
    return Counters(epoch=1, revision=revision, leader=Leader(0, ""), sequence=0, job_id=None)


async def test_a_store_that_is_opened_anew_wakes_those_who_wait_for_a_commit() -> None:
    # The commit that failed may have been applied after all, and another one may never come.
    feed = Feed()
    feed.opened(_counters(1))
    woken = False

    async def wait() -> None:
        nonlocal woken
        await feed.wait()
        woken = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        feed.opened(_counters(2))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert woken
    assert feed.changes_after(1) is None
