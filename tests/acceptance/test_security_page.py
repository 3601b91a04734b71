"""The fleet of docs/security.md, set up by the commands of that page: real processes, real handshakes."""

import os
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
import grpc
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError

from batchyard.api.operations.v1.agents_service_pb2 import ListAgentsRequest
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from batchyard.rpc.peers import Peer, Role
from batchyard.rpc.tls import TlsFiles
from support.certificates import Certificates
from support.installation import BatchyardProcess, free_ports
from support.pages import block

HOST: Final = "control.example.net"
FOLDER: Final = "/etc/batchyard"
USUAL_PORTS: Final = {
    "gateway http": 8080,
    "gateway": 8081,
    "registry": 8082,
    "jobstore": 8083,
    "scheduler": 8084,
    "logs": 8085,
}
AGENT_OPTIONS: Final = ("--runtime", "process", "--capacity", "vcpus=2,memory=1GiB", "--stop-jobs")
PATIENCE_S: Final = 120


def variables(files: TlsFiles) -> dict[str, str]:
    """Return the environment of who has these files."""
    return {
        "BATCHYARD_TLS_CA": str(files.ca),
        "BATCHYARD_TLS_CERT": str(files.cert),
        "BATCHYARD_TLS_KEY": str(files.key),
    }


@dataclass
class Fleet:
    """The machines of the page, on this one: a folder for each, and free ports in place of the usual ones."""

    root: Path
    ports: Mapping[str, int]
    processes: dict[str, BatchyardProcess] = field(default_factory=dict)

    def here(self, text: str, machine: str) -> str:
        """Return a text of the page as it has to be on this machine."""
        for name, port in self.ports.items():
            text = text.replace(f"{HOST}:{USUAL_PORTS[name]}", f"localhost:{port}")
        return text.replace(HOST, "localhost").replace(FOLDER, str(self.root / machine))

    def environment(self, machine: str) -> dict[str, str]:
        """Return what a machine's shell has."""
        own = {
            "BATCHYARD_DATA_DIR": str(self.root / machine / "data"),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            **{
                f"BATCHYARD_{name.upper()}": f"localhost:{self.ports[name]}"
                for name in ("registry", "jobstore", "scheduler", "logs")
            },
        }
        return {**os.environ, **own}

    def shell(self, script: str, machine: str) -> str:
        """Run a block of the page; return what it prints."""
        done = subprocess.run(
            ["sh", "-e", "-c", self.here(script, machine)],
            env=self.environment(machine),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, script: str, machine: str) -> None:
        """Start the services of a block of the page, which are to go on, and wait until they are ready."""
        lines = self.here(script, machine).splitlines()
        words = [shlex.split(line) for line in lines]
        exported = dict(word.split("=", 1) for line in words if line[0] == "export" for word in line[1:])
        started = []
        for line in words:
            if line[0] == "batchyard":
                assert line[-1] == "&"
                started.append(self.start_one(line[1:-1], machine, exported))
        for process in started:
            assert process.ready_line().startswith("batchyard ready")

    def start_one(self, command: Sequence[str], machine: str, exported: Mapping[str, str]) -> BatchyardProcess:
        name = command[0]
        ports = [] if name == "agent" else ["--grpc-port", str(self.ports[name])]
        if name == "gateway":
            ports += ["--port", str(self.ports["gateway http"])]
        options = AGENT_OPTIONS if name == "agent" else ()
        process = BatchyardProcess(
            [*command, *ports, *options],
            log=self.root / f"{machine}.log",
            environment={**self.environment(machine), **exported},
        )
        self.processes[f"{machine} {name}"] = process
        return process

    def credentials(self, machine: str, name: str) -> grpc.ChannelCredentials:
        """Return a certificate on a machine, for use by the test itself."""
        folder = self.root / machine
        return grpc.ssl_channel_credentials(
            (folder / "ca.pem").read_bytes(),
            (folder / f"{name}.key").read_bytes(),
            (folder / f"{name}.pem").read_bytes(),
        )


