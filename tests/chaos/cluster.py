"""The services and three agents as processes of their own, each of which can be killed, paused and started again."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final

from support.installation import READY_SERVICE, BatchyardProcess, free_ports

AGENTS: Final = ("agent-1", "agent-2", "agent-3")
SERVICES: Final = ("registry", "jobstore", "scheduler", "logs")
LEASE_S: Final = 6.0
"""Of the agents: short, so that a pause can be longer."""
_LEASES: Final = (
    *("--heartbeat-interval", "0.5", "--suspicion", "2"),
    *("--lease", str(LEASE_S), "--kill-budget", "2"),
)
_LEADER_LEASE: Final = ("--leader-lease", "2")


class Cluster:
    """Nine processes on loopback, named like the services; agents keep their folders over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http_url = ""
        self._processes: dict[str, BatchyardProcess] = {}
        ports = dict(zip((*SERVICES, "http", "gateway"), free_ports(6), strict=True))
        where = {name: ["--" + name, f"127.0.0.1:{ports[name]}"] for name in SERVICES}
        listen = {name: ["--grpc-port", str(ports[name])] for name in (*SERVICES, "gateway")}
        data = ["--data-dir", str(folder)]
        self._commands = {
            "registry": ["registry", *listen["registry"], *where["jobstore"], *data],
            "jobstore": ["jobstore", *listen["jobstore"], *where["registry"], *data, *_LEADER_LEASE],
            "scheduler": ["scheduler", *listen["scheduler"], *where["jobstore"], *where["registry"], *_LEASES],
            "logs": ["logs", *listen["logs"], *where["jobstore"], *data],
            **{name: ["agent", *where["scheduler"], *where["logs"], *self._agent_options(name)] for name in AGENTS},
            "gateway": [
                *("gateway", "--port", str(ports["http"])),
                *listen["gateway"],
                *chain.from_iterable(where.values()),
            ],
        }

    def _agent_options(self, name: str) -> list[str]:
        return ["--data-dir", str(self.folder / name), "--runtime", "process", "--capacity", "vcpus=4,memory=4GiB"]

    @property
    def names(self) -> list[str]:
        """Everything that can be harmed."""
        return list(self._commands)

    def start(self, *names: str) -> None:
        """Start processes and wait until they are ready."""
        for name in names:
            self._processes[name] = BatchyardProcess(self._commands[name], log=self.folder / f"{name}.log")
        for name in names:
            match = READY_SERVICE.fullmatch(self._processes[name].ready_line())
            assert match, name
            self.http_url = match[3] or self.http_url

    def kill(self, name: str) -> None:
        """Kill a process at once; an agent's launcher and jobs live on."""
        process = self._processes.pop(name)
        process.interrupt(signal.SIGKILL)
        process.close()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        os.kill(self._processes[name].pid, number)

    def launcher_of(self, agent: str) -> int | None:
        """Return the process id of an agent's launcher, if it has one now."""
        mark = str((self.folder / agent).resolve()).encode()
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with suppress(OSError):
                    line = (path / "cmdline").read_bytes().split(b"\0")
                    if line[0].endswith(b"python") and b"-S" in line and any(mark in word for word in line):
                        return int(path.name)
        return None

    def close(self) -> None:
        """Stop everything, the entrance first."""
        for name in [name for name in reversed(self.names) if name in self._processes]:
            self._processes.pop(name).close()

    def leftovers(self) -> list[str]:
        """Return the command lines of processes that carry this cluster's folder."""
        found, mark = [], str(self.folder).encode()
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and int(path.name) != os.getpid():
                with suppress(OSError):
                    line = (path / "cmdline").read_bytes()
                    if mark in line:
                        found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run all processes for the length of the context."""
    folder.mkdir(mode=0o700)
    running = Cluster(folder)
    try:
        running.start(*running.names)
        yield running
    finally:
        running.close()
