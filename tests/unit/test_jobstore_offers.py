"""What an offer rests on, re-checked in the transaction that makes it."""

from contextlib import closing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from batchyard.domain.errors import SupersededError
from batchyard.domain.jobs import JobKey
from batchyard.domain.lifecycle import JobState, RunState
from batchyard.jobstore.group import Group
from batchyard.jobstore.memory import Memory
from batchyard.jobstore.offers import Cause, Proposal, Refusal, refused_for_job
from batchyard.storage.jobs import Changes, EnvironmentCopy, EnvironmentKey, StorageError
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.jobs import SqliteJobWriter
from batchyard.storage.sqlite.migrations import migrate
from support.jobs import AGENT, ENVIRONMENT, NAMESPACE, QUEUE, Store, a_job, a_key


def a_proposal(store: Store, key: JobKey, environment: str = "environment") -> Proposal:
    return Proposal(key, store.job(key).version, AGENT, 1, environment)


def propose(store: Store, key: JobKey, environment: str = "environment") -> Refusal | None:
    """Propose to run a job; return why not, and check that a refused job is to be placed again."""
    committed = store.do(lambda group: group.offer(a_proposal(store, key, environment)))
    (outcome,) = committed.effects.offers
    assert (outcome.refusal is None) == (store.job(key).run is not None)
    assert [queued.key for queued in store.queued(committed)] == ([key] if outcome.refusal else [])
    return outcome.refusal


def put_environment(store: Store, revision: int = 2, **changes: object) -> None:
    environment = replace(ENVIRONMENT, revision=revision, **changes)  # type: ignore[arg-type]  # its own members
    store.do(lambda group: group.settle([], [environment]))


def put_ceiling(store: Store, vcpus: int, revision: int = 2) -> None:
    put_environment(store, revision, max_vcpus_milli=vcpus * 1000)


def test_a_queue_must_lead_to_the_environment(store: Store) -> None:
    other = EnvironmentCopy(EnvironmentKey(NAMESPACE, "other"), usable=True, max_vcpus_milli=None, revision=1)
    store.do(lambda group: group.settle([], [other]))
    key = store.submit()
    assert propose(store, key, "other") == Refusal(
        Cause.ENVIRONMENT, "job queue queue does not lead to compute environment other"
    )
    store.do(lambda group: group.settle([replace(QUEUE, environments=("environment", "other"), revision=2)]))
    assert propose(store, key, "other") is None


def test_a_queue_that_goes_away_places_nothing(store: Store) -> None:
    key = store.submit()
    store.connection.execute("UPDATE queues SET gone = 1")  # no command does this while it has unfinished jobs
    store.core.memory = Memory()
    assert propose(store, key) == Refusal(Cause.ENVIRONMENT, "job queue queue does not exist")


def test_a_closed_queue_goes_on_placing_what_it_holds(store: Store) -> None:
    key = store.submit()
    store.do(lambda group: group.settle([replace(QUEUE, open=False, revision=2)]))
    assert propose(store, key) is None


def test_an_environment_that_the_store_has_not_heard_of_takes_nothing(store: Store) -> None:
    store.do(lambda group: group.settle([replace(QUEUE, environments=("new",), revision=2)]))
    refusal = propose(store, store.submit(), "new")
    assert refusal == Refusal(Cause.ENVIRONMENT, "compute environment new is not known to the job store yet")


def test_an_environment_that_is_not_usable_takes_nothing_until_it_is(store: Store) -> None:
    key = store.submit()
    put_environment(store, usable=False)
    assert propose(store, key) == Refusal(Cause.ENVIRONMENT, "compute environment environment is not ENABLED and VALID")
    put_environment(store, 3, usable=True)
    assert propose(store, key) is None


def test_old_news_of_an_environment_changes_nothing(store: Store) -> None:
    put_environment(store, 5, usable=False)
    put_environment(store, 4, usable=True)
    assert propose(store, store.submit()) is not None


def test_what_is_offered_and_not_claimed_counts_below_the_ceiling(store: Store) -> None:
    put_ceiling(store, 2)
    keys = [store.submit(f"job-{number}") for number in range(3)]
    assert [propose(store, key) for key in keys[:2]] == [None, None]
    assert propose(store, keys[2]) == Refusal(Cause.ENVIRONMENT, "compute environment environment is at its maxvCpus")


def test_proposals_of_one_group_do_not_pass_the_ceiling_together(store: Store) -> None:
    put_ceiling(store, 2)
    keys = [store.submit(f"job-{number}") for number in range(3)]
    proposals = [a_proposal(store, key) for key in keys]
    result = store.group(*(lambda group, proposal=proposal: group.offer(proposal) for proposal in proposals))
    refusals = {outcome.key: outcome.refusal for outcome in result.committed.effects.offers}
    assert [refusals[key] is None for key in keys] == [True, True, False]
    assert sum(store.job(key).run is not None for key in keys) == 2


