"""Draining an agent, as the store sees it."""

from dataclasses import replace

import pytest

from batchyard.domain.jobs import AgentId
from batchyard.domain.lifecycle import JobState, RunEnd, RunState
from batchyard.domain.retries import ExitRule, RetryAction
from batchyard.jobstore.convert import agents_message
from batchyard.jobstore.effects import Committed, DrainOutcome, RunDemand
from batchyard.jobstore.group import Submission
from batchyard.storage.jobs import AgentRecord
from support.jobs import AGENT, Store, a_job

DRAINED = "Host EC2 (instance agent-1) terminated. It was drained."


def drain(store: Store, *, limit_ms: int | None = None, agent_id: AgentId = AGENT) -> Committed:
    return store.do(lambda group: group.drain(agent_id, draining=True, limit_ms=limit_ms, request=7))


def resume(store: Store) -> Committed:
    return store.do(lambda group: group.drain(AGENT, draining=False, limit_ms=None, request=8))


def evict(store: Store) -> Committed:
    return store.do(lambda group: group.evict(AGENT))


def test_a_drain_is_on_disk_and_outlives_incarnations_losses_and_restarts(store: Store) -> None:
    committed = drain(store, limit_ms=5000)
    assert committed.written
    assert committed.effects.drains == [DrainOutcome(AGENT, True, 5000, 7, unknown=False)]
    store.do(lambda group: group.lose_agent(AGENT, 1))
    store.restart()
    store.register(incarnation=2)
    assert store.writer.agent(AGENT) == AgentRecord(AGENT, 2, live=True, draining=True, drain_limit_ms=5000)


def test_every_drained_agent_is_in_a_snapshot_and_those_that_live_are_told_as_such(store: Store) -> None:
    store.register(AgentId("agent-2"))
    store.register(AgentId("agent-3"))
    drain(store, limit_ms=5000)
    drain(store, agent_id=AgentId("agent-2"))
    store.do(lambda group: group.lose_agent(AGENT, 1))
    snapshot = store.reader.snapshot(10)
    list(snapshot.pages)
    message = agents_message(snapshot.agents)
    assert [agent.agent_id for agent in message.agents] == ["agent-2", "agent-3"]
    drains = [(drain.agent_id, drain.draining, drain.limit_ms, drain.HasField("limit_ms")) for drain in message.drains]
    assert drains == [("agent-1", True, 5000, True), ("agent-2", True, 0, False)]


def test_a_repeated_drain_is_answered_and_writes_nothing(store: Store) -> None:
    drain(store)
    committed = drain(store)
    assert not committed.written
    assert len(committed.effects.drains) == 1


def test_an_agent_that_never_registered_cannot_be_drained(store: Store) -> None:
    committed = drain(store, agent_id=AgentId("nobody"))
    assert [outcome.unknown for outcome in committed.effects.drains] == [True]
    assert store.writer.agent(AgentId("nobody")) is None


def test_runs_of_a_drained_agent_go_on(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    committed = drain(store)
    assert committed.effects.demands == []
    store.report(key, run, RunState.DONE, started_ago_ms=1, exit_code=0)
    assert store.job(key).state is JobState.SUCCEEDED


def test_past_the_limit_every_run_is_to_be_ended_also_for_the_next_scheduler(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=1)
    drain(store, limit_ms=0)
    committed = evict(store)
    assert committed.effects.demands == [RunDemand(AGENT, 1, run.fence, kill=True)]
    assert store.job(key).state is JobState.RUNNING
    assert not evict(store).written
    store.restart()
    evicted = store.job(key).run
    assert evicted is not None
    assert evicted.evicted


@pytest.mark.parametrize(("attempts", "state"), [(1, JobState.FAILED), (2, JobState.RUNNABLE)])
def test_an_evicted_attempt_ends_as_if_its_host_were_gone(store: Store, attempts: int, state: JobState) -> None:
    key = store.submit(attempts=attempts)
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=1)
    drain(store)
    evict(store)
    store.report(key, run, RunState.DONE, started_ago_ms=2, end=RunEnd.STOPPED, exit_code=143)
    assert store.job(key).state is state
    (attempt,) = store.reader.describe([key])[0].attempts
    assert (attempt.status_reason, attempt.exit_code) == (DRAINED, 143)


@pytest.mark.parametrize(
    ("action", "state"), [(RetryAction.EXIT, JobState.FAILED), (RetryAction.RETRY, JobState.RUNNABLE)]
)
def test_rules_for_lost_hosts_match_an_eviction(store: Store, action: RetryAction, state: JobState) -> None:
    other = RetryAction.EXIT if action is RetryAction.RETRY else RetryAction.RETRY
    rules = (ExitRule(action, on_status_reason="Host EC2*"), ExitRule(other, on_exit_code="*"))
    job = replace(a_job(attempts=2), exit_rules=rules)
    store.do(lambda group: group.submit(Submission(job, b"spec", ())))
    run = store.offer(job.key)
    store.report(job.key, run, RunState.STARTED, started_ago_ms=1)
    drain(store)
    evict(store)
    store.report(job.key, run, RunState.DONE, started_ago_ms=2, end=RunEnd.STOPPED, exit_code=143)
    assert store.job(job.key).state is state


def test_a_run_that_ends_by_itself_while_it_is_evicted_has_its_own_end(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=1)
    drain(store)
    evict(store)
    store.report(key, run, RunState.DONE, started_ago_ms=2, end=RunEnd.EXITED, exit_code=0)
    assert store.job(key).state is JobState.SUCCEEDED


def test_the_reason_of_a_terminate_stands_above_that_of_an_eviction(store: Store) -> None:
    key = store.submit(attempts=2)
    run = store.offer(key)
    store.report(key, run, RunState.STARTED, started_ago_ms=1)
    drain(store)
    evict(store)
    store.do(lambda group: group.terminate(key, "enough"))
    store.report(key, run, RunState.DONE, started_ago_ms=2, end=RunEnd.STOPPED)
    assert (store.job(key).state, store.job(key).status_reason) == (JobState.FAILED, "enough")


def test_an_evicted_offer_that_was_never_begun_is_placed_again_and_is_no_attempt(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    drain(store)
    evict(store)
    committed = store.report(key, run, RunState.REVOKED)
    job = store.job(key)
    assert (job.state, job.attempts_made, job.unstarted_losses) == (JobState.RUNNABLE, 0, 0)
    assert [queued.key for queued in store.queued(committed)] == [key]


def test_an_agent_that_was_resumed_in_the_meantime_keeps_its_runs(store: Store) -> None:
    key = store.submit()
    store.offer(key)
    drain(store, limit_ms=0)
    resume(store)
    assert evict(store).effects.demands == []
    assert store.writer.agent(AGENT) == AgentRecord(AGENT, 1, live=True)
