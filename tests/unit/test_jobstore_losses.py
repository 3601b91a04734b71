"""Jobs that were lost with their host before their command started: no attempts, and not for ever."""

from collections.abc import Callable

import pytest

from batchyard.domain.jobs import JobKey
from batchyard.domain.lifecycle import UNSTARTED_LOSSES_MAX, JobState, RunEnd, RunState
from support.jobs import Store

REASON = "Host EC2 (instance agent-1) terminated. Lost 5 times before its command started."


def by_a_new_incarnation(store: Store, key: JobKey) -> None:
    """Lose an offer that nobody claimed."""
    agent = store.writer.agent(store.offer(key, incarnation=newest(store)).agent_id)
    assert agent is not None
    store.register(incarnation=agent.incarnation + 1)


def by_a_claim_that_never_started(store: Store, key: JobKey) -> None:
    run = store.offer(key)
    store.report(key, run, RunState.CLAIMED)
    store.report(key, run, RunState.DONE, end=RunEnd.NEVER_STARTED, reason="the launcher died")


def by_a_claim_that_nobody_heard_of(store: Store, key: JobKey) -> None:
    store.report(key, store.offer(key), RunState.DONE, end=RunEnd.NEVER_STARTED)


def by_a_claim_that_was_given_back(store: Store, key: JobKey) -> None:
    run = store.offer(key)
    store.report(key, run, RunState.CLAIMED)
    store.report(key, run, RunState.REVOKED)


def newest(store: Store) -> int:
    (incarnation,) = store.connection.execute("SELECT incarnation FROM agents").fetchone()
    return int(incarnation)


LOSSES = [
    by_a_new_incarnation,
    by_a_claim_that_never_started,
    by_a_claim_that_nobody_heard_of,
    by_a_claim_that_was_given_back,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_loss_before_the_start_is_no_attempt(store: Store, lose: Callable[[Store, JobKey], None]) -> None:
    key = store.submit(attempts=1)
    lose(store, key)
    job = store.job(key)
    assert (job.state, job.run, job.attempts_made, job.unstarted_losses) == (JobState.RUNNABLE, None, 0, 1)
    assert list(store.reader.describe([key])[0].attempts) == []


@pytest.mark.parametrize("lose", LOSSES)
def test_the_fifth_loss_fails_the_job_and_says_why(store: Store, lose: Callable[[Store, JobKey], None]) -> None:
    key, dependent = store.submit(attempts=3), store.submit("dependent", after=("job",))
    for _ in range(UNSTARTED_LOSSES_MAX - 1):
        lose(store, key)
    store.restart()  # the count is on disk
    assert store.job(key).state is JobState.RUNNABLE
    lose(store, key)
    job = store.job(key)
    assert (job.state, job.status_reason, job.attempts_made) == (JobState.FAILED, REASON, 1)
    (attempt,) = store.reader.describe([key])[0].attempts
    assert (attempt.status_reason, attempt.started_at) == (REASON, None)
    assert store.job(dependent).state is JobState.FAILED


def test_an_offer_that_was_given_back_is_no_loss(store: Store) -> None:
    key = store.submit()
    for _ in range(UNSTARTED_LOSSES_MAX):
        store.report(key, store.offer(key), RunState.REVOKED)
    assert (store.job(key).state, store.job(key).unstarted_losses) == (JobState.RUNNABLE, 0)


def test_a_lease_that_is_over_leaves_open_what_has_started_and_counts_as_an_attempt(store: Store) -> None:
    key = store.submit(attempts=2)
    store.offer(key)
    store.do(lambda group: group.lose_agent(store.job(key).run.agent_id, 1))  # type: ignore[union-attr]  # just offered
    assert (store.job(key).attempts_made, store.job(key).unstarted_losses) == (1, 0)


def test_a_run_that_has_started_is_lost_whatever_its_agent_says_of_it_later(store: Store) -> None:
    key = store.submit(attempts=2)
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=1)
    store.report(key, run, RunState.DONE, end=RunEnd.NEVER_STARTED)
    assert (store.job(key).attempts_made, store.job(key).unstarted_losses) == (1, 0)


def test_a_job_that_was_to_be_ended_is_not_placed_again_after_its_loss(store: Store) -> None:
    key = store.submit()
    store.offer(key)
    store.do(lambda group: group.cancel(key, "not wanted"))
    committed = store.register(incarnation=2)
    assert (store.job(key).state, store.job(key).status_reason) == (JobState.FAILED, "not wanted")
    assert key in committed.decided
