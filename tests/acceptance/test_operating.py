"""Starting and stopping `batchyard up`: what it prints, what it makes, what it refuses."""

import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import ANY_PORTS, HOST_OPTIONS, READY_UP, BatchyardProcess, Installation, batchyard, start_up


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A `batchyard up` that others are started beside."""
    with closing(start_up(tmp_path_factory.mktemp("up") / "data")) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_prints_one_line_and_stops_with_exit_code_0(folder: Path, number: signal.Signals) -> None:
    up = start_up(folder)
    process = up.processes["up"]
    try:
        assert process.interrupt(number) == 0, process.log.read_text()
        assert READY_UP.fullmatch(process.output())
    finally:
        up.close()


def test_a_job_is_accepted_and_runs_right_after_the_ready_line(folder: Path) -> None:
    with closing(start_up(folder)) as up, closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
        account.define()
        assert account.wait(account.submit(jobQueue="default"))["status"] == "SUCCEEDED"


def test_keys_that_are_no_account_act_for_the_configured_one(folder: Path) -> None:
    with (
        closing(start_up(folder, "--account", "210987654321", "--region", "eu-west-1")) as up,
        closing(Account(up.http_url, "AKIAIOSFODNN7EXAMPLE", "eu-central-1")) as account,
    ):
        (queue,) = account.batch.describe_job_queues()["jobQueues"]
        assert queue["jobQueueArn"] == "arn:aws:batch:eu-west-1:210987654321:job-queue/default"
        account.make_queue("mine")
        (mine,) = account.batch.describe_job_queues(jobQueues=["mine"])["jobQueues"]
        assert mine["jobQueueArn"] == "arn:aws:batch:eu-central-1:210987654321:job-queue/mine"


def test_defaults_are_made_at_the_first_start_and_never_again(folder: Path) -> None:
    with closing(start_up(folder)) as first, closing(Account(first.http_url, DEFAULT_NAMESPACE)) as account:
        (environment,) = account.batch.describe_compute_environments()["computeEnvironments"]
        assert (environment["computeEnvironmentName"], environment["type"]) == ("default", "UNMANAGED")
        account.batch.update_job_queue(jobQueue="default", state="DISABLED")
        account.batch.delete_job_queue(jobQueue="default")
    with closing(start_up(folder)) as second, closing(Account(second.http_url, DEFAULT_NAMESPACE)) as account:
        assert account.batch.describe_job_queues()["jobQueues"] == []


def test_bare_makes_no_defaults(folder: Path) -> None:
    with (
        closing(start_up(folder, "--bare", "--no-agent")) as up,
        closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account,
    ):
        assert account.batch.describe_job_queues()["jobQueues"] == []
        assert account.batch.describe_compute_environments()["computeEnvironments"] == []


@pytest.mark.parametrize("command", ["up", "registry", "jobstore", "logs"])
def test_a_second_start_on_the_same_folder_is_refused_by_name(up: Installation, tmp_path: Path, command: str) -> None:
    ports = ANY_PORTS if command == "up" else ("--grpc-port", "0")
    log = tmp_path / "second.log"
    with batchyard([command, "--data-dir", str(up.folder), *ports], log=log) as second:
        assert second.wait() == 2, log.read_text()
        assert second.output() == ""
    told = log.read_text()
    assert str(up.folder) in told
    assert str(up.processes["up"].pid) in told


def test_a_port_that_is_taken_is_told_in_one_line(up: Installation, tmp_path: Path) -> None:
    port = up.http_url.rpartition(":")[2]
    log = tmp_path / "second.log"
    arguments = ["up", "--data-dir", str(tmp_path / "other"), "--port", port, "--grpc-port", "0", *HOST_OPTIONS]
    with batchyard(arguments, log=log) as second:
        assert second.wait() == 2, log.read_text()
    told = log.read_text().splitlines()[-1]
    assert told == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"


def test_a_folder_of_a_newer_version_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "jobs.db")) as database:
        database.execute("PRAGMA user_version = 9999")
    log = tmp_path / "log"
    with batchyard(["up", "--data-dir", str(folder), "--no-agent", *ANY_PORTS], log=log) as process:
        assert process.wait() == 2, log.read_text()
    assert log.read_text().splitlines()[-1].startswith("Error: ")


def test_listening_beyond_loopback_needs_consent(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with batchyard(["up", "--data-dir", str(folder), "--host", "0.0.0.0", *ANY_PORTS], log=log) as process:
        assert process.wait() == 2, log.read_text()
    assert "--insecure" in log.read_text()


def test_the_data_folder_is_for_its_owner_only(up: Installation) -> None:
    assert stat.S_IMODE(up.folder.stat().st_mode) == 0o700


def test_flags_can_be_set_in_the_environment(folder: Path, tmp_path: Path) -> None:
    environment = {
        "BATCHYARD_DATA_DIR": str(folder),
        "BATCHYARD_PORT": "0",
        "BATCHYARD_GRPC_PORT": "0",
        "BATCHYARD_NO_AGENT": "1",
        "BATCHYARD_LOG_FORMAT": "json",
    }
    process = BatchyardProcess(["up"], log=tmp_path / "log", environment=environment)
    try:
        assert READY_UP.fullmatch(process.ready_line())
    finally:
        process.close()
    assert folder.is_dir()
    assert all(line.startswith("{") for line in (tmp_path / "log").read_text().splitlines())


def test_the_agent_is_started_again_when_it_dies(up: Installation) -> None:
    with closing(Account(up.http_url, DEFAULT_NAMESPACE)) as account:
        account.define()
        kill_agent_of(up)
        assert account.wait(account.submit(jobQueue="default"))["status"] == "SUCCEEDED"


def kill_agent_of(installation: Installation) -> None:
    """Kill the agent that is the child of `up`."""
    up = installation.processes["up"].pid
    (agent,) = Path(f"/proc/{up}/task/{up}/children").read_text().split()
    os.kill(int(agent), signal.SIGKILL)
