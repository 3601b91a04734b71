"""Batchyard as its users start it: real processes on free ports and a folder of their own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count as counter
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Final

START_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 30.0

HOST_OPTIONS: Final = ("--runtime", "process", "--capacity", "vcpus=8,memory=16GiB", "--stop-jobs")
"""The agent offers the same on every machine, and leaves nothing running behind."""
ANY_PORTS: Final = ("--port", "0", "--grpc-port", "0")
_FIRST_PORT: Final = 20_000
_PORTS_A_WORKER: Final = 1000
_WORKERS: Final = 12
_ports = counter(os.getpid())

READY_UP: Final = re.compile(r"batchyard ready (http://127\.0\.0\.1:\d+) grpc://(127\.0\.0\.1:\d+)\n")
READY_SERVICE: Final = re.compile(r"batchyard ready (\w+) grpc://(127\.0\.0\.1:\d+)(?: (http://127\.0\.0\.1:\d+))?\n")


class BatchyardProcess:
    """One `batchyard` command, in a session and process group of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` is a command that becomes the one that is its arguments, as `nsenter` does."""
        self.log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "batchyard.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._printed = b""

    @property
    def pid(self) -> int:
        """The process, which leads its group."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def ready_line(self) -> str:
        """Wait for the first line on stdout; fail with the log if it does not come."""
        return self.lines(1)[0]

    def lines(self, count: int) -> list[str]:
        """Wait for so many lines on stdout and return the first of all that came; fail with the log if they do not."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + START_DEADLINE_S
        with DefaultSelector() as selector:
            selector.register(stdout, EVENT_READ)
            while self._printed.count(b"\n") < count:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"no line {count} after {START_DEADLINE_S} s\n{self.log.read_text()}")
                chunk = os.read(stdout.fileno(), 4096)
                if not chunk:
                    raise AssertionError(f"ended with {self.wait()} before line {count}\n{self.log.read_text()}")
                self._printed += chunk
        return self._printed.decode().splitlines(keepends=True)[:count]

    def printed_line(self, patience_s: float) -> str | None:
        """Return the first line on stdout if it has come, or comes within this time; None if not, or not any more."""
        stdout = self._process.stdout
        assert stdout is not None
        with DefaultSelector() as selector:
            selector.register(stdout, EVENT_READ)
            if b"\n" not in self._printed and selector.select(patience_s):
                self._printed += os.read(stdout.fileno(), 4096)
        line, ending, _ = self._printed.partition(b"\n")
        return line.decode() if ending else None

    def interrupt(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the process alone and wait for its end."""
        self._process.send_signal(number)
        return self.wait()

    def kill_group(self) -> None:
        """Kill the process and all that it started and that is still in its group, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(STOP_DEADLINE_S)

    def output(self) -> str:
        """Return all of stdout, from first to last; only after the end."""
        stdout = self._process.stdout
        assert stdout is not None
        self._printed += stdout.read()
        return self._printed.decode()

    def close(self) -> None:
        """End it, if nobody has, and let go of its pipe."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill_group()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(slots=True)
class Installation:
    """A running installation, in one process or in several."""

    folder: Path
    http_url: str
    grpc_target: str
    processes: dict[str, BatchyardProcess] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    """By the name of a service, what it is told at its start; of an installation in several processes."""
    monitoring_urls: dict[str, str] = field(default_factory=dict)
    """By the name of a service, where its `/metrics` are."""

    def start(self, name: str) -> None:
        """Start a service, without waiting for it."""
        log = self.folder / "services.log"
        self.processes[name] = BatchyardProcess([name, *self.commands[name]], log=log)

    def wait_until_ready(self, name: str) -> None:
        """Wait for a service's ready line."""
        line = self.processes[name].ready_line()
        match = READY_SERVICE.fullmatch(line)
        assert match, line
        assert match[1] == name
        if match[3]:
            self.monitoring_urls[name] = match[3]

    def restart(self, name: str) -> None:
        """Stop a service in order and start it again; the gateway's successor is ready before its end."""
        before = self.processes[name]
        if name == "gateway":
            self.start(name)
            self.wait_until_ready(name)
        code = before.interrupt()
        before.close()
        assert code == 0, before.log.read_text()
        if name != "gateway":
            self.start(name)
            self.wait_until_ready(name)

    def close(self) -> None:
        """Stop everything, the entrance first."""
        for process in reversed(self.processes.values()):
            process.close()


@contextmanager
def batchyard(arguments: Sequence[str], *, log: Path) -> Iterator[BatchyardProcess]:
    """Run one command for the length of the context."""
    process = BatchyardProcess(arguments, log=log)
    try:
        yield process
    finally:
        process.close()


def start_up(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Installation:
    """Start `batchyard up` on a folder and wait until it can run jobs."""
    process = BatchyardProcess(
        ["up", "--data-dir", str(folder), *ANY_PORTS, *HOST_OPTIONS, *arguments],
        log=folder.with_name(folder.name + ".log"),
        environment=environment,
    )
    try:
        match = READY_UP.fullmatch(process.ready_line())
        assert match, process.ready_line()
    except BaseException:
        process.close()
        raise
    return Installation(folder, match[1], match[2], {"up": process}, monitoring_urls={"up": match[1]})


def start_six(
    folder: Path,
    *,
    jobstore: Sequence[str] = (),
    scheduler: Sequence[str] = (),
    agent: Sequence[str] = (),
    jobs_outlive_agent: bool = False,
) -> Installation:
    """Start the six services as processes of their own, each told where the others are; three with further flags."""
    folder.mkdir()
    host_options = [word for word in HOST_OPTIONS if not (jobs_outlive_agent and word == "--stop-jobs")]
    names = ("registry", "jobstore", "scheduler", "logs")
    *inner_ports, http_port, grpc_port = free_ports(6)
    ports = dict(zip(names, inner_ports, strict=True))
    where = {name: ["--" + name, f"127.0.0.1:{port}"] for name, port in ports.items()}
    commands = {
        "registry": [*where["jobstore"], "--data-dir", str(folder)],
        "jobstore": [*where["registry"], "--data-dir", str(folder), *jobstore],
        "scheduler": [*where["jobstore"], *where["registry"], *scheduler],
        "logs": [*where["jobstore"], "--data-dir", str(folder)],
        "agent": [*where["scheduler"], *where["logs"], "--data-dir", str(folder / "agent"), *host_options, *agent],
        "gateway": [
            *(word for option in where.values() for word in option),
            *("--port", str(http_port), "--grpc-port", str(grpc_port), "--reuse-port"),
        ],
    }
    for name, port in ports.items():
        commands[name] += ["--grpc-port", str(port)]
    for name in (*ports, "agent"):
        commands[name] += ["--monitoring-port", "0"]
    http_url, grpc_target = f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
    installation = Installation(folder, http_url, grpc_target, commands=commands)
    try:
        for name in commands:
            installation.start(name)
        for name in commands:
            installation.wait_until_ready(name)
    except BaseException:
        installation.close()
        raise
    return installation


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on, and that are not returned again soon.

    They are below those that the kernel gives to whoever asks for any: it would give one that is free now to another
    test before it is used. Each worker of the tests has its own.
    """
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _WORKERS
    found: list[int] = []
    while len(found) < count:
        port = _FIRST_PORT + worker * _PORTS_A_WORKER + next(_ports) % _PORTS_A_WORKER
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found
