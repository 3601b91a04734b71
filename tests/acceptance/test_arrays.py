"""Array jobs and dependencies among their children, as boto3 users see them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.aws import STATUSES, Account, Json, pages, refused
from support.waiting import soon

pytestmark = pytest.mark.usefixtures("queue")


def submit_array(account: Account, size: int, script: str = "true", **members: Any) -> str:
    """Submit an array job whose children run a shell script; return its id."""
    return account.submit(["sh", "-c", script], arrayProperties={"size": size}, **members)


def summary_of(account: Account, job_id: str) -> dict[str, int]:
    """Return how many children are in each status in which there are any."""
    counts = account.describe(job_id)["arrayProperties"]["statusSummary"]
    assert set(counts) == set(STATUSES)
    return {status: count for status, count in counts.items() if count}


def children_of(account: Account, job_id: str, size: int) -> list[Any]:
    """Return all children, by index."""
    return account.batch.describe_jobs(jobs=[f"{job_id}:{index}" for index in range(size)])["jobs"]


def listed(account: Account, job_id: str, status: str, page_size: int = 100) -> list[Json]:
    """Return what ListJobs tells of the children in one status, page by page."""
    found = pages(account.batch.list_jobs, "jobSummaryList", arrayJobId=job_id, jobStatus=status, maxResults=page_size)
    return [summary for page in found for summary in page]


def test_children_run_with_their_index_and_the_array_ends_when_all_have(account: Account) -> None:
    account.define(tags={"of": "the definition"})
    job_id = submit_array(
        account,
        3,
        "echo $AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ARRAY_INDEX $AWS_BATCH_JOB_ARRAY_SIZE",
        jobName="many",
        tags={"of": "the array"},
    )
    array = account.wait(job_id)
    assert (array["status"], array["jobName"], array["attempts"]) == ("SUCCEEDED", "many", [])
    assert array["arrayProperties"]["size"] == 3
    assert array["arrayProperties"]["statusSummary"] == {status: 3 * (status == "SUCCEEDED") for status in STATUSES}
    assert array["arrayProperties"]["statusSummaryLastUpdatedAt"] >= array["createdAt"]
    assert not {"startedAt", "statusReason"} & set(array)
    assert "logStreamName" not in array["container"]
    children = children_of(account, job_id, 3)
    assert [child["jobId"] for child in children] == [f"{job_id}:{index}" for index in range(3)]
    for index, child in enumerate(children):
        assert child["jobArn"] == f"{array['jobArn']}:{index}"
        assert (child["jobName"], child["arrayProperties"], child["tags"]) == ("many", {"index": index}, {})
        assert (child["status"], child["container"]["exitCode"], len(child["attempts"])) == ("SUCCEEDED", 0, 1)
        assert account.log_lines(child) == [f"{child['jobId']} {index} 3"]
    assert len({child["container"]["logStreamName"] for child in children}) == 3
    assert account.batch.describe_jobs(jobs=[f"{job_id}:3", f"{job_id}:00", f"{job_id}:"])["jobs"] == []


def test_a_job_that_is_no_child_sees_no_index(account: Account) -> None:
    account.define()
    script = 'echo "<${AWS_BATCH_JOB_ARRAY_INDEX-}${AWS_BATCH_JOB_ARRAY_SIZE-}>"'
    job = account.wait(account.submit(["sh", "-c", script]))
    assert account.log_lines(job) == ["<>"]
    assert "arrayProperties" not in job


def test_children_are_listed_by_their_array_and_queues_list_arrays_alone(account: Account) -> None:
    account.define()
    big = submit_array(account, 10_000, containerOverrides={"vcpus": 1000})
    assert [job["jobId"] for job in listed(account, big, "RUNNABLE", 1000)] == [
        f"{big}:{index}" for index in range(10_000)
    ]
    assert listed(account, big, "PENDING") == []
    assert account.batch.list_jobs(arrayJobId=big)["jobSummaryList"] == []
    (summary,) = account.batch.list_jobs(jobQueue="queue", jobStatus="PENDING")["jobSummaryList"]
    assert (summary["jobId"], summary["arrayProperties"]["size"]) == (big, 10_000)
    assert summary["arrayProperties"]["statusSummary"]["RUNNABLE"] == 10_000
    assert account.batch.list_jobs(jobQueue="queue", jobStatus="RUNNABLE")["jobSummaryList"] == []
    assert account.batch.list_jobs(arrayJobId="nobody", jobStatus="PENDING")["jobSummaryList"] == []
    with refused("Exactly one of jobQueue, arrayJobId and multiNodeJobId is required"):
        account.batch.list_jobs(jobQueue="queue", arrayJobId=big)
    with refused("Exactly one of jobQueue, arrayJobId and multiNodeJobId is required"):
        account.batch.list_jobs()
    first = account.describe(f"{big}:0")
    assert (first["status"], first["arrayProperties"]) == ("RUNNABLE", {"index": 0})

    account.batch.cancel_job(jobId=big, reason="not needed")
    array = account.describe(big)
    assert (array["status"], array["statusReason"], array["isCancelled"]) == ("FAILED", "not needed", True)
    assert summary_of(account, big) == {"FAILED": 10_000}
    for child in account.batch.describe_jobs(jobs=[f"{big}:0", f"{big}:9999"])["jobs"]:
        assert (child["status"], child["statusReason"], child["isCancelled"]) == ("FAILED", "not needed", True)
        assert "startedAt" not in child


def test_each_child_is_tried_again_for_itself_and_one_failure_fails_the_array_at_its_end(account: Account) -> None:
    account.define()
    job_id = submit_array(
        account,
        3,
        'case "$AWS_BATCH_JOB_ARRAY_INDEX $AWS_BATCH_JOB_ATTEMPT" in "1 1") exit 7;; "2 "*) exit 9;; esac',
        retryStrategy={"attempts": 2},
    )
    after = account.submit(["true"], dependsOn=[{"jobId": job_id}])
    array = account.wait(job_id)
    assert (array["status"], array["statusReason"]) == ("FAILED", "Array Child Job failed")
    assert summary_of(account, job_id) == {"SUCCEEDED": 2, "FAILED": 1}
    codes = [[a["container"]["exitCode"] for a in child["attempts"]] for child in children_of(account, job_id, 3)]
    assert codes == [[0], [7, 0], [9, 9]]
    assert [child["jobId"] for child in listed(account, job_id, "FAILED")] == [f"{job_id}:2"]
    job = account.wait(after)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Dependent Job failed")


def test_sequential_children_run_one_after_the_other_and_a_failed_one_fails_the_rest(account: Account) -> None:
    account.define()
    good = submit_array(account, 3, dependsOn=[{"type": "SEQUENTIAL"}])
    bad = submit_array(account, 4, "test $AWS_BATCH_JOB_ARRAY_INDEX != 1", dependsOn=[{"type": "SEQUENTIAL"}])
    assert account.wait(good)["status"] == "SUCCEEDED"
    children = children_of(account, good, 3)
    for before, after in pairwise(children):
        assert after["startedAt"] >= before["stoppedAt"]
    assert account.describe(good)["dependsOn"] == [{"type": "SEQUENTIAL"}]
    assert account.wait(bad)["status"] == "FAILED"
    assert [(child["status"], child["statusReason"]) for child in children_of(account, bad, 4)] == [
        ("SUCCEEDED", "Essential container in task exited"),
        ("FAILED", "Essential container in task exited"),
        ("FAILED", "Dependent Job failed"),
        ("FAILED", "Dependent Job failed"),
    ]


def test_paired_children_wait_for_each_other_alone(account: Account, tmp_path: Path) -> None:
    account.define()
    gate = tmp_path / "gate"
    first = submit_array(
        account,
        3,
        f"case $AWS_BATCH_JOB_ARRAY_INDEX in 0) while ! test -e {gate}; do sleep 0.05; done;; 1) exit 3;; esac",
    )
    second = submit_array(account, 3, dependsOn=[{"jobId": first, "type": "N_TO_N"}])
    account.wait(f"{second}:2", "SUCCEEDED")
    failed = account.wait(f"{second}:1", "FAILED")
    assert failed["statusReason"] == "Dependent Job failed"
    assert account.describe(f"{second}:0")["status"] == "PENDING"
    assert summary_of(account, second) == {"PENDING": 1, "SUCCEEDED": 1, "FAILED": 1}
    assert account.describe(second)["status"] == "PENDING"
    gate.touch()
    assert account.wait(second)["status"] == "FAILED"
    assert account.describe(f"{second}:0")["status"] == "SUCCEEDED"
    assert account.describe(second)["dependsOn"] == [{"jobId": first, "type": "N_TO_N"}]


def test_a_job_can_wait_for_a_whole_array_or_for_one_child(account: Account, tmp_path: Path) -> None:
    account.define()
    gate = tmp_path / "gate"
    array = submit_array(
        account, 2, f"test $AWS_BATCH_JOB_ARRAY_INDEX = 1 || while ! test -e {gate}; do sleep 0.05; done"
    )
    whole = account.submit(["true"], dependsOn=[{"jobId": array}])
    child = account.submit(["true"], dependsOn=[{"jobId": f"{array}:1"}])
    late = submit_array(account, 2, dependsOn=[{"jobId": whole}])
    assert account.wait(child)["status"] == "SUCCEEDED"
    assert account.describe(whole)["status"] == "PENDING"
    assert summary_of(account, late) == {"PENDING": 2}
    gate.touch()
    assert account.wait(late)["status"] == "SUCCEEDED"
    assert account.describe(whole)["startedAt"] >= account.describe(f"{array}:0")["stoppedAt"]
    # Dependencies on what has ended count at once.
    assert account.wait(account.submit(["true"], dependsOn=[{"jobId": f"{array}:0"}]))["status"] == "SUCCEEDED"
    again = submit_array(account, 2, dependsOn=[{"jobId": array, "type": "N_TO_N"}])
    assert account.wait(again)["status"] == "SUCCEEDED"


def test_terminating_an_array_ends_its_running_children_and_starts_no_others(account: Account) -> None:
    account.define(containerProperties={"vcpus": 4})
    job_id = submit_array(account, 50, "exec sleep 600", retryStrategy={"attempts": 3})
    soon(lambda: summary_of(account, job_id).get("RUNNING"), "a child runs")
    account.batch.terminate_job(jobId=job_id, reason="enough")
    array = account.wait(job_id)
    assert (array["status"], array["statusReason"], array["isTerminated"]) == ("FAILED", "enough", True)
    assert summary_of(account, job_id) == {"FAILED": 50}
    children = children_of(account, job_id, 50)
    assert {(child["statusReason"], child["isTerminated"], len(child["attempts"]) <= 1) for child in children} == {
        ("enough", True, True)
    }
    assert any(child["container"].get("exitCode") == 143 for child in children)


def test_single_children_are_cancelled_and_terminated(account: Account, tmp_path: Path) -> None:
    account.define()
    gate = tmp_path / "gate"
    job_id = submit_array(
        account,
        3,
        f"test $AWS_BATCH_JOB_ARRAY_INDEX = 1 && exec sleep 600; while ! test -e {gate}; do sleep 0.05; done",
        dependsOn=[{"jobId": account.submit(["true"])}],
    )
    account.wait(f"{job_id}:1", "RUNNING")
    account.batch.terminate_job(jobId=f"{job_id}:1", reason="this one")
    child = account.wait(f"{job_id}:1")
    assert (child["status"], child["statusReason"], child["container"]["exitCode"]) == ("FAILED", "this one", 143)
    waiting = submit_array(account, 2, dependsOn=[{"jobId": job_id}])
    account.batch.cancel_job(jobId=f"{waiting}:0", reason="never")
    assert summary_of(account, waiting) == {"PENDING": 1, "FAILED": 1}
    assert account.describe(waiting)["isCancelled"] is False
    gate.touch()
    array = account.wait(job_id)
    assert (array["statusReason"], array["isTerminated"]) == ("Array Child Job failed", False)
    assert summary_of(account, job_id) == {"SUCCEEDED": 2, "FAILED": 1}
    reasons = [child["statusReason"] for child in children_of(account, waiting, 2)]
    assert reasons == ["never", "Dependent Job failed"]


def test_what_no_array_can_have_is_refused(account: Account) -> None:
    account.define()
    single, array = account.submit(["true"]), submit_array(account, 3)
    for size in (0, 1, 10_001):
        with refused("Array size must be between 2 and 10000"):
            submit_array(account, size)
    for other in (single, f"{array}:0"):
        with refused("N_TO_N dependency requires array jobs of the same size"):
            submit_array(account, 3, dependsOn=[{"jobId": other, "type": "N_TO_N"}])
    with refused("N_TO_N dependency requires array jobs of the same size"):
        submit_array(account, 4, dependsOn=[{"jobId": array, "type": "N_TO_N"}])
    with refused("N_TO_N dependency requires array jobs of the same size"):
        account.submit(["true"], dependsOn=[{"jobId": array, "type": "N_TO_N"}])
    with refused("jobId is required"):
        account.submit(["true"], dependsOn=[{"type": "SEQUENTIAL"}])
    with refused(f"Job {array}:3 does not exist"):
        account.submit(["true"], dependsOn=[{"jobId": f"{array}:3"}])
    with refused("cannot have tags: it is a child of an array job"):
        account.batch.tag_resource(resourceArn=account.describe(f"{array}:0")["jobArn"], tags={"a": "b"})
