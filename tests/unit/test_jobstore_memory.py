"""What the writer remembers between its groups: as true as the database, and out of reach of a group that fails."""

import pytest

from batchyard.domain.jobs import JobKey, RunReport, child_key
from batchyard.domain.lifecycle import JobState, RunState
from batchyard.jobstore import memory as memory_module
from batchyard.jobstore.core import CommandError
from batchyard.jobstore.group import Group
from batchyard.jobstore.offers import Proposal
from batchyard.storage.jobs import Removal
from support.jobs import AGENT, Store


def remembered(store: Store, key: JobKey) -> bool:
    return key in store.core.memory._jobs


def statements_for(store: Store, act: object) -> list[str]:
    """Return what SQLite is asked while a group does something."""
    asked: list[str] = []
    store.connection.set_trace_callback(asked.append)
    try:
        store.do(act)  # type: ignore[arg-type]
    finally:
        store.connection.set_trace_callback(None)
    return [text for text in asked if text.lstrip().startswith("SELECT")]


def test_a_run_of_a_child_is_followed_without_reading_a_job(store: Store) -> None:
    array = store.submit_array(size=3)
    key = child_key(array, 1)
    proposal = Proposal(key, 1, AGENT, 1, "environment")
    asked = statements_for(store, lambda group: group.offer(proposal))
    run = store.job(key).run
    assert run is not None
    started = RunReport(run.fence, key, RunState.STARTED, started_ago_ms=0)
    asked += statements_for(store, lambda group: group.report(AGENT, 1, started))
    assert not [text for text in asked if "FROM jobs" in text]
    assert store.job(key).state is JobState.RUNNING


def test_a_command_that_fails_half_way_leaves_no_trace_in_what_is_remembered(store: Store) -> None:
    key = store.submit()
    assert remembered(store, key)

    def fail(group: Group) -> None:
        job = group._job(key)
        assert job is not None
        job.state, job.version = JobState.FAILED, 99
        raise RuntimeError("a defect")

    (answer,) = store.group(fail).answers
    assert isinstance(answer, CommandError)
    assert store.offer(key).state is RunState.OFFERED


def test_children_change_only_with_a_commit(store: Store) -> None:
    array = store.submit_array(size=3)

    def fail(group: Group) -> None:
        group.cancel(array, "no")
        raise RuntimeError("a defect")

    store.group(fail)
    assert store.offer(child_key(array, 0)).state is RunState.OFFERED


def test_what_has_ended_is_not_remembered(store: Store) -> None:
    key = store.submit()
    store.run_to_end(key)
    assert not remembered(store, key)


def test_only_the_newest_are_remembered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "JOBS_MAX", 2)
    keys = [store.submit(f"job-{number}") for number in range(3)]
    assert [remembered(store, key) for key in keys] == [False, True, True]
    assert store.offer(keys[0]).state is RunState.OFFERED


def test_nothing_of_a_removal_is_remembered(store: Store) -> None:
    key = store.submit()
    store.do(lambda group: group.remove(lambda _: Removal(events_to=1)))
    assert not remembered(store, key)
    assert store.offer(key).state is RunState.OFFERED
