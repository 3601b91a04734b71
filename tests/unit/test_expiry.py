from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.jobs import JobKey, child_key
from batchyard.domain.lifecycle import JobState, RunState
from batchyard.jobstore import expiry
from batchyard.jobstore.expiry import Sweep, removable
from batchyard.jobstore.group import Group
from batchyard.storage.jobs import Dependency, FinishedJob, RequestKey
from support.jobs import AGENT, Store


def sweep(store: Store, *, before: int = 0, agents_before: int = 0, answers_before: int = 0) -> int:
    """Remove everything from before a time; return in how many steps."""
    steps = 0
    way = Sweep(jobs_before_ms=before, agents_before_ms=agents_before, answers_before_ms=answers_before)
    while not way.is_done:
        store.do(lambda group: group.remove(way.next_step))
        steps += 1
    return steps


def exists(store: Store, key: JobKey) -> bool:
    return bool(store.writer.jobs([key]))


def rows(store: Store, table: str) -> int:
    return int(store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_job_goes_when_its_time_is_over_and_not_before(store: Store) -> None:
    first, waiting = store.submit("first"), store.submit("waiting")
    store.run_to_end(first)
    store.now = 2000
    second = store.submit("second")
    store.run_to_end(second)
    sweep(store, before=1000)
    assert exists(store, first)
    sweep(store, before=2000)
    assert [exists(store, key) for key in (first, waiting, second)] == [False, True, True]
    assert (rows(store, "specs"), rows(store, "attempts")) == (2, 1)


def test_a_job_that_never_ran_goes_by_the_time_of_its_cancellation(store: Store) -> None:
    key = store.submit()
    store.now = 5000
    store.do(lambda group: group.cancel(key, "enough"))
    sweep(store, before=5000)
    assert exists(store, key)
    sweep(store, before=5001)
    assert not exists(store, key)


def test_a_job_stays_as_long_as_an_unfinished_one_depends_on_it(store: Store) -> None:
    done, other = store.submit("done"), store.submit("other")
    dependent = store.submit("dependent", after=("done", "other"))
    last = store.submit("last", after=("other",))
    store.run_to_end(done)
    sweep(store, before=9000)
    assert exists(store, done)
    store.run_to_end(other)
    store.now = 9000
    store.run_to_end(dependent)
    sweep(store, before=9000)
    assert [exists(store, key) for key in (done, other, dependent, last)] == [False, True, True, True]
    store.run_to_end(last)
    sweep(store, before=9001)
    assert not any(exists(store, key) for key in (done, other, dependent, last))
    assert rows(store, "dependencies") == 0


def test_what_goes_at_a_time_is_bounded_however_many_depend_on_a_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "DEPENDENCIES_A_STEP", 3)
    monkeypatch.setattr(expiry, "JOBS_A_STEP", 4)
    root = store.submit("root")
    dependents = [store.submit(f"dependent-{number}", after=("root",)) for number in range(10)]
    stays = store.submit("stays")
    store.do(lambda group: group.cancel(root, "enough"))
    assert sweep(store, before=9000) > 5
    assert not any(exists(store, key) for key in (root, *dependents))
    assert exists(store, stays)
    assert (rows(store, "dependencies"), rows(store, "jobs"), rows(store, "specs")) == (0, 1, 1)


def test_an_array_goes_with_its_children_and_neither_before_what_waits_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "JOBS_A_STEP", 3)
    jobs = []
    for number in range(3):
        jobs.append(store.submit(f"before-{number}"))
        store.run_to_end(jobs[-1])
        array = store.submit_array(f"array-{number}", 7)
        for index in range(7):
            store.run_to_end(child_key(array, index))
        jobs.append(array)
    waiting = store.submit_array("waiting", 7, paired_with=("array-0",))
    sweep(store, before=9000)
    assert [exists(store, key) for key in jobs] == [False, True, False, False, False, False]
    assert (rows(store, "jobs"), rows(store, "attempts"), rows(store, "arrays")) == (9, 7, 2)
    store.do(lambda group: group.cancel(waiting, "enough"))
    sweep(store, before=9000)
    tables = ("jobs", "specs", "attempts", "arrays", "pairings", "dependencies")
    assert [rows(store, table) for table in tables] == [0] * len(tables)
    store.restart()
    assert store.job(store.submit("next")).sequence == 3 * 9 + 8 + 1


