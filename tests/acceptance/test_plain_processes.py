"""What becomes of container properties when jobs are plain processes, as boto3 users see it."""

import sys

import pytest

from support.agent import NEEDS_ROOT
from support.aws import Account

pytestmark = pytest.mark.usefixtures("queue")


def test_a_job_over_its_memory_says_so_and_a_retry_rule_can_go_by_it(account: Account) -> None:
    account.define(containerProperties={"memory": 64})
    program = 'import time; held = b"x" * (96 << 20); time.sleep(600)'
    script = f"test $AWS_BATCH_JOB_ATTEMPT = 2 && exit 0; exec {sys.executable} -S -c '{program}'"
    rules = [{"onReason": "OutOfMemoryError*", "action": "RETRY"}, {"onExitCode": "*", "action": "EXIT"}]
    job_id = account.submit(["sh", "-c", script], retryStrategy={"attempts": 3, "evaluateOnExit": rules})
    job = account.wait(job_id)
    first, second = job["attempts"]
    assert first["container"]["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert first["container"]["exitCode"] == 137
    assert first["statusReason"] == "Essential container in task exited"
    assert (job["status"], second["container"]["exitCode"]) == ("SUCCEEDED", 0)
    assert "reason" not in second["container"]


@NEEDS_ROOT
def test_a_job_sees_its_user_and_its_limits(account: Account) -> None:
    ulimits = [{"name": "nofile", "softLimit": 90, "hardLimit": 100}]
    account.define(containerProperties={"user": "nobody", "ulimits": ulimits})
    job = account.wait(account.submit(["sh", "-c", "id -un; ulimit -Sn; ulimit -Hn; touch mine && ls"]))
    lines = account.log_lines(job, lambda found: len(found) == 4)
    assert lines == ["nobody", "90", "100", "mine"]


@pytest.mark.parametrize("attempts", [1, 3])
def test_what_a_process_cannot_have_fails_the_job_at_once_and_names_it(account: Account, attempts: int) -> None:
    properties = {
        "readonlyRootFilesystem": True,
        "linuxParameters": {"tmpfs": [{"containerPath": "/scratch", "size": 16}]},
    }
    account.define(containerProperties=properties)
    rules = [{"onReason": "CannotStartContainerError*", "action": "EXIT"}]
    job = account.wait(account.submit(retryStrategy={"attempts": attempts, "evaluateOnExit": rules}))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    (attempt,) = job["attempts"]
    assert attempt["container"]["reason"] == (
        "CannotStartContainerError: the process runtime cannot honour readonlyRootFilesystem, linuxParameters.tmpfs"
    )
    assert "exitCode" not in attempt["container"]
