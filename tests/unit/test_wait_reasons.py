from dataclasses import replace

import pytest

from batchyard.domain.jobs import Job
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore.reasons import NO_SCHEDULER, TimeLimit, WaitReasons, overdue
from batchyard.storage.listings import LineKey
from support.jobs import NAMESPACE, Store, a_job, a_run

LINE = LineKey(NAMESPACE, "queue", 1000, 128, 0)


def led() -> WaitReasons:
    """Return reasons that a scheduler tells."""
    reasons = WaitReasons()
    reasons.begin()
    return reasons


def shown(reasons: WaitReasons, job: Job | None = None) -> str | None:
    job = job or a_waiting_job()
    reasons.explain(job)
    return job.status_reason


def a_waiting_job() -> Job:
    return replace(a_job(), state=JobState.RUNNABLE)


def test_every_job_of_a_line_shows_its_reason_until_it_is_taken_back() -> None:
    reasons = led()
    reasons.tell(LINE, "Waiting for room.", 1)
    assert shown(reasons) == "Waiting for room."
    reasons.tell(LINE, "MISCONFIGURATION:X - no", 2)
    assert shown(reasons, replace(a_waiting_job(), status_reason="of its last attempt")) == "MISCONFIGURATION:X - no"
    reasons.tell(LINE, "", 3)
    assert shown(reasons) is None


@pytest.mark.parametrize(
    "job",
    [
        replace(a_waiting_job(), state=JobState.PENDING),
        replace(a_waiting_job(), state=JobState.SUCCEEDED),
        replace(a_waiting_job(), run=a_run()),
        replace(a_waiting_job(), vcpus_milli=2000),
        replace(a_waiting_job(), memory_mib=1),
        replace(a_waiting_job(), gpus=1),
        replace(a_waiting_job(), job_queue="other"),
        replace(a_job(namespace="210987654321"), state=JobState.RUNNABLE),
    ],
)
def test_no_other_job_shows_it(job: Job) -> None:
    reasons = led()
    reasons.tell(LINE, "Waiting for room.", 1)
    assert shown(reasons, job) is None


def test_while_no_scheduler_is_there_that_is_the_reason() -> None:
    reasons = WaitReasons()
    assert shown(reasons) == NO_SCHEDULER
    first = reasons.begin()
    assert shown(reasons) is None
    second = reasons.begin()
    reasons.end(first)
    assert shown(reasons) is None
    reasons.end(second)
    assert shown(reasons) == NO_SCHEDULER
    assert shown(reasons, replace(a_waiting_job(), state=JobState.PENDING)) is None


def test_how_long_it_has_been_so_is_counted_by_code_and_over_schedulers() -> None:
    reasons = led()
    reasons.tell(LINE, "CAPACITY:A - needs 1", 1)
    reasons.tell(LINE, "CAPACITY:A - needs 2", 5)
    assert (reasons.lines[LINE].since_s, reasons.lines[LINE].code) == (1, "CAPACITY:A")
    reasons.begin()
    assert shown(reasons) is None
    reasons.tell(LINE, "CAPACITY:A - needs 3", 7)
    assert reasons.lines[LINE].since_s == 1
    reasons.tell(LINE, "CAPACITY:B", 9)
    assert reasons.lines[LINE].since_s == 9
    reasons.tell(LINE, "", 10)
    reasons.tell(LINE, "CAPACITY:B", 11)
    assert reasons.lines[LINE].since_s == 11


@pytest.mark.parametrize(
    ("limits", "now_s", "expected"),
    [
        ([TimeLimit("CAPACITY:A", 600)], 700, [LINE]),
        ([TimeLimit("CAPACITY:A", 600)], 699, []),
        ([TimeLimit("CAPACITY:B", 600)], 700, []),
        ([TimeLimit("CAPACITY:B", 600), TimeLimit("CAPACITY:A", 600)], 700, [LINE]),
        ([], 10_000, []),
    ],
)
def test_a_line_is_overdue_when_it_has_waited_as_long_as_its_queue_lets_it(
    limits: list[TimeLimit], now_s: float, expected: list[LineKey]
) -> None:
    reasons = led()
    reasons.tell(LINE, "CAPACITY:A - no host", 100)
    reasons.tell(LINE._replace(job_queue="other"), "CAPACITY:A - no host", 100)
    found = overdue(reasons.lines, lambda queue: limits if queue.name == "queue" else (), now_s)
    assert [line for line, _ in found] == expected


def test_only_jobs_that_have_waited_long_enough_themselves_are_found_and_end() -> None:
    store = Store()
    old, large, offered = store.submit("old"), store.submit("large"), store.submit("offered")
    store.connection.execute("UPDATE jobs SET vcpus_milli = 2000 WHERE job_id = 'large'")
    store.register()
    store.offer(offered)
    store.now += 1
    young = store.submit("young")
    assert store.reader.waiting(LINE, store.now, 10) == [old, young]
    assert store.reader.waiting(LINE, store.now, 1) == [old]
    assert store.reader.waiting(LINE, store.now - 1, 10) == [old]
    result = store.group(lambda group: group.expire(old, "too long"), lambda group: group.expire(offered, "too long"))
    assert list(result.committed.effects.withdrawn) == [old]
    job = store.job(old)
    assert (job.state, job.status_reason, job.cancelled) == (JobState.FAILED, "too long", True)
    assert [store.job(key).state for key in (large, offered, young)] == [JobState.RUNNABLE] * 3