@pytest.mark.parametrize("state", [RunState.REVOKED, RunState.DONE])
def test_a_run_that_is_over_makes_room_below_the_ceiling(store: Store, state: RunState) -> None:
    put_ceiling(store, 1)
    first, second = store.submit("first"), store.submit("second")
    run = store.offer(first)
    assert propose(store, second) is not None
    store.report(first, run, state, started_ago_ms=1 if state is RunState.DONE else None, exit_code=0)
    assert propose(store, second) is None


def test_a_lowered_ceiling_lets_runs_go_on_and_new_ones_wait(store: Store) -> None:
    put_ceiling(store, 2)
    first, second = store.submit("first"), store.submit("second")
    run = store.offer(first)
    put_ceiling(store, 1, revision=3)
    assert store.job(first).run == run
    assert propose(store, second) is not None


def test_reservations_are_counted_anew_when_the_store_is_opened(store: Store) -> None:
    put_ceiling(store, 1)
    store.offer(store.submit("first"))
    store.restart()
    assert store.core.numbers.reserved_vcpus == {ENVIRONMENT.key: 1000}
    assert propose(store, store.submit("second")) is not None


def test_a_commit_that_fails_leaves_the_reservations_as_they_were(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.submit()

    def fail(writer: SqliteJobWriter, epoch: int, changes: Changes) -> int:
        raise StorageError("full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteJobWriter, "apply", fail)
        with pytest.raises(StorageError):
            store.do(lambda group: group.offer(a_proposal(store, key)))
    assert store.core.numbers.reserved_vcpus.get(ENVIRONMENT.key, 0) == 0


def test_a_drained_agent_is_offered_nothing(store: Store) -> None:
    key = store.submit()
    store.do(lambda group: group.drain(AGENT, draining=True, limit_ms=None, request=1))
    assert propose(store, key) == Refusal(Cause.AGENT, "the agent is drained")
    store.do(lambda group: group.drain(AGENT, draining=False, limit_ms=None, request=2))
    assert propose(store, key) is None


def test_a_job_that_waits_for_others_is_not_offered() -> None:
    job = replace(a_job(), state=JobState.RUNNABLE, dependencies_left=1)
    refusal = refused_for_job(job, Proposal(a_key(), 0, AGENT, 1, "environment"))
    assert refusal == Refusal(Cause.JOB, "the job waits for 1 others")


def test_what_a_scheduler_says_under_an_older_leader_epoch_has_no_effect(store: Store) -> None:
    key = store.submit()
    first: list[int] = []
    store.do(lambda group: first.append(group.lead("first")))
    second: list[int] = []
    store.do(lambda group: second.append(group.lead("second")))
    assert first < second

    def propose_under(epoch: int) -> None:
        proposal = a_proposal(store, key)
        store.do(lambda group: group.under(epoch, lambda led: led.offer(proposal)))

    with pytest.raises(SupersededError, match="leader epoch 1 is over; 2 leads"):
        propose_under(first[0])
    assert store.job(key).run is None
    propose_under(second[0])
    assert store.job(key).run is not None


def test_an_older_leader_loses_no_agents_either_after_a_restart_of_the_store(store: Store) -> None:
    store.do(lambda group: group.lead("first"))
    store.do(lambda group: group.lead("second"))
    store.restart()

    def lose(group: Group) -> object:
        return group.under(1, lambda led: led.lose_agent(AGENT, 1))

    with pytest.raises(SupersededError):
        store.do(lose)
    agent = store.writer.agent(AGENT)
    assert agent is not None
    assert agent.live


def test_queues_of_a_store_from_before_are_told_again_with_their_environments(tmp_path: Path) -> None:
    """What the store knew of a queue lacks the environments: the same news of it, told again, must count."""
    folder = files("batchyard.storage.sqlite") / "migrations" / "jobs"
    older = tmp_path / "migrations"
    older.mkdir()
    for script in folder.iterdir():
        if script.name < "0008":
            (older / script.name).write_text(script.read_text())
    with closing(connect(tmp_path / "jobs.db")) as connection:
        migrate(connection, older)
        connection.execute(
            "INSERT INTO queues (namespace, name, arn, open, gone, revision) VALUES (?, 'queue', 'arn', 1, 0, 1)",
            (NAMESPACE,),
        )
        store = Store(connection)  # which settles that queue at revision 1
        assert store.writer.queue(QUEUE.key) == QUEUE
        store.register()
        assert propose(store, store.submit()) is None
