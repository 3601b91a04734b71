"""CancelJob and TerminateJob, as boto3 users see them."""

import secrets
from contextlib import suppress
from pathlib import Path

import pytest

from support.aws import Account, refused
from support.waiting import soon

pytestmark = pytest.mark.usefixtures("queue")

FOREVER = ["sleep", "600"]


def processes_that_mention(text: str) -> list[str]:
    """Return the command lines of this machine's processes that contain the text."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended in the meantime
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if text in line]


def test_a_job_that_waits_for_another_is_cancelled_with_the_callers_reason(account: Account) -> None:
    account.define()
    first = account.submit(FOREVER)
    second = account.submit(dependsOn=[{"jobId": first}])
    account.batch.cancel_job(jobId=second, reason="not needed any more")
    job = account.describe(second)
    assert (job["status"], job["statusReason"], job["isCancelled"]) == ("FAILED", "not needed any more", True)
    assert "startedAt" not in job
    account.batch.terminate_job(jobId=first, reason="done")
    account.wait(first)


def test_a_job_without_room_is_cancelled_and_never_starts(account: Account, tmp_path: Path) -> None:
    account.define()
    traces = tmp_path / "started"
    job_id = account.submit(["touch", str(traces)], containerOverrides={"vcpus": 1000})
    account.wait(job_id, "RUNNABLE")
    account.batch.cancel_job(jobId=job_id, reason="too big")
    assert account.describe(job_id)["status"] == "FAILED"
    assert not traces.exists()


def test_cancelling_a_running_job_does_nothing(account: Account) -> None:
    account.define()
    job_id = account.submit(["sleep", "0.5"])
    account.wait(job_id, "RUNNING")
    account.batch.cancel_job(jobId=job_id, reason="too late")
    job = account.wait(job_id)
    assert (job["status"], job["statusReason"]) == ("SUCCEEDED", "Essential container in task exited")


def test_terminating_a_running_job_ends_its_whole_process_tree(account: Account) -> None:
    account.define()
    duration = f"600.{secrets.randbits(64)}"
    script = f"sleep {duration} & setsid sleep {duration} & wait"
    job_id = account.submit(["sh", "-c", script], retryStrategy={"attempts": 3})
    soon(lambda: len(processes_that_mention(f"sleep {duration}")) >= 3, "the shell and both sleeps")
    account.batch.terminate_job(jobId=job_id, reason="enough")
    job = account.wait(job_id)
    assert (job["status"], job["statusReason"], job["isTerminated"]) == ("FAILED", "enough", True)
    assert job["container"]["exitCode"] in {137, 143}
    assert len(job["attempts"]) == 1
    assert processes_that_mention(duration) == []


def test_a_process_that_makes_a_good_end_after_sigterm_has_failed_all_the_same(account: Account) -> None:
    account.define()
    job_id = account.submit(["sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"])
    running = account.wait(job_id, "RUNNING")
    assert account.log_lines(running) == ["ready"]
    account.batch.terminate_job(jobId=job_id, reason="enough")
    job = account.wait(job_id)
    assert (job["status"], job["container"]["exitCode"]) == ("FAILED", 0)
    account.log_lines(job, lambda lines: lines[-1] == "bye")


def test_ending_a_finished_or_unknown_job_succeeds_and_changes_nothing(account: Account) -> None:
    account.define()
    job_id = account.submit()
    before = account.wait(job_id)
    for end in (account.batch.cancel_job, account.batch.terminate_job):
        end(jobId=job_id, reason="too late")
        end(jobId="00000000-0000-7000-8000-000000000000", reason="nobody")
    assert account.describe(job_id) == before


def test_several_ids_can_be_cancelled_in_one_call(account: Account) -> None:
    account.define()
    job_ids = [account.submit(containerOverrides={"vcpus": 1000}) for _ in range(3)]
    account.batch.cancel_job(jobId=", ".join(job_ids), reason="all of them")
    assert {account.describe(job_id)["statusReason"] for job_id in job_ids} == {"all of them"}


def test_a_list_of_jobs_is_ended_and_the_ids_come_back_as_given(account: Account) -> None:
    account.define()
    job_ids = [account.submit(containerOverrides={"vcpus": 1000}) for _ in range(3)]
    unknown = "00000000-0000-7000-8000-000000000000"
    answer = account.batch.cancel_jobs(jobs=[*job_ids[:2], unknown, job_ids[0]], reason="both")
    assert (answer["successful"], answer["errors"]) == ([*job_ids[:2], unknown], [])
    answer = account.batch.terminate_jobs(jobs=job_ids[2:], reason="the last")
    assert (answer["successful"], answer["errors"]) == (job_ids[2:], [])
    ends = [(job["statusReason"], job["isCancelled"], job["isTerminated"]) for job in map(account.describe, job_ids)]
    assert ends == [("both", True, False), ("both", True, False), ("the last", False, True)]


@pytest.mark.parametrize("name", ["cancel", "terminate"])
def test_what_can_be_no_job_is_among_the_errors_of_a_list_and_the_rest_is_ended(account: Account, name: str) -> None:
    account.define()
    job_id = account.submit(containerOverrides={"vcpus": 1000})
    arn = account.describe(job_id)["jobArn"]
    queue_arn = arn.replace(f"job/{job_id}", "job-queue/queue")
    answer = getattr(account.batch, f"{name}_jobs")(jobs=["", arn, "a job", queue_arn, f"{job_id}:x", ""], reason="x")
    assert answer["successful"] == [arn]
    assert [(error["job"], error["code"]) for error in answer["errors"]] == [
        (job, "ValidationException") for job in ("", "a job", queue_arn, f"{job_id}:x")
    ]
    assert answer["errors"][1]["message"] == "a job is neither the id nor the ARN of a job"
    assert account.describe(job_id)["statusReason"] == "x"


@pytest.mark.parametrize("name", ["cancel", "terminate"])
def test_what_is_not_said_well_is_refused_by_either_form(account: Account, name: str) -> None:
    one, many = getattr(account.batch, f"{name}_job"), getattr(account.batch, f"{name}_jobs")
    with refused("'jobId' is a required field (cannot be an empty string)"):
        one(jobId="", reason="x")
    with refused("'reason' is a required field (cannot be an empty string)"):
        one(jobId="x", reason="")
    with refused("reason must not exceed 1024 characters"):
        one(jobId="x", reason="x" * 1025)
    with refused("Maximum number of jobs supported is 100."):
        one(jobId="x " * 101, reason="x")
    with refused("jobs is required."):
        many(jobs=[], reason="x")
    with refused("Maximum number of jobs supported is 50."):
        many(jobs=["x"] * 51, reason="x")
    with refused("reason must not exceed 1024 characters"):
        many(jobs=["x"], reason="x" * 1025)
    one(jobId="x", reason="x" * 1024)


@pytest.mark.parametrize("operation", ["cancel_job", "terminate_job"])
def test_a_job_that_is_stopped_is_not_tried_again_and_fails_its_dependents(account: Account, operation: str) -> None:
    account.define()
    members = {"containerOverrides": {"vcpus": 1000}} if operation == "cancel_job" else {}
    job_id = account.submit(FOREVER, retryStrategy={"attempts": 3}, **members)
    dependent = account.submit(dependsOn=[{"jobId": job_id}])
    last = account.submit(dependsOn=[{"jobId": dependent}])
    if operation == "terminate_job":
        account.wait(job_id, "RUNNING")
    getattr(account.batch, operation)(jobId=job_id, reason="enough")
    job = account.wait(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "enough")
    assert len(job["attempts"]) == (1 if operation == "terminate_job" else 0)
    for waiting in (dependent, last):
        ended = account.wait(waiting)
        assert (ended["status"], ended["statusReason"]) == ("FAILED", "Dependent Job failed")


def test_the_first_reason_stays(account: Account) -> None:
    account.define()
    job_id = account.submit(["sh", "-c", "trap 'sleep 0.3; exit 0' TERM; echo ready; while :; do sleep 0.05; done"])
    account.log_lines(account.wait(job_id, "RUNNING"))
    account.batch.terminate_job(jobId=job_id, reason="first")
    meanwhile = account.describe(job_id)
    assert (meanwhile["status"], meanwhile["isTerminated"], meanwhile["isCancelled"]) in {
        ("RUNNING", True, False),
        ("FAILED", True, False),
    }
    account.batch.terminate_job(jobId=job_id, reason="second")
    account.batch.cancel_job(jobId=job_id, reason="third")
    job = account.wait(job_id)
    assert (job["statusReason"], job["isTerminated"], job["isCancelled"]) == ("first", True, False)


def test_room_is_free_only_when_a_terminated_process_has_ended(account: Account) -> None:
    account.define(containerProperties={"vcpus": 8})
    first = account.submit(["sh", "-c", "trap 'sleep 0.5; exit 0' TERM; echo ready; while :; do sleep 0.05; done"])
    account.log_lines(account.wait(first, "RUNNING"))
    second = account.submit()
    account.batch.terminate_job(jobId=first, reason="make room")
    ended = account.wait_all([first, second])
    assert ended[second]["status"] == "SUCCEEDED"
    assert ended[second]["startedAt"] >= ended[first]["stoppedAt"]


def test_attempts_are_those_that_have_ended_and_their_numbers_begin_at_1(account: Account, tmp_path: Path) -> None:
    account.define()
    gate = tmp_path / "gate"
    wait = f"until test -e {gate}; do sleep 0.02; done"
    script = f'echo $AWS_BATCH_JOB_ATTEMPT; test "$AWS_BATCH_JOB_ATTEMPT" = 1 && exit 7; {wait}'
    job_id = account.submit(["sh", "-c", script], retryStrategy={"attempts": 2})

    def second_attempt() -> list[int] | None:
        job = account.describe(job_id)
        codes = [attempt["container"]["exitCode"] for attempt in job["attempts"]]
        return codes if job["status"] == "RUNNING" and codes else None

    assert soon(second_attempt, "the second attempt") == [7]
    running = account.describe(job_id)
    assert "exitCode" not in running["container"]
    assert "statusReason" not in running
    gate.touch()
    job = account.wait(job_id)
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [7, 0]
    assert job["startedAt"] == job["attempts"][1]["startedAt"]
    streams = [attempt["container"]["logStreamName"] for attempt in job["attempts"]]
    assert [account.lines_of(stream) for stream in streams] == [["1"], ["2"]]