@contextmanager
def a_fleet(root: Path) -> Iterator[Fleet]:
    fleet = Fleet(root, dict(zip(USUAL_PORTS, free_ports(len(USUAL_PORTS)), strict=True)))
    try:
        yield fleet
    finally:
        for process in reversed(fleet.processes.values()):
            process.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The fleet after the first four steps."""
    worker = block("docs/security.md", "sh", "batchyard agent")
    with a_fleet(tmp_path_factory.mktemp("fleet")) as running:
        root = running.root
        running.shell(block("docs/security.md", "sh", "batchyard certificates init"), "authority")
        for machine, name in (
            *(("control", "service-control"), ("worker-1", "agent-worker-1"), ("worker-2", "agent-worker-2")),
            ("laptop", "client-alice"),
        ):
            (root / machine).mkdir()
            for file in ("ca.pem", f"{name}.pem", f"{name}.key"):
                shutil.copy(root / "ca" / file, root / machine / file)
        (root / "control" / "keys.toml").write_text(
            block("docs/security.md", "toml", "replace-me-by-40-random-characters"), encoding="utf-8"
        )
        (root / "control" / "keys.toml").chmod(0o600)
        running.start(block("docs/security.md", "sh", "batchyard gateway"), "control")
        for machine in ("worker-1", "worker-2"):
            running.start(worker.replace("worker-1", machine), machine)
        yield running


def test_the_fleet_of_the_page_runs_a_job_for_who_has_a_key_and_a_certificate(fleet: Fleet) -> None:
    fleet.shell(block("docs/security.md", "sh", "AWS_CA_BUNDLE"), "laptop")
    assert fleet.shell(block("docs/security.md", "sh", "batchyard run"), "laptop") == "hello from the fleet\n"


def test_agents_are_known_by_their_certificates(fleet: Fleet) -> None:
    target = f"localhost:{fleet.ports['gateway']}"
    with grpc.secure_channel(target, fleet.credentials("control", "service-control")) as channel:
        agents = AgentsServiceStub(channel).ListAgents(ListAgentsRequest(), timeout=PATIENCE_S).agents
    assert sorted(agent.agent_id.partition(".")[0] for agent in agents) == ["worker-1", "worker-2"]


@pytest.mark.parametrize("name", ["gateway", "registry", "jobstore", "scheduler", "logs"])
def test_an_agents_certificate_opens_no_other_door(fleet: Fleet, name: str) -> None:
    with grpc.secure_channel(
        f"localhost:{fleet.ports[name]}", fleet.credentials("worker-1", "agent-worker-1")
    ) as channel:
        call: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=PATIENCE_S)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_agent_does_not_start_on_the_folder_of_another(fleet: Fleet) -> None:
    folder, own = fleet.root / "stolen" / "data" / "agent", fleet.root / "worker-2"
    folder.mkdir(parents=True)
    shutil.copy(fleet.root / "worker-1" / "data" / "agent" / "agent.json", folder)
    tls = variables(TlsFiles(own / "agent-worker-2.pem", own / "agent-worker-2.key", own / "ca.pem"))
    thief = fleet.start_one(["agent"], "stolen", tls)
    assert thief.wait() == 2
    assert "the certificate is that of agent worker-2" in thief.log.read_text()


def test_up_needs_no_certificate_for_its_own_agent(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    service = certificates.files(Peer(Role.SERVICE, "up"))
    client = certificates.files(Peer(Role.CLIENT, "alice"))
    ports = ["--port", "0", "--grpc-port", "0"]
    up = BatchyardProcess(
        ["up", "--data-dir", str(tmp_path / "data"), *ports, *AGENT_OPTIONS],
        log=tmp_path / "up.log",
        environment=variables(service),
    )
    try:
        assert up.ready_line().startswith("batchyard ready https://127.0.0.1:")
        job = ["run", "--data-dir", str(tmp_path / "data"), "--", "echo", "hello"]
        environment = {**os.environ, **variables(client)}
        printed = subprocess.run(
            [sys.executable, "-m", "batchyard.cli", *job],
            env=environment,
            capture_output=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout
    finally:
        up.close()
    assert printed == b"hello\n"


def test_aws_clients_without_the_authority_or_a_key_are_refused(fleet: Fleet) -> None:
    session = boto3.Session("AKIDMALLORY", "a secret of enough characters", region_name="us-east-1")
    url, config = f"https://localhost:{fleet.ports['gateway http']}", Config(retries={"total_max_attempts": 1})
    trusting = session.client("batch", endpoint_url=url, config=config, verify=str(fleet.root / "laptop" / "ca.pem"))
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        trusting.describe_job_queues()
    doubting = session.client("batch", endpoint_url=url, config=config)
    with pytest.raises(SSLError):
        doubting.describe_job_queues()
    for client in (trusting, doubting):
        client.close()


def test_services_with_a_port_for_prometheus_say_where_it_is(fleet: Fleet, tmp_path: Path) -> None:
    jobstore, agent = (
        shlex.split(line) for line in block("docs/monitoring.md", "sh", "--monitoring-port").splitlines()
    )
    usual = [*jobstore, *agent]
    ports = {word: str(port) for word, port in zip(("9183", "9185"), free_ports(2), strict=True) if word in usual}
    assert len(ports) == 2
    for words, machine, certificate in (
        (jobstore, "control", "service-control"),
        # A second one with the certificate of the first: another agent.
        ([*agent, "--scheduler", f"{HOST}:8084", "--logs", f"{HOST}:8085"], "worker-2", "agent-worker-2"),
    ):
        own = fleet.root / machine
        tls = variables(TlsFiles(own / f"{certificate}.pem", own / f"{certificate}.key", own / "ca.pem"))
        (grpc_port,) = free_ports(1)
        process = BatchyardProcess(
            [
                *(ports.get(word, fleet.here(word, machine)) for word in words[1:]),
                *(AGENT_OPTIONS if words is not jobstore else ("--grpc-port", str(grpc_port))),
            ],
            log=tmp_path / "more.log",
            environment={**fleet.environment(machine), **tls, "BATCHYARD_DATA_DIR": str(tmp_path / machine)},
        )
        try:
            url = process.ready_line().split()[-1].replace("0.0.0.0", "127.0.0.1")
            with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_S) as response:
                assert b"process_cpu_seconds_total" in response.read()
        finally:
            process.close()


def test_a_host_of_the_fleet_is_drained(fleet: Fleet) -> None:
    tls = variables(
        TlsFiles(*(fleet.root / "control" / name for name in ("service-control.pem", "service-control.key", "ca.pem")))
    )
    export = "export " + " ".join(f"{name}={value}" for name, value in tls.items())
    where = f"export BATCHYARD_ENDPOINT=grpc://{HOST}:8081"
    fleet.shell("\n".join((export, where, block("docs/your-cluster.md", "sh", "batchyard drain"))), "control")
    target = f"localhost:{fleet.ports['gateway']}"
    with grpc.secure_channel(target, fleet.credentials("control", "service-control")) as channel:
        agents = AgentsServiceStub(channel).ListAgents(ListAgentsRequest(), timeout=PATIENCE_S).agents
    assert [agent.agent_id.partition(".")[0] for agent in agents if agent.status == "DRAINING"] == ["worker-1"]
