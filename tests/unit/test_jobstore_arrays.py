import itertools
from collections.abc import Sequence
from functools import partial

import pytest

from batchyard.domain.arrays import each, from_bytes
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.jobs import AgentId, JobKey, RunReport, child_key
from batchyard.domain.lifecycle import TERMINAL, JobState, RunEnd, RunState
from batchyard.jobstore.effects import Committed
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.offers import Cause, Proposal, Refusal
from batchyard.storage.listings import LineKey
from support.jobs import AGENT, NAMESPACE, QUEUE, Store, a_job, a_key

PENDING, RUNNABLE, SUCCEEDED, FAILED = JobState.PENDING, JobState.RUNNABLE, JobState.SUCCEEDED, JobState.FAILED


def rows(store: Store, table: str = "jobs") -> int:
    return int(store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def children(array: JobKey, size: int = 3) -> list[JobKey]:
    return [child_key(array, index) for index in range(size)]


def queued(committed: Committed) -> dict[str, list[int]]:
    """Return the indices that a commit gives to the scheduler, by array."""
    return {key.job_id: list(each(entry.indices)) for key, entry in committed.effects.children.items()}


def run(store: Store, *keys: JobKey, exit_code: int = 0) -> Committed:
    for key in keys:
        committed = store.run_to_end(key, exit_code=exit_code)
    return committed


def stop(store: Store, key: JobKey, reason: str, *, cancel: bool = True) -> Committed:
    act = Group.cancel if cancel else Group.terminate
    return store.do(lambda group: act(group, key, reason))


# What an array costs


def test_an_array_of_ten_thousand_is_one_row_and_its_children_can_be_described(store: Store) -> None:
    submission = Submission(a_job("array"), b"spec", (), array_size=10_000)
    committed = store.do(lambda group: group.submit(submission))
    assert (rows(store), rows(store, "specs"), rows(store, "arrays")) == (1, 1, 1)
    assert queued(committed) == {"array": list(range(10_000))}
    assert [(change.state, change.children is None) for change in committed.changes] == [
        (PENDING, True),
        (RUNNABLE, False),
    ]
    last = store.seen(a_key("array:9999"))
    assert (last.state, last.index, last.created_at, last.status_reason) == (RUNNABLE, 9999, 1000, None)
    assert (
        store.reader.jobs_at([a_key("array:10000"), a_key("array:-1"), a_key("array:00"), a_key("nobody:0")])[1] == []
    )


def test_the_next_job_stands_behind_all_children_even_after_a_restart(store: Store) -> None:
    array = store.submit_array(size=5)
    assert [store.seen(child).sequence for child in children(array, 5)] == [2, 3, 4, 5, 6]
    store.restart()
    assert store.job(store.submit("next")).sequence == 7
    run(store, child_key(array, 0))
    store.submit_array("second", 5)
    store.offer(a_key("second:3"))
    store.restart()
    assert store.job(store.submit("last")).sequence == 14


# Children run


def test_a_child_gets_a_row_when_it_is_offered_and_shares_its_arrays_spec(store: Store) -> None:
    array = store.submit_array(attempts=2)
    proposal = Proposal(child_key(array, 1), store.seen(child_key(array, 1)).version, AGENT, 1, "environment")
    committed = store.do(lambda group: group.offer(proposal))
    (outcome,) = committed.effects.offers
    assert (outcome.spec, outcome.refusal) == (b"spec of array", None)
    assert rows(store) == 2
    child = store.job(child_key(array, 1))
    assert (child.state, child.run, child.attempts_allowed) == (RUNNABLE, outcome.job and outcome.job.run, 2)
    assert store.states(array) == [RUNNABLE] * 3


def test_a_refused_child_stays_without_a_row_and_is_given_to_the_scheduler_again(store: Store) -> None:
    array = store.submit_array()
    stranger = Proposal(child_key(array, 2), 1, AgentId("stranger"), 1, "environment")
    committed = store.do(lambda group: group.offer(stranger))
    assert committed.effects.offers[0].refusal is not None
    assert queued(committed) == {"array": [2]}
    assert rows(store) == 1


def test_a_child_that_has_been_offered_is_not_offered_again(store: Store) -> None:
    array = store.submit_array()
    key = child_key(array, 0)
    store.offer(key)
    committed = store.do(lambda group: group.offer(Proposal(key, 1, AGENT, 1, "environment")))
    assert committed.effects.offers[0].refusal == Refusal(Cause.JOB, "the job has changed")


def test_an_array_is_pending_until_its_last_child_has_ended_and_then_succeeds(store: Store) -> None:
    array = store.submit_array()
    for child in children(array):
        assert (store.job(array).state, store.job(array).started_at) == (PENDING, None)
        store.now += 10
        committed = run(store, child)
    job = store.job(array)
    assert (job.state, job.status_reason, job.stopped_at) == (SUCCEEDED, None, 1030)
    assert store.states(array) == [SUCCEEDED] * 3
    assert committed.changes[-1].key == array


def test_a_failing_child_neither_stops_its_siblings_nor_ends_the_array_early(store: Store) -> None:
    array = store.submit_array()
    run(store, child_key(array, 1), exit_code=3)
    assert store.job(array).state is PENDING
    run(store, child_key(array, 0), child_key(array, 2))
    job = store.job(array)
    assert (job.state, job.status_reason) == (FAILED, "Array Child Job failed")
    assert store.states(array) == [SUCCEEDED, FAILED, SUCCEEDED]


def test_each_child_has_its_own_attempts_and_keeps_its_place(store: Store) -> None:
    array = store.submit_array(attempts=2)
    first, second, _ = children(array)
    committed = run(store, first, exit_code=1)
    assert [(entry.key, entry.sequence) for entry in store.queued(committed)] == [(first, 2)]
    assert store.states(array) == [RUNNABLE] * 3
    run(store, first, exit_code=1)
    run(store, second)
    assert store.states(array) == [FAILED, SUCCEEDED, RUNNABLE]
    assert [len(record.attempts) for record in store.reader.describe(children(array))] == [2, 1, 0]


def test_a_lost_child_runs_again(store: Store) -> None:
    array = store.submit_array(attempts=2)
    child = child_key(array, 0)
    store.report(child, store.offer(child), RunState.STARTED, started_ago_ms=0)
    assert store.states(array)[0] is JobState.RUNNING
    store.do(lambda group: group.lose_agent(AGENT, 1))
    assert store.states(array)[0] is RUNNABLE


# Dependencies


def test_an_array_waits_with_all_its_children_for_what_it_depends_on(store: Store) -> None:
    first = store.submit("first")
    array = store.submit_array(after=("first",))
    assert store.states(array) == [PENDING] * 3
    assert (
        store.do(lambda group: group.offer(Proposal(child_key(array, 0), 1, AGENT, 1, "e"))).effects.offers[0].refusal
        is not None
    )
    store.now = 2000
    committed = run(store, first)
    assert queued(committed) == {"array": [0, 1, 2]}
    assert (store.job(array).state, store.states(array)) == (PENDING, [RUNNABLE] * 3)
    assert (store.job(array).created_at, store.seen(child_key(array, 0)).created_at) == (1000, 2000)


def test_an_array_fails_with_all_its_children_when_what_it_depends_on_has_failed(store: Store) -> None:
    first = store.submit("first")
    array = store.submit_array(after=("first",))
    after_child = store.submit("after-child", after=("array:1",))
    run(store, first, exit_code=1)
    for key in (array, after_child, *children(array)):
        job = store.seen(key)
        assert (job.state, job.status_reason, job.stopped_at) == (FAILED, "Dependent Job failed", None)
    assert rows(store) == 3


@pytest.mark.parametrize("exit_code", [0, 1])
def test_what_an_array_depends_on_may_end_in_one_commit(store: Store, exit_code: int) -> None:
    first, second = store.submit("first"), store.submit("second")
    array = store.submit_array(after=("first", "second"))
    ends = [RunReport(store.offer(key).fence, key, RunState.DONE, 3, 2, exit_code=exit_code) for key in (first, second)]
    store.group(*(partial(Group.report, agent_id=AGENT, incarnation=1, report=end) for end in ends))
    assert store.states(array) == [RUNNABLE if exit_code == 0 else FAILED] * 3


def test_a_job_waits_for_the_end_of_an_array_or_for_a_single_child(store: Store) -> None:
    array = store.submit_array()
    whole, single = store.submit("whole", after=("array",)), store.submit("single", after=("array:1",))
    run(store, child_key(array, 1))
    assert (store.job(whole).state, store.job(single).state) == (PENDING, RUNNABLE)
    run(store, child_key(array, 0), child_key(array, 2))
    assert store.job(whole).state is RUNNABLE


def test_a_job_that_waits_for_an_array_of_which_a_child_failed_fails_when_the_array_ends(store: Store) -> None:
    array = store.submit_array(size=2)
    whole = store.submit("whole", after=("array",))
    run(store, child_key(array, 0), exit_code=1)
    assert store.job(whole).state is PENDING
    run(store, child_key(array, 1))
    assert (store.job(whole).state, store.job(whole).status_reason) == (FAILED, "Dependent Job failed")


def test_dependencies_on_what_has_ended_count_at_once(store: Store) -> None:
    array = store.submit_array(size=2)
    run(store, child_key(array, 0))
    run(store, child_key(array, 1), exit_code=1)
    assert store.job(store.submit("good", after=("array:0",))).state is RUNNABLE
    assert store.job(store.submit("bad", after=("array:1",))).state is FAILED
    paired = store.submit_array("paired", 2, paired_with=("array",))
    assert store.states(paired) == [RUNNABLE, FAILED]


def test_paired_children_follow_each_other(store: Store) -> None:
    first = store.submit_array("first")
    second = store.submit_array("second", paired_with=("first",))
    assert (store.states(second), rows(store)) == ([PENDING] * 3, 2)
    committed = run(store, child_key(first, 1))
    assert queued(committed) == {"second": [1]}
    run(store, child_key(first, 2), exit_code=1)
    assert store.states(second) == [PENDING, RUNNABLE, FAILED]
    assert store.seen(child_key(second, 2)).status_reason == "Dependent Job failed"
    run(store, child_key(second, 1), child_key(first, 0), child_key(second, 0))
    assert (store.job(second).state, store.job(second).status_reason) == (FAILED, "Array Child Job failed")


def test_a_failure_passes_down_a_chain_of_paired_arrays_in_one_commit(store: Store) -> None:
    names = ["array-0", *(f"array-{number}" for number in range(1, 6))]
    keys = [store.submit_array(names[0])]
    keys += [store.submit_array(name, paired_with=(before,)) for before, name in itertools.pairwise(names)]
    after_last = store.submit("after", after=(f"{names[-1]}:1",))
    committed = run(store, child_key(keys[0], 1), exit_code=1)
    assert all(store.states(key)[1] is FAILED for key in keys)
    assert store.job(after_last).state is FAILED
    failed = [change.key for change in committed.changes if change.children is not None]
    assert failed == keys[1:]


def test_a_paired_child_waits_for_all_that_it_is_paired_with_and_for_its_arrays_own_dependencies(store: Store) -> None:
    job = store.submit("job")
    first, second = store.submit_array("first", 2), store.submit_array("second", 2)
    both = store.submit_array("both", 2, after=("job",), paired_with=("first", "second"))
    run(store, child_key(first, 0), child_key(second, 0), child_key(first, 1))
    assert store.states(both) == [PENDING, PENDING]
    run(store, job)
    assert store.states(both) == [RUNNABLE, PENDING]
    run(store, child_key(second, 1))
    assert store.states(both) == [RUNNABLE, RUNNABLE]


def test_sequential_children_run_one_after_the_other(store: Store) -> None:
    array = store.submit_array(sequential=True)
    for index, child in enumerate(children(array)):
        assert store.states(array) == [*[SUCCEEDED] * index, RUNNABLE, *[PENDING] * (2 - index)]
        run(store, child)
    assert store.job(array).state is SUCCEEDED


def test_a_failed_sequential_child_fails_all_later_ones(store: Store) -> None:
    array = store.submit_array(size=1000, sequential=True)
    run(store, child_key(array, 0))
    committed = run(store, child_key(array, 1), exit_code=1)
    assert store.states(array) == [SUCCEEDED, *[FAILED] * 999]
    assert store.seen(child_key(array, 999)).status_reason == "Dependent Job failed"
    assert (store.job(array).state, rows(store)) == (FAILED, 3)
    told = [list(each(from_bytes(change.children))) for change in committed.changes if change.children is not None]
    assert told == [list(range(2, 1000))]


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [("job", 3, "no children"), ("array", 4, "has 3, this one 4"), ("nobody", 3, "Job nobody does not exist")],
)
def test_only_arrays_of_the_same_size_are_paired(store: Store, name: str, size: int, text: str) -> None:
    store.submit("job")
    store.submit_array("array")
    with pytest.raises(InvalidRequestError, match=text):
        store.submit_array("other", size, paired_with=(name,))
    assert rows(store) == 2


