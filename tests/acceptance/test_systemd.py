"""The units of deploy/systemd, installed and started by the commands of docs/your-cluster.md, by a real systemd."""

import json
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from batchyard.rpc.authority import issue
from batchyard.rpc.peers import Peer, Role
from support.certificates import an_authority, put
from support.pages import section
from support.systemd import Systemd, a_systemd
from support.waiting import soon

# Each boots machines and starts services on them.
pytestmark = pytest.mark.timeout(600)

PIP: Final = "/opt/batchyard/bin/pip install .\n"
CAPACITY: Final = (
    "echo BATCHYARD_CAPACITY=vcpus=4,memory=1GiB BATCHYARD_RUNTIME=process | tr ' ' '\\n' >>/etc/batchyard/agent.env"
)
CLIENT: Final = """
import json, sys, time, boto3
session = boto3.Session("123456789012", "any secret", region_name="us-east-1")
batch = session.client("batch", endpoint_url="http://127.0.0.1:8080")
"""
SUBMIT: Final = """
command, attempts = sys.argv[1:]
properties = {"image": "busybox", "vcpus": 1, "memory": 16, "command": ["sh", "-c", command]}
batch.register_job_definition(
    jobDefinitionName="job",
    type="container",
    containerProperties=properties,
    retryStrategy={"attempts": int(attempts)},
)
print(json.dumps(batch.submit_job(jobName="job", jobQueue="default", jobDefinition="job")["jobId"]))
"""
WAIT: Final = """
while True:
    (job,) = batch.describe_jobs(jobs=sys.argv[1:])["jobs"]
    if job["status"] in ("SUCCEEDED", "FAILED"):
        break
    time.sleep(0.05)
print(json.dumps(job))
"""
CONTROL: Final = "control.example.net"
KEYS: Final = b'[keys.AKIDALICE]\nsecret = "of at least sixteen characters"\naccount = "210987654321"\n'
AGENT: Final = "batchyard-agent.service"
LAUNCHER: Final = "batchyard-launcher.service"


@pytest.fixture(scope="module")
def blocks() -> Sequence[str]:
    """The commands of the page: to install, for one machine, for the control plane of several, for the others."""
    return section("docs/your-cluster.md", "With systemd")


def install(machine: Systemd, commands: str) -> None:
    """Install as the page tells; the Python environment is there already."""
    venv = "python3 -m venv /opt/batchyard\n"
    assert venv in commands
    assert PIP in commands
    machine.run(commands.replace(venv, "").replace(PIP, ""))
    machine.run(CAPACITY)


@pytest.fixture(scope="module")
def machine(blocks: Sequence[str]) -> Iterator[Systemd]:
    """A machine that has everything, started as the page tells."""
    with a_systemd() as machine:
        install(machine, blocks[0])
        assert machine.run(blocks[1]) == "hello\n"
        yield machine


def call(machine: Systemd, script: str, *arguments: str) -> Any:
    """Run lines of Python on that machine, which have boto3 and print JSON; return what they print."""
    return json.loads(machine.run(f"python {shlex.join(('-c', CLIENT + script, *arguments))}"))


def submit(machine: Systemd, command: str, attempts: int = 1) -> str:
    """Submit a job to the default queue; return its id."""
    return str(call(machine, SUBMIT, command, str(attempts)))


def ended(machine: Systemd, job_id: str) -> dict[str, Any]:
    """Wait for a job's end; return the job."""
    return dict(call(machine, WAIT, job_id))


def number_in(path: Path) -> int:
    """Wait for a number in a file, which a job writes; return it."""
    soon(lambda: path.exists() and path.read_text().endswith("\n"), f"{path} is written")
    return int(path.read_text())


def main_pid(machine: Systemd, unit: str) -> int:
    return int(machine.property_of(unit, "MainPID"))


def restarted(machine: Systemd, unit: str, before: int) -> bool:
    """Tell whether a unit is at work again, as another process."""
    return main_pid(machine, unit) not in (0, before) and machine.property_of(unit, "ActiveState") == "active"


def test_systemd_has_nothing_to_say_against_the_units(machine: Systemd) -> None:
    assert machine.run("systemd-analyze verify /etc/systemd/system/batchyard*.service 2>&1") == ""


def test_a_job_outlives_the_agent_and_the_control_plane(machine: Systemd, tmp_path: Path) -> None:
    pid_file, go_on = tmp_path / "pid", tmp_path / "go-on"
    # The number of the job's process as this machine has it, whatever namespace the job is in.
    tmp_path.chmod(0o755)
    job_id = submit(machine, f"echo $$ >{pid_file}; until [ -e {go_on} ]; do sleep 0.1; done; exit 7")
    number_in(pid_file)
    before = main_pid(machine, AGENT)
    machine.run(f"systemctl kill --signal=KILL {AGENT}")
    soon(lambda: restarted(machine, AGENT, before), "systemd has started the agent again")
    machine.run("systemctl restart batchyard.service")
    go_on.touch()
    job = ended(machine, job_id)
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [7]


def test_the_launcher_takes_its_jobs_with_it_and_they_are_tried_again(machine: Systemd, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    tmp_path.chmod(0o755)
    body = f"echo $$ >{tmp_path}/$AWS_BATCH_JOB_ATTEMPT; until [ -e {go_on} ]; do sleep 0.1; done"
    job_id = submit(machine, body, attempts=2)
    number_in(tmp_path / "1")
    before = main_pid(machine, LAUNCHER)
    machine.run(f"systemctl kill --kill-whom=main --signal=KILL {LAUNCHER}")
    soon(lambda: restarted(machine, LAUNCHER, before), "systemd has started the launcher again")
    number_in(tmp_path / "2")
    go_on.touch()
    first, second = ended(machine, job_id)["attempts"]
    assert "terminated" in first["statusReason"]
    assert second["container"]["exitCode"] == 0


def test_two_machines_know_each_other_by_certificates(blocks: Sequence[str], tmp_path: Path) -> None:
    authority = an_authority()
    put(tmp_path / "ca.pem", authority.cert)
    for name, peer in (
        ("service-control", Peer(Role.SERVICE, "control")),
        ("agent-worker-1", Peer(Role.AGENT, "worker-1")),
        ("client-alice", Peer(Role.CLIENT, "alice")),
    ):
        pair = issue(authority, peer, (CONTROL,), datetime.now(UTC), timedelta(days=1))
        put(tmp_path / f"{name}.pem", pair.cert)
        put(tmp_path / f"{name}.key", pair.key, 0o600)
    put(tmp_path / "keys.toml", KEYS, 0o600)
    with a_systemd() as control, a_systemd(beside=control) as worker:
        for machine, files in ((control, "service-control.* keys.toml"), (worker, "agent-worker-1.*")):
            install(machine, blocks[0])
            machine.run(
                f"echo 127.0.0.1 {CONTROL} >>/etc/hosts\n"
                f"cd {tmp_path}\n"
                f"install --mode=640 --group=batchyard ca.pem {files} /etc/batchyard"
            )
        control.run(blocks[2])
        worker.run("hostname worker-1")
        worker.run(blocks[3])
        cert = (
            f"--tls-ca {tmp_path}/ca.pem --tls-cert {tmp_path}/client-alice.pem --tls-key {tmp_path}/client-alice.key"
        )
        run = f"batchyard run --endpoint grpc://{CONTROL}:8081 {cert} -- hostname"
        assert control.run(run) == "worker-1\n"
