"""Attempts that fail because the job's tags ask for it, as one tests retry rules with boto3."""

import pytest

from support.aws import Account, refused

pytestmark = pytest.mark.usefixtures("queue")


def test_attempts_end_as_the_tag_asks_until_one_runs(account: Account) -> None:
    account.define(command=["sh", "-c", "echo ran"])
    job_id = account.submit(
        retryStrategy={"attempts": 6},
        tags={"batchyard:fault": "1:host-terminated 2:oom 3:pull-error 4:exit=143"},
    )
    job = account.wait(job_id)
    assert job["status"] == "SUCCEEDED"
    assert account.log_lines(job) == ["ran"]
    seen = [
        (attempt.get("statusReason"), attempt["container"].get("exitCode"), attempt["container"].get("reason"))
        for attempt in job["attempts"]
    ]
    instance = job["attempts"][0]["container"]["containerInstanceArn"].rpartition("/")[2]
    assert seen == [
        (f"Host EC2 (instance {instance}) terminated.", None, None),
        ("Essential container in task exited", 137, "OutOfMemoryError: Container killed due to memory usage"),
        ("Task failed to start", None, "CannotPullContainerError: asked for by the tag batchyard:fault"),
        ("Essential container in task exited", 143, None),
        ("Essential container in task exited", 0, None),
    ]
    assert ["logStreamName" in attempt["container"] for attempt in job["attempts"]] == [False] * 4 + [True]
    assert ["startedAt" in attempt for attempt in job["attempts"]] == [True, True, False, True, True]
    assert job["tags"] == {"batchyard:fault": "1:host-terminated 2:oom 3:pull-error 4:exit=143"}


RULES = [
    {"onStatusReason": "Host EC2*", "action": "RETRY"},
    {"onReason": "OutOfMemoryError*", "action": "EXIT"},
    {"onReason": "CannotPullContainerError*", "action": "RETRY"},
    {"onExitCode": "143", "action": "RETRY"},
    {"onReason": "*", "action": "EXIT"},
]


@pytest.mark.parametrize(
    ("faults", "status", "attempts"),
    [
        ("1:host-terminated 2:pull-error 3:exit=143", "SUCCEEDED", 4),
        ("1:host-terminated 2:oom", "FAILED", 2),
        ("1:exit=1", "FAILED", 1),
        ("1:timeout", "FAILED", 1),
        ("1:host-terminated 2:host-terminated 3:host-terminated 4:host-terminated", "FAILED", 4),
    ],
)
def test_the_rules_of_a_retry_strategy_decide_what_follows(
    account: Account, faults: str, status: str, attempts: int
) -> None:
    account.define()
    strategy = {"attempts": 4, "evaluateOnExit": RULES}
    job = account.wait(account.submit(retryStrategy=strategy, tags={"batchyard:fault": faults}))
    assert (job["status"], len(job["attempts"])) == (status, attempts)


def test_the_named_attempts_of_every_child_of_an_array_fail(account: Account) -> None:
    account.define(command=["sh", "-c", "test $AWS_BATCH_JOB_ATTEMPT = 2"])
    job_id = account.submit(
        arrayProperties={"size": 2}, retryStrategy={"attempts": 2}, tags={"batchyard:fault": "1:host-terminated"}
    )
    assert account.wait(job_id)["status"] == "SUCCEEDED"
    for index in range(2):
        reasons = [attempt.get("statusReason", "") for attempt in account.describe(f"{job_id}:{index}")["attempts"]]
        assert [reason.partition(" (")[0] for reason in reasons] == ["Host EC2", "Essential container in task exited"]


@pytest.mark.parametrize(
    ("fault", "attempts", "exit_code"),
    [("1:exit=3", 1, 3), ("1:exit=3 2:exit=4", 2, 4), ("1:timeout", 3, 137)],
    ids=["one attempt", "attempts used up", "timeout"],
)
def test_a_fault_after_which_no_attempt_comes_fails_the_job_and_those_that_depend_on_it(
    account: Account, fault: str, attempts: int, exit_code: int
) -> None:
    account.define()
    job_id = account.submit(retryStrategy={"attempts": attempts}, tags={"batchyard:fault": fault})
    dependent = account.submit(dependsOn=[{"jobId": job_id}])
    last = account.submit(dependsOn=[{"jobId": dependent}])
    job = account.wait(job_id)
    assert (job["status"], job["container"]["exitCode"], len(job["attempts"])) == (
        "FAILED",
        exit_code,
        fault.count(":"),
    )
    for waiting in (dependent, last):
        ended = account.wait(waiting)
        assert (ended["status"], ended["statusReason"]) == ("FAILED", "Dependent Job failed")


def test_a_tag_that_cannot_be_read_is_refused(account: Account) -> None:
    account.define()
    with refused("The value of the tag batchyard:fault is not valid: '1:fire' asks for an unknown end"):
        account.submit(tags={"batchyard:fault": "1:fire"})
