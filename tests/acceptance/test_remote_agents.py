"""A control plane in one process with an agent of its own, and one that comes from elsewhere, by TLS."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from batchyard.rpc.peers import Peer, Role
from support.aws import Account
from support.certificates import Certificates
from support.installation import ANY_PORTS, BatchyardProcess
from support.waiting import soon

ACCOUNT: Final = "210987654321"
READY: Final = re.compile(
    r"batchyard ready (https://127\.0\.0\.1:\d+) grpc://127\.0\.0\.1:\d+ grpc://(127\.0\.0\.1:\d+)\n"
)
UP: Final = (*ANY_PORTS, "--agent-port", "0", "--runtime", "process", "--stop-jobs")


@dataclass
class Machines:
    """An `up` with an agent of one vCPU, and what others need to join it."""

    folder: Path
    certificates: Certificates
    https: str
    agents: str
    running: list[BatchyardProcess]

    def agent(self, name: str, *arguments: str) -> BatchyardProcess:
        """Start an agent with a folder of its own, as one on another machine has it, without waiting for it."""
        where = ("--scheduler", self.agents, "--logs", self.agents, "--data-dir", str(self.folder / name))
        process = BatchyardProcess(
            ["agent", *where, "--runtime", "process", "--stop-jobs", *arguments], log=self.folder / f"{name}.log"
        )
        self.running.append(process)
        return process

    def shown_by(self, role: Role, name: str) -> tuple[str, ...]:
        """Return the flags with which one shows a new certificate."""
        return certified(self.certificates, role, name)


def certified(certificates: Certificates, role: Role, name: str) -> tuple[str, ...]:
    files = certificates.files(Peer(role, name))
    return ("--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-ca", str(files.ca))


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    certificates = Certificates(folder)
    own = certified(certificates, Role.SERVICE, "control")
    up = BatchyardProcess(
        ["up", "--data-dir", str(folder / "up"), *UP, "--capacity", "vcpus=1,memory=1GiB", *own], log=folder / "up.log"
    )
    running = [up]
    try:
        match = READY.fullmatch(up.ready_line())
        assert match, up.ready_line()
        yield Machines(folder, certificates, match[1], match[2], running)
    finally:
        for process in reversed(running):
            process.close()


def place_of(job: Any) -> str:
    return str(job["container"]["containerInstanceArn"]).rpartition("/")[2]


def test_jobs_run_on_the_agent_here_and_on_one_that_comes_from_elsewhere(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(machines.certificates.ca))
    shown = machines.shown_by(Role.AGENT, "elsewhere")
    agent = machines.agent("elsewhere", "--capacity", "vcpus=4,memory=4GiB", *shown)
    assert agent.ready_line() == f"batchyard ready agent grpc://{machines.agents}\n"
    account = Account(machines.https, ACCOUNT)
    try:
        account.make_queue()
        # Four vCPUs are there alone; while they are taken, there is room here alone.
        gate = machines.folder / "gate"
        wide = account.define("wide", containerProperties={"vcpus": 4}, command=waiting_for(gate))
        small = account.define("small", command=["echo", "here"])
        elsewhere = account.submit(jobDefinition=wide)
        account.wait(elsewhere, "RUNNING")
        here = account.wait(account.submit(jobDefinition=small))
        gate.touch()
        there = account.wait(elsewhere)
        assert place_of(there).startswith("elsewhere.")
        assert not place_of(here).startswith("elsewhere")
        assert (here["status"], there["status"]) == ("SUCCEEDED", "SUCCEEDED")
        assert account.log_lines(here) == ["here"]
        # What was printed there has come here, to where the logs of this machine are.
        assert account.log_lines(there, lambda lines: len(lines) == 1) == ["there"]
        stream = there["container"]["logStreamName"]
        assert (machines.folder / "up/logs" / ACCOUNT / f"{stream}.log").read_text() == "there\n"
    finally:
        account.close()


def waiting_for(gate: Path) -> list[str]:
    return ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; echo there"]


def test_who_has_no_certificate_of_an_agent_does_not_come_in(machines: Machines) -> None:
    others = machines.folder / "others"
    others.mkdir()
    cert, key = certified(Certificates(others), Role.AGENT, "elsewhere")[1:4:2]
    ours = ("--tls-ca", str(machines.certificates.ca))
    for process in (
        machines.agent("nobody"),
        machines.agent("foreign", "--tls-cert", cert, "--tls-key", key, *ours),
    ):
        soon(partial(is_turned_away, process), "an agent that is not let in")
        assert process.printed_line(0) is None
    wrong = machines.agent("wrong", *machines.shown_by(Role.CLIENT, "somebody"))
    assert wrong.wait() == 2
    assert "is the certificate of client somebody: this command needs one of a agent" in wrong.log.read_text()


def is_turned_away(agent: BatchyardProcess) -> bool:
    return "lost the session with the scheduler: UnavailableError" in agent.log.read_text()