def test_children_of_an_array_that_goes_on_stay_however_long_ago_they_ended(store: Store) -> None:
    array = store.submit_array("array", 3)
    store.run_to_end(child_key(array, 0))
    sweep(store, before=9000)
    assert exists(store, child_key(array, 0))


def test_events_go_before_the_jobs_that_they_are_about(store: Store) -> None:
    key = store.submit()
    store.run_to_end(key)
    way = Sweep(jobs_before_ms=9000, agents_before_ms=0, answers_before_ms=0)
    while exists(store, key):
        events = rows(store, "events")
        store.do(lambda group: group.remove(way.next_step))
    assert events == 0


def test_numbers_are_not_given_again_after_everything_has_gone(store: Store) -> None:
    key = store.submit()
    sequence = store.job(key).sequence
    store.run_to_end(key)
    sweep(store, before=9000)
    store.restart()
    assert store.job(store.submit("next")).sequence == sequence + 1


def test_answers_to_requests_go_by_a_time_of_their_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "ANSWERS_A_STEP", 2)
    for number in range(5):
        store.now = 1000 + number
        key = RequestKey(bytes([number]))
        store.do(partial(Group.keep_answer, key=key, answer=b"answer"))
    sweep(store, before=9000, answers_before=1004)
    assert [store.reader.answer(RequestKey(bytes([number]))) for number in range(5)] == [*[None] * 4, b"answer"]


def test_an_agent_goes_when_it_was_given_up_long_ago(store: Store) -> None:
    store.now = 3000
    store.do(lambda group: group.lose_agent(AGENT, 1))
    sweep(store, before=0, agents_before=3000)
    assert store.writer.agent(AGENT) is not None
    sweep(store, before=0, agents_before=3001)
    assert store.writer.agent(AGENT) is None
    # It may come back, as one that nothing is known of.
    assert store.register(incarnation=1).effects.registered[0].accepted


def test_a_live_agent_and_one_with_a_run_stay(store: Store) -> None:
    key = store.submit()
    run = store.offer(key)
    store.report(key, run, RunState.STARTED)
    sweep(store, before=9000, agents_before=9000)
    assert store.writer.agent(AGENT) is not None


def test_a_finished_job_that_was_described_is_told_to_have_gone(store: Store) -> None:
    key = store.submit()
    store.run_to_end(key)
    sweep(store, before=9000)
    assert store.reader.describe([key]) == []
    assert store.do(lambda group: group.terminate(key, "late")).changes == []


@given(
    st.lists(st.lists(st.booleans(), max_size=6), max_size=6),
    st.integers(min_value=1, max_value=8),
)
def test_every_job_is_dealt_with_whatever_the_bound_on_dependencies(dependents: list[list[bool]], limit: int) -> None:
    finished = [FinishedJob(number, number) for number in range(len(dependents))]
    left = [
        Dependency(job, job, 100 * job + number, waiting)
        for job, waits in enumerate(dependents)
        for number, waiting in enumerate(waits)
    ]
    position, gone, steps = 0, set(), 0
    while position < len(finished):
        rest = finished[position:]
        edges = [edge for edge in left if edge.depends_on >= position][:limit]
        removal, passed = removable(rest, edges, is_cut=len(edges) == limit)
        assert len(removal.dependencies) <= limit
        assert passed or removal.dependencies
        removed = set(removal.dependencies)
        left = [edge for edge in left if (edge.depends_on, edge.dependent) not in removed]
        gone |= set(removal.jobs)
        position += passed
        steps += 1
    assert gone == {job for job, waits in enumerate(dependents) if not any(waits)}
    assert all(edge.depends_on not in gone for edge in left)


def test_a_job_is_stored_with_the_time_of_its_end(store: Store) -> None:
    key = store.submit()
    assert store.job(key).ended_at is None
    store.now = 4000
    store.run_to_end(key)
    assert (store.job(key).state, store.job(key).ended_at) == (JobState.SUCCEEDED, 4000)
