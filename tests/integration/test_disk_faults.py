"""A disk that is full: clients are told, readiness says so, reads go on, and service comes back by itself."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.disks import fill, small_disk
from support.installation import ANY_PORTS, READY_UP, BatchyardProcess
from support.waiting import soon


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a small disk of its own."""
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def up(disk: Path, tmp_path: Path) -> Iterator[str]:
    """The control plane on that disk; its address."""
    arguments = ["up", "--data-dir", str(disk / "data"), "--no-agent", *ANY_PORTS]
    process = BatchyardProcess(arguments, log=tmp_path / "log")
    try:
        match = READY_UP.fullmatch(process.ready_line())
        assert match
        yield match[1]
    finally:
        process.close()


def readiness(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=60) as response:
            return response.status, json.load(response)["upstreams"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["upstreams"]


def refusal(call: Callable[[], object]) -> str:
    """Call again and again until that is refused as the server's fault; return why."""
    for _ in range(10_000):
        try:
            call()
        except ClientError as error:
            response = error.response
            break
    else:
        raise AssertionError("the disk never was full")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert response["Error"]["Code"] == "ServerException"
    return response["Error"]["Message"]


def can_submit(account: Account) -> bool:
    try:
        account.submit(jobQueue="default")
    except ClientError:
        return False
    return True


def test_a_full_disk_is_told_and_outlived_by_the_job_store(disk: Path, up: str) -> None:
    account = Account(up, DEFAULT_NAMESPACE)
    try:
        account.define()
        job_id = account.submit(jobQueue="default")
        filler = fill(disk)
        assert "the job store cannot write: database or disk is full" in refusal(
            lambda: account.submit(jobQueue="default")
        )
        _, upstreams = soon(lambda: found if (found := readiness(up))[0] == 503 else None, "not ready")
        assert upstreams["jobs"] == "NOT_SERVING"
        assert account.describe(job_id)["status"] == "RUNNABLE"
        filler.unlink()
        soon(lambda: can_submit(account), "a submission is accepted again")
        soon(lambda: readiness(up)[0] == 200, "ready again")
        assert account.describe(job_id)["status"] == "RUNNABLE"
    finally:
        account.close()


def test_a_full_disk_is_told_and_outlived_by_the_registry(disk: Path, up: str) -> None:
    account = Account(up, DEFAULT_NAMESPACE)
    try:
        filler = fill(disk)
        text = refusal(account.define)
        assert text == "The registry cannot write to its database: database or disk is full"
        _, upstreams = soon(lambda: found if (found := readiness(up))[0] == 503 else None, "not ready")
        assert upstreams["registry"] == "NOT_SERVING"
        (queue,) = account.batch.describe_job_queues()["jobQueues"]
        assert queue["jobQueueName"] == "default"
        filler.unlink()
        soon(lambda: readiness(up)[0] == 200, "ready again")
        account.define("after")
    finally:
        account.close()
