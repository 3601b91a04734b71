import pytest

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.faults import faults_of, parse_faults
from batchyard.domain.lifecycle import JobState, RunEnd
from batchyard.jobstore.group import Submission
from batchyard.jobstore.offers import Proposal
from support.jobs import AGENT, Store, a_job, a_key


def submit(store: Store, faults: str, *, attempts: int = 1) -> None:
    job = a_job(attempts=attempts)
    job.faults = faults
    store.do(lambda group: group.submit(Submission(job, b"spec", ())))


def offer(store: Store) -> list[JobState]:
    """Propose to run the job; return the states that it went through."""
    proposal = Proposal(a_key(), store.job(a_key()).version, AGENT, 1, "environment")
    committed = store.do(lambda group: group.offer(proposal))
    (outcome,) = committed.effects.offers
    assert outcome.job is None
    assert outcome.refusal is not None
    assert committed.effects.ended == []
    return [change.state for change in committed.changes]


@pytest.mark.parametrize(
    ("fault", "status_reason", "exit_code", "reason"),
    [
        ("exit=143", "Essential container in task exited", 143, None),
        (
            "oom",
            "Essential container in task exited",
            137,
            "OutOfMemoryError: Container killed due to memory usage",
        ),
        ("host-terminated", "Host EC2 (instance agent-1) terminated.", None, None),
        ("timeout", "Job attempt duration exceeded timeout", 137, None),
    ],
)
def test_an_attempt_fails_while_it_runs_as_the_tag_asks(
    store: Store, fault: str, status_reason: str, exit_code: int | None, reason: str | None
) -> None:
    submit(store, f"1:{fault}")
    assert offer(store) == [JobState.STARTING, JobState.RUNNING, JobState.FAILED]
    job = store.job(a_key())
    assert (job.status_reason, job.exit_code, job.reason) == (status_reason, exit_code, reason)
    assert (job.started_at, job.stopped_at, job.log_stream_name, job.run) == (1000, 1000, None, None)
    (attempt,) = store.reader.describe([a_key()])[0].attempts
    assert (attempt.status_reason, attempt.exit_code, attempt.log_stream_name) == (status_reason, exit_code, None)


@pytest.mark.parametrize(
    ("fault", "reason"), [("pull-error", "CannotPullContainerError: "), ("start-error", "CannotStartContainerError: ")]
)
def test_an_attempt_fails_to_start_as_the_tag_asks(store: Store, fault: str, reason: str) -> None:
    submit(store, f"1:{fault}")
    assert offer(store) == [JobState.STARTING, JobState.FAILED]
    job = store.job(a_key())
    assert (job.status_reason, job.exit_code) == ("Task failed to start", None)
    assert (job.reason or "").startswith(reason)
    assert (job.started_at, job.stopped_at) == (None, None)


def test_an_attempt_may_also_be_made_to_succeed(store: Store) -> None:
    submit(store, "1:exit=0")
    assert offer(store)[-1] is JobState.SUCCEEDED


def test_only_the_named_attempts_fail_and_the_others_run(store: Store) -> None:
    submit(store, "1:oom 3:exit=9", attempts=3)
    assert offer(store) == [JobState.STARTING, JobState.RUNNING, JobState.RUNNABLE]
    run = store.offer(a_key())
    store.do(lambda group: group.lose_agent(AGENT, run.incarnation))
    store.register(incarnation=2)
    assert store.job(a_key()).attempts_made == 2
    proposal = Proposal(a_key(), store.job(a_key()).version, AGENT, 2, "environment")
    store.do(lambda group: group.offer(proposal))
    assert (store.job(a_key()).state, store.job(a_key()).exit_code) == (JobState.FAILED, 9)


def test_a_retried_fault_gives_the_job_to_the_scheduler_again(store: Store) -> None:
    submit(store, "1:host-terminated", attempts=2)
    proposal = Proposal(a_key(), store.job(a_key()).version, AGENT, 1, "environment")
    committed = store.do(lambda group: group.offer(proposal))
    assert [queued.key for queued in store.queued(committed)] == [a_key()]


def test_faults_are_read_from_a_tag() -> None:
    faults = parse_faults(" 2:exit=143  1:host-terminated ")
    assert {number: (fault.end, fault.exit_code) for number, fault in faults.items()} == {
        1: (RunEnd.LOST, None),
        2: (RunEnd.EXITED, 143),
    }
    assert faults_of({"team": "a"}, enabled=False) is None
    assert faults_of({"batchyard:fault": "1:oom"}, enabled=True) == "1:oom"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("oom", "'oom' is not ATTEMPT:END"),
        ("1:oom,2:oom", "'1:oom,2:oom' is not ATTEMPT:END"),
        ("0:oom", "'0:oom' names attempt 0, there are 1 to 10"),
        ("11:oom", "'11:oom' names attempt 11"),
        ("1:oom 1:exit=3", "attempt 1 is named twice"),
        ("1:fire", "'1:fire' asks for an unknown end; known are exit=CODE, host-terminated, oom"),
        ("1:exit", "'1:exit' needs an exit code of 0 to 255, as in exit=143"),
        ("1:exit=256", "needs an exit code of 0 to 255"),
        ("1:oom=1", "'1:oom=1' has an exit code"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        faults_of({"batchyard:fault": text}, enabled=True)
    assert problem in caught.value.message
    assert caught.value.field == "tags"


def test_the_tag_is_refused_where_faults_are_off() -> None:
    with pytest.raises(InvalidRequestError, match="start it with --faults"):
        faults_of({"batchyard:fault": "1:oom"}, enabled=False)