# Cancelling and terminating


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_array_of_which_nothing_runs_ends_at_once_with_all_its_children(store: Store, is_cancelled: bool) -> None:
    array = store.submit_array(size=10_000)
    committed = stop(store, array, "enough", cancel=is_cancelled)
    assert (rows(store), list(committed.effects.withdrawn)) == (1, [array])
    for key in (array, child_key(array, 0), child_key(array, 9999)):
        job = store.seen(key)
        assert (job.state, job.status_reason) == (FAILED, "enough")
        assert (job.cancelled, job.terminated, job.stopped_at) == (is_cancelled, not is_cancelled, None)


def test_cancelling_an_array_leaves_the_children_alone_that_run(store: Store) -> None:
    array = store.submit_array(size=4)
    running, returned = child_key(array, 0), child_key(array, 1)
    run_of = store.offer(running)
    store.report(running, run_of, RunState.STARTED, started_ago_ms=0)
    store.report(returned, store.offer(returned), RunState.REVOKED)
    stop(store, array, "enough")
    assert store.states(array) == [JobState.RUNNING, FAILED, FAILED, FAILED]
    assert (store.job(array).state, store.job(array).cancelled) == (PENDING, True)
    store.report(running, run_of, RunState.DONE, started_ago_ms=9, ended_ago_ms=1, exit_code=0)
    job = store.job(array)
    assert (job.state, job.status_reason, job.stopped_at) == (FAILED, "enough", 1000)
    assert not store.job(running).cancelled


