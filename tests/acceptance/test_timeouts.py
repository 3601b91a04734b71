"""Jobs that run out of their time, really run and seen through boto3.

A timeout is sixty seconds at least. This installation takes shorter ones, and is in nothing else unlike any other: the
time runs as ever.
"""

from collections.abc import Iterator

import pytest

from support.aws import Account
from support.installation import start_up

REASON = "Job attempt duration exceeded timeout"


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder = tmp_path_factory.mktemp("timeouts")
    (folder / "sitecustomize.py").write_text("from batchyard.domain import resources\nresources.TIMEOUT_S_MIN = 1\n")
    installation = start_up(folder / "data", environment={"PYTHONPATH": str(folder)})
    account = Account(installation.http_url, "100000000001")
    account.make_queue()
    account.define(timeout={"attemptDurationSeconds": 3600})
    yield account
    account.close()
    installation.close()


def test_a_job_out_of_time_is_ended_is_not_tried_again_and_fails_what_waits_for_it(account: Account) -> None:
    job_id = account.submit(
        ["sh", "-c", "sleep 600"],
        timeout={"attemptDurationSeconds": 1},
        retryStrategy={"attempts": 3, "evaluateOnExit": [{"onStatusReason": "*", "action": "RETRY"}]},
    )
    dependent = account.submit(dependsOn=[{"jobId": job_id}])
    job = account.wait(job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", REASON)
    assert (job["isCancelled"], job["isTerminated"]) == (False, False)
    assert job["timeout"] == {"attemptDurationSeconds": 1}
    assert job["container"]["exitCode"] == 143
    (attempt,) = job["attempts"]
    assert (attempt["statusReason"], attempt["container"]["exitCode"]) == (REASON, 143)
    # Never early; how late depends on the machine. The start is known by a message of its own, which may come some
    # milliseconds late.
    assert job["stoppedAt"] - job["createdAt"] >= 1000
    assert account.wait(dependent)["statusReason"] == "Dependent Job failed"


def test_a_job_that_makes_a_good_end_when_its_time_is_over_has_failed_all_the_same(account: Account) -> None:
    command = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done"
    job = account.wait(account.submit(["sh", "-c", command], timeout={"attemptDurationSeconds": 3}))
    assert (job["status"], job["statusReason"]) == ("FAILED", REASON)
    assert job["container"]["exitCode"] == 0
    assert "bye" in account.log_lines(job, lambda lines: "bye" in lines)


def test_children_have_their_time_each_and_their_array_has_none(account: Account) -> None:
    array = account.submit(
        ["sh", "-c", '[ "$AWS_BATCH_JOB_ARRAY_INDEX" = 0 ] || sleep 600'],
        arrayProperties={"size": 2},
        timeout={"attemptDurationSeconds": 1},
    )
    job = account.wait(array)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Array Child Job failed")
    first, second = account.describe(f"{array}:0"), account.describe(f"{array}:1")
    assert (first["status"], second["status"], second["statusReason"]) == ("SUCCEEDED", "FAILED", REASON)
