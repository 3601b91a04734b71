"""The image of deploy/Dockerfile, really built, and started by deploy/compose.yaml: on one machine, and as several."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from botocore.config import Config

from batchyard.domain.names import DEFAULT_NAMESPACE
from batchyard.rpc.authority import issue
from batchyard.rpc.peers import Peer, Role
from support.aws import Account
from support.base_image import build, copy_sources, import_base_image, write_wheels
from support.certificates import an_authority, put
from support.compose import a_project
from support.docker import IMAGE, docker_host, remove_image, tag_image
from support.installation import free_ports
from support.pages import ROOT, section
from support.waiting import soon

__all__ = ["docker_host"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

BUILT: Final = "batchyard:tests"
CONTROL: Final = "control.example.net"
KEYS: Final = b'[keys.AKIDALICE]\nsecret = "of at least sixteen characters"\naccount = "210987654321"\n'
USER: Final = 10001
PATIENT: Final = Config(retries={"mode": "adaptive", "total_max_attempts": 20})
AGENT: Final = ("BATCHYARD_CAPACITY=vcpus=4,memory=1GiB", "BATCHYARD_DOCKER_NETWORK=none")


@pytest.fixture(scope="module")
def image(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built without any registry or index."""
    folder = tmp_path_factory.mktemp("image")
    base = import_base_image(docker_host, folder)
    copy_sources(ROOT, folder / "context")
    write_wheels(folder / "context" / "wheels", "batchyard", "hatchling")
    command, *_ = section("docs/your-cluster.md", "With Docker Compose")
    build(docker_host, folder / "context", command, BUILT, BASE=base, PIP_NO_INDEX="1", PIP_FIND_LINKS="wheels")
    shutil.rmtree(folder)
    tag_image(docker_host, IMAGE, "busybox")
    yield BUILT
    remove_image(docker_host, "busybox")
    remove_image(docker_host, BUILT)
    remove_image(docker_host, base)


def settings(folder: Path, name: str, *more: str) -> None:
    """Write both files of settings as they are in the repository, with more in the one of this name."""
    for shipped in (ROOT / "deploy").glob("*.env"):
        if shipped.name == name or not (folder / shipped.name).exists():
            lines = more if shipped.name == name else ()
            (folder / shipped.name).write_text("\n".join((shipped.read_text("utf-8"), *lines, "")), encoding="utf-8")


def settings_of(block: str) -> list[str]:
    """Return the settings that a block of the page adds to a file."""
    found = re.search(r"<<'END'\n(.*?)^END$", block, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].splitlines()


def submit(account: Account, command: str) -> str:
    properties = {"image": IMAGE, "vcpus": 1, "memory": 16, "command": ["sh", "-c", command]}
    account.define("job", containerProperties=properties)
    return account.submit(jobQueue="default", jobDefinition="job")