def test_cancelling_an_array_of_which_every_child_runs_has_no_effect(store: Store) -> None:
    array = store.submit_array(size=2)
    runs = {child: store.offer(child) for child in children(array, 2)}
    for child, run_of in runs.items():
        store.report(child, run_of, RunState.CLAIMED)
    stop(store, array, "enough")
    for child, run_of in runs.items():
        store.report(child, run_of, RunState.DONE, started_ago_ms=9, ended_ago_ms=1, exit_code=0)
    job = store.job(array)
    assert (job.state, job.cancelled, job.status_reason) == (SUCCEEDED, False, None)


def test_the_answer_to_a_cancel_waits_for_the_agents_of_all_children_that_are_offered(store: Store) -> None:
    array = store.submit_array()
    first, second, _ = children(array)
    runs = [store.offer(first), store.offer(second)]
    result = store.group(lambda group: group.cancel(array, "enough"))
    assert result.answers == [True]
    assert len(result.committed.effects.demands) == 2
    assert array not in result.committed.decided
    assert array not in store.report(first, runs[0], RunState.REVOKED).decided
    assert array in store.report(second, runs[1], RunState.CLAIMED).decided
    assert [state in TERMINAL for state in store.states(array)] == [True, False, True]
    store.report(second, runs[1], RunState.DONE, started_ago_ms=2, ended_ago_ms=1, exit_code=0)
    assert (store.job(array).state, store.job(array).cancelled) == (FAILED, True)


