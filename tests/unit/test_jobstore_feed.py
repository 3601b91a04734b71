"""What followers are told of commits."""

import asyncio
from collections.abc import Callable
from unittest.mock import Mock

import anyio
import pytest

from batchyard.domain.errors import UnavailableError
from batchyard.domain.jobs import JobChange, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore import feed as feed_module
from batchyard.jobstore.effects import Committed, Effects
from batchyard.jobstore.feed import Feed, Subscription
from batchyard.storage.jobs import Counters, Leader
from support.jobs import a_key


def _commit(revision: int, *names: str, state: JobState = JobState.FAILED) -> Committed:
    changes = [JobChange(a_key(name), name, "queue", state, None, 1, 0, None, None, None) for name in names]
    return Committed(revision, written=True, effects=Effects(), changes=changes, decided=set())


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


def test_the_newest_commits_are_remembered_as_far_as_a_number_of_changes_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "CHANGES_IN_MEMORY", 3)
    feed = Feed()
    feed.opened(_counters(1))
    commits = [_commit(2, "a"), _commit(3, "b", "c"), _commit(5, "d")]
    for commit in commits:
        feed.committed(commit)
    assert feed.changes_after(1) is None
    assert feed.changes_after(2) == [(commit.revision, commit.changes) for commit in commits[1:]]
    assert feed.changes_after(3) == [(5, commits[2].changes)]
    assert feed.changes_after(5) == []
    large = _commit(6, *"efghij")
    feed.committed(large)
    assert feed.changes_after(4) is None
    assert feed.changes_after(5) == [(6, large.changes)]


async def test_who_follows_a_job_sleeps_while_others_change_and_need_not_look_at_what_passed() -> None:
    feed = Feed()
    feed.opened(_counters(1))
    mine, other = a_key("mine"), a_key("other")
    unchanged: list[int] = []

    async def follow() -> None:
        unchanged.append(await feed.wait_for([mine, other]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        for revision in range(2, 9):
            feed.committed(_commit(revision, "somebody"))
        await anyio.wait_all_tasks_blocked()
        assert unchanged == []
        feed.committed(_commit(9, "somebody", "mine"))
        feed.committed(_commit(10, "other"))
    assert unchanged == [8]
    assert feed.changes_after(8) == [(9, _commit(9, "somebody", "mine").changes), (10, _commit(10, "other").changes)]
    assert not feed._followed


async def test_a_store_that_is_opened_anew_wakes_those_who_follow_a_job() -> None:
    feed = Feed()
    feed.opened(_counters(1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed.wait_for, [a_key("mine")])
        await anyio.wait_all_tasks_blocked()
        feed.opened(_counters(2))


async def test_who_leaves_follows_nothing_any_more() -> None:
    feed = Feed()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed.wait_for, [a_key("mine")])
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert not feed._followed


async def test_who_watches_is_woken_for_an_end_at_once_and_for_all_else_a_little_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = Feed()
    feed.opened(_counters(1))
    later: list[Callable[[], None]] = []

    def call_later(_: float, tell: Callable[[], None]) -> Mock:
        later.append(tell)
        return Mock(asyncio.TimerHandle)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    watching = asyncio.ensure_future(feed.wait())
    following = asyncio.ensure_future(feed.wait_for([a_key("a")]))
    await anyio.wait_all_tasks_blocked()
    feed.committed(_commit(2, "b", state=JobState.STARTING))
    feed.committed(_commit(3, "a", state=JobState.STARTING))
    feed.committed(_commit(4, "a", state=JobState.RUNNING))
    await anyio.wait_all_tasks_blocked()
    assert not watching.done()
    assert not following.done()
    assert len(later) == 1, "one timer, whatever comes meanwhile"
    later[0]()
    await watching
    assert await following == 2, "the last revision at which nothing had happened to it"

    watching = asyncio.ensure_future(feed.wait())
    following = asyncio.ensure_future(feed.wait_for([a_key("a")]))
    await anyio.wait_all_tasks_blocked()
    feed.committed(_commit(5, "b", state=JobState.RUNNING))
    feed.committed(_commit(6, "a"))
    await watching
    assert await following == 5


async def test_the_scheduler_is_told_of_commits_that_follow_each_other_together_and_not_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed, subscription = Feed(), Subscription()
    feed.opened(_counters(1))
    feed.subscribe(subscription, UnavailableError("replaced"))
    subscription.begin_after(1)
    timers: list[tuple[float, Callable[[], None], Mock]] = []

    def call_later(delay: float, wake: Callable[[], None]) -> Mock:
        timers.append((delay, wake, Mock(asyncio.TimerHandle)))
        return timers[-1][2]

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)

    def commit(revision: int, *, more: bool, withdraws: str = "") -> None:
        committed = _commit(revision)
        if withdraws:
            committed.effects.withdraw(a_key(withdraws))
        feed.committed(committed, more=more)

    async def told() -> list[JobKey]:
        telling = asyncio.ensure_future(subscription.take())
        await anyio.wait_all_tasks_blocked()
        if not telling.done():
            telling.cancel()
            return []
        return list(telling.result()[0].withdrawn)

    commit(2, more=True, withdraws="a")
    assert await told() == []
    commit(3, more=True, withdraws="b")
    assert await told() == []
    commit(4, more=False)
    assert await told() == [a_key("a"), a_key("b")], "also when the last one has nothing to tell"
    ((delay, _, timer),) = timers
    assert delay == feed_module.HELD_BACK_S
    timer.cancel.assert_called_once_with()
    commit(5, more=False, withdraws="c")
    assert await told() == [a_key("c")]
    commit(6, more=True, withdraws="d")
    timers[-1][1]()
    assert await told() == [a_key("d")], "however long the next commit takes"
    assert len(timers) == 2
