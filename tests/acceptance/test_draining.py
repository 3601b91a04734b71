"""Taking a host out of use under running jobs, with `batchyard drain`, on real processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import Installation, start_up
from support.waiting import soon

WAITS_FOR_DRAINED: Final = "Waiting for an agent: those that serve compute environment default are drained."


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Installation]:
    running = start_up(tmp_path / "data")
    yield running
    running.close()


@pytest.fixture
def account(up: Installation) -> Iterator[Account]:
    fresh = Account(up.http_url, DEFAULT_NAMESPACE)
    yield fresh
    fresh.close()


def command(up: Installation, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "batchyard.cli", "drain", "--data-dir", str(up.folder), *arguments]


def drain(up: Installation, *arguments: str) -> str:
    """Run `batchyard drain` to its end; return what it says."""
    done = subprocess.run(command(up, *arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def the_agent(account: Account, job_id: str) -> str:
    arn = account.describe(job_id)["container"]["containerInstanceArn"]
    return str(arn).rpartition("/")[2]


def reason_for_waiting(account: Account, job_id: str) -> str:
    """Wait until a RUNNABLE job says why it waits."""

    def reason() -> str | None:
        job = account.describe(job_id)
        assert job["status"] == "RUNNABLE"
        return job.get("statusReason")

    return soon(reason, "a reason for waiting")


def test_a_drained_host_finishes_its_jobs_takes_no_others_and_comes_back(
    up: Installation, account: Account, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    account.define()
    running = account.submit(["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done"], jobQueue="default")
    account.wait(running, "RUNNING")
    agent = the_agent(account, running)
    said = drain(up, agent)
    assert said == f"agent {agent} is DRAINING, 1 on it: {running}\n"
    waiting = account.submit(jobQueue="default")
    assert reason_for_waiting(account, waiting) == WAITS_FOR_DRAINED
    with subprocess.Popen(command(up, "--wait", agent), stderr=subprocess.PIPE, text=True) as waits:
        assert waits.stderr is not None
        assert waits.stderr.readline() == said  # it waits from here on
        gate.touch()
        _, rest = waits.communicate(timeout=60)
    assert (waits.returncode, rest) == (0, f"agent {agent} is DRAINING, nothing runs on it\n")
    assert account.describe(running)["status"] == "SUCCEEDED"
    assert account.describe(waiting)["status"] == "RUNNABLE"
    assert drain(up, "--resume", agent) == f"agent {agent} takes jobs again\n"
    assert account.wait(waiting)["status"] == "SUCCEEDED"


def test_a_drain_with_a_limit_ends_jobs_as_if_their_host_were_gone_and_outlives_a_restart(
    up: Installation, account: Account
) -> None:
    account.define()
    rules = [{"onStatusReason": "Host EC2*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]
    running = account.submit(
        ["sleep", "600"], jobQueue="default", retryStrategy={"attempts": 2, "evaluateOnExit": rules}
    )
    account.wait(running, "RUNNING")
    agent = the_agent(account, running)
    drain(up, "--limit", "0", "--wait", agent)
    job = account.describe(running)
    reason = f"Host EC2 (instance {agent}) terminated. It was drained."
    assert [attempt["statusReason"] for attempt in job["attempts"]] == [reason]
    assert job["status"] == "RUNNABLE"
    account.close()
    up.close()
    with closing(start_up(up.folder)) as second, closing(Account(second.http_url, DEFAULT_NAMESPACE)) as account:
        soon(lambda: reason_for_waiting(account, running) == WAITS_FOR_DRAINED, "the reason for waiting")
        drain(second, "--resume", agent)
        account.wait(running, "RUNNING")


def test_an_agent_that_is_not_known_is_refused(up: Installation) -> None:
    done = subprocess.run(command(up, "nobody"), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: agent nobody does not exist\n")