def test_terminating_an_array_ends_the_children_that_run_too(store: Store) -> None:
    array = store.submit_array(attempts=3)
    running = child_key(array, 0)
    run_of = store.offer(running)
    store.report(running, run_of, RunState.STARTED, started_ago_ms=0)
    committed = stop(store, array, "enough", cancel=False)
    assert [(demand.fence, demand.kill) for demand in committed.effects.demands] == [(run_of.fence, True)]
    assert store.states(array) == [JobState.RUNNING, FAILED, FAILED]
    store.report(running, run_of, RunState.DONE, started_ago_ms=9, ended_ago_ms=1, exit_code=143, end=RunEnd.STOPPED)
    for key in (array, *children(array)):
        job = store.seen(key)
        assert (job.state, job.status_reason, job.terminated, job.cancelled) == (FAILED, "enough", True, False)


@pytest.mark.parametrize("cancel_was_lost", [True, False])
def test_children_that_a_cancel_left_alone_have_the_reason_of_the_terminate_that_ended_them(
    store: Store, cancel_was_lost: bool
) -> None:
    array = store.submit_array(size=2 if cancel_was_lost else 3)
    running = children(array, 2)
    runs = {child: store.offer(child) for child in running}
    if cancel_was_lost:
        stop(store, array, "cancelled")
    for child, run_of in runs.items():
        store.report(child, run_of, RunState.STARTED, started_ago_ms=0)
    if not cancel_was_lost:
        stop(store, array, "cancelled")
    stop(store, array, "terminated", cancel=False)
    stop(store, array, "once more", cancel=False)
    for child, run_of in runs.items():
        store.report(child, run_of, RunState.DONE, started_ago_ms=9, ended_ago_ms=1, exit_code=143, end=RunEnd.STOPPED)
    assert [store.seen(child).status_reason for child in running] == ["terminated"] * 2
    job = store.job(array)
    assert (job.status_reason, job.cancelled) == (("terminated", False) if cancel_was_lost else ("cancelled", True))