def test_one_machine_runs_jobs_outlives_its_agent_and_stops_in_order(
    image: str, docker_host: str, tmp_path: Path
) -> None:
    http, grpc, agents, monitoring = free_ports(4)
    ports = (f"BATCHYARD_PORT={http}", f"BATCHYARD_GRPC_PORT={grpc}", f"BATCHYARD_AGENT_PORT={agents}")
    settings(tmp_path, "batchyard.env", *ports)
    where = (f"BATCHYARD_SCHEDULER=127.0.0.1:{agents}", f"BATCHYARD_LOGS=127.0.0.1:{agents}")
    settings(tmp_path, "agent.env", *where, *AGENT)
    variables = {
        "BATCHYARD_IMAGE": image,
        "BATCHYARD_CONFIG": str(tmp_path),
        "BATCHYARD_MONITORING_PORT": str(monitoring),
    }
    up, run = section("docs/your-cluster.md", "With Docker Compose")[1].splitlines()
    with a_project(docker_host, "one", variables) as compose:
        compose.shell(up)
        assert compose.inspect("control", "{{.Config.User}}") == "10001:10001"
        account = Account(f"http://127.0.0.1:{http}", DEFAULT_NAMESPACE, config=PATIENT)
        soon(lambda: compose.is_healthy("control"), "the control plane is healthy")
        assert compose.shell(run) == "hello\n"
        job_id = submit(account, "trap 'exit 3' TERM; echo hello; while :; do sleep 0.1; done")
        started = account.wait(job_id, "RUNNING")
        # As the kernel would for want of memory: what Docker kills itself, it does not start again.
        # What is to end the job if the agent does not come back is not in the agent's container.
        commands = compose.docker("exec", compose.container("launcher"), "sh", "-c", "cat /proc/[0-9]*/cmdline")
        assert '"guard": true' in commands
        before = int(compose.inspect("agent", "{{.RestartCount}}"))
        os.kill(int(compose.inspect("agent", "{{.State.Pid}}")), signal.SIGKILL)
        soon(lambda: int(compose.inspect("agent", "{{.RestartCount}}")) > before, "the agent is started again")
        soon(lambda: compose.is_healthy("agent"), "the agent is healthy")
        account.batch.terminate_job(jobId=job_id, reason="enough")
        (attempt,) = account.wait(job_id)["attempts"]
        assert attempt["startedAt"] == started["startedAt"]
        assert attempt["container"]["exitCode"] == 3
        stream = attempt["container"]["logStreamName"]

        def printed() -> list[str]:
            told = account.logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream)
            return [event["message"] for event in told["events"]]

        assert soon(printed, "its output has come") == ["hello"]
        account.close()
        compose("stop")
        codes = {name: compose.inspect(name, "{{.State.ExitCode}}") for name in ("control", "launcher", "agent")}
        assert codes == dict.fromkeys(codes, "0")


def test_two_machines_know_each_other_by_certificates(image: str, docker_host: str, tmp_path: Path) -> None:
    http, grpc, agents, monitoring = free_ports(4)
    authority = an_authority()
    (*_, of_control, of_worker), (*_, control_up, worker_up) = (
        section("docs/your-cluster.md", "With systemd"),
        section("docs/your-cluster.md", "With Docker Compose"),
    )
    ports = [f"BATCHYARD_PORT={http}", f"BATCHYARD_GRPC_PORT={grpc}", f"BATCHYARD_AGENT_PORT={agents}"]
    for machine, file, peer, lines in (
        ("control", "batchyard.env", Peer(Role.SERVICE, "control"), [*settings_of(of_control), *ports]),
        ("worker", "agent.env", Peer(Role.AGENT, "worker-1"), [*settings_of(of_worker), *AGENT]),
        ("laptop", "agent.env", Peer(Role.CLIENT, "alice"), []),
    ):
        folder = tmp_path / machine
        folder.mkdir()
        here = [line.replace(f"{CONTROL}:8084", f"localhost:{agents}").replace(CONTROL, "localhost") for line in lines]
        settings(folder, file, *here)
        pair = issue(authority, peer, ("localhost",), datetime.now(UTC), timedelta(days=1))
        put(folder / "ca.pem", authority.cert)
        put(folder / f"{peer.role}-{peer.name}.pem", pair.cert)
        put(folder / f"{peer.role}-{peer.name}.key", pair.key, 0o600)
    put(tmp_path / "control" / "keys.toml", KEYS, 0o600)
    for path in (tmp_path / "control").iterdir():
        os.chown(path, USER, USER)
    variables = {"BATCHYARD_IMAGE": image, "BATCHYARD_MONITORING_PORT": str(monitoring)}
    with a_project(docker_host, "control", variables) as control, a_project(docker_host, "worker", variables) as worker:
        control.shell(control_up.replace("/etc/batchyard", str(tmp_path / "control")))
        worker.shell(worker_up.replace("/etc/batchyard", str(tmp_path / "worker")))
        mine = tmp_path / "laptop"
        files = ("--tls-ca", "ca.pem", "--tls-cert", "client-alice.pem", "--tls-key", "client-alice.key")
        run = [sys.executable, "-m", "batchyard.cli", "run", "--endpoint", f"grpc://localhost:{grpc}", *files]
        soon(lambda: control.is_healthy("control"), "the control plane is healthy")
        done = subprocess.run([*run, "--", "echo", "hello"], cwd=mine, capture_output=True, text=True, check=False)
        assert done.stdout == "hello\n", done.stderr + control("logs") + worker("logs")