def test_stopping_again_changes_nothing_and_the_first_reason_stays(store: Store) -> None:
    array = store.submit_array()
    stop(store, array, "first")
    for cancel in (True, False):
        assert stop(store, array, "second", cancel=cancel).changes == []
    assert store.seen(child_key(array, 1)).status_reason == "first"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_single_child_can_be_stopped(store: Store, is_cancelled: bool) -> None:
    array = store.submit_array()
    middle = child_key(array, 1)
    committed = stop(store, middle, "not this one", cancel=is_cancelled)
    assert list(committed.effects.withdrawn) == [middle]
    assert store.states(array) == [RUNNABLE, FAILED, RUNNABLE]
    child = store.job(middle)
    assert (child.status_reason, child.cancelled, child.terminated) == ("not this one", is_cancelled, not is_cancelled)
    run(store, child_key(array, 0), child_key(array, 2))
    job = store.job(array)
    assert (job.state, job.status_reason, job.cancelled) == (FAILED, "Array Child Job failed", False)


def test_a_child_can_be_stopped_while_its_array_still_waits(store: Store) -> None:
    first = store.submit("first")
    array = store.submit_array(after=("first",))
    stop(store, child_key(array, 1), "not this one")
    assert store.states(array) == [PENDING, FAILED, PENDING]
    assert queued(run(store, first)) == {"array": [0, 2]}


def test_an_array_whose_children_were_all_stopped_ends_though_it_still_waits(store: Store) -> None:
    first = store.submit("first")
    array = store.submit_array(size=2, after=("first",))
    for child in children(array, 2):
        stop(store, child, "none of them")
    assert (store.job(array).state, store.job(array).status_reason) == (FAILED, "Array Child Job failed")
    assert run(store, first).effects.children == {}


def test_many_commands_of_one_group_see_each_other(store: Store) -> None:
    array = store.submit_array(size=4)
    offered = Proposal(child_key(array, 0), 1, AGENT, 1, "environment")
    result = store.group(
        lambda group: group.offer(offered),
        lambda group: group.cancel(child_key(array, 1), "one"),
        lambda group: group.cancel(array, "all"),
        lambda group: group.cancel(child_key(array, 2), "late"),
        lambda group: group.offer(offered),
    )
    assert result.answers[1:4] == [False, True, False]
    assert store.states(array) == [RUNNABLE, FAILED, FAILED, FAILED]
    assert [store.seen(child).status_reason for child in children(array, 4)] == [None, "one", "all", "all"]
    assert [outcome.refusal is None for outcome in result.committed.effects.offers] == [False, True]


# What others see


def test_a_snapshot_has_the_children_that_wait_in_one_entry_and_offered_ones_with_their_spec(store: Store) -> None:
    array = store.submit_array(size=5)
    store.submit_array("paired", 5, paired_with=("array",))
    store.offer(child_key(array, 0))
    run(store, child_key(array, 1), exit_code=1)
    pages = list(store.reader.snapshot(10).pages)
    assert [(job.key.job_id, spec) for page in pages for job, spec in page.runs] == [("array:0", b"spec of array")]
    (waiting,) = (array for page in pages for array in page.arrays)
    assert waiting.children is not None
    assert (waiting.key, list(each(waiting.children.runnable))) == (array, [2, 3, 4])
    assert [part for page in pages for part in page.lines] == []


def listed(store: Store, array: JobKey, state: JobState, after: int = -1, limit: int = 100) -> Sequence[int]:
    return [child.index for child in store.reader.children(array, state, after, limit)]


def test_children_are_listed_by_index_whether_they_have_rows_or_not(store: Store) -> None:
    array = store.submit_array(size=8, attempts=2)
    run(store, child_key(array, 3), child_key(array, 5))
    run(store, child_key(array, 4), exit_code=1)
    assert listed(store, array, RUNNABLE) == [0, 1, 2, 4, 6, 7]
    assert listed(store, array, RUNNABLE, after=1, limit=3) == [2, 4, 6]
    assert listed(store, array, RUNNABLE, after=6) == [7]
    assert listed(store, array, SUCCEEDED) == [3, 5]
    assert listed(store, child_key(array, 0), RUNNABLE) == listed(store, a_key("nobody"), RUNNABLE) == []


def test_a_queue_lists_and_names_find_arrays_only(store: Store) -> None:
    array = store.submit_array()
    run(store, child_key(array, 0))
    (job,) = store.reader.page(QUEUE.key, PENDING, None, 10)
    assert job.key == array
    assert store.reader.page(QUEUE.key, SUCCEEDED, None, 10) == []
    assert store.reader.newest_named(array.namespace, "name-of-array", "queue") == array
    assert store.writer.has_unfinished_jobs(QUEUE.key)


def test_the_front_of_a_queue_has_children_in_their_places(store: Store) -> None:
    store.submit("before")
    array = store.submit_array(size=4, attempts=2)
    store.submit("behind")
    run(store, child_key(array, 2), exit_code=1)
    store.offer(child_key(array, 0))
    front, _ = store.reader.front(QUEUE.key, 4)
    assert [job.key.job_id for job in front] == ["before", "array:1", "array:2", "array:3"]


def test_children_that_wait_for_too_long_are_found_one_by_one(store: Store) -> None:
    line = LineKey(NAMESPACE, "queue", 1000, 128, 0)
    array = store.submit_array(size=4, attempts=2)
    store.now = 2000
    run(store, child_key(array, 2), exit_code=1)
    store.submit_array("paired", 4, paired_with=("array",))
    run(store, child_key(array, 0))
    store.now = 3000
    run(store, child_key(array, 3))
    store.submit("late")
    assert [key.job_id for key in store.reader.waiting(line, 2000, 9)] == ["array:1", "array:2"]
    assert [key.job_id for key in store.reader.waiting(line, 3000, 9)] == [
        *("array:1", "array:2"),
        *("paired:0", "paired:3", "late"),
    ]
    store.do(lambda group: group.expire(child_key(array, 1), "too long"))
    assert store.states(array) == [SUCCEEDED, FAILED, RUNNABLE, SUCCEEDED]
