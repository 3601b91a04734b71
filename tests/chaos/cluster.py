"""The services and five agents as processes of their own, each of which can be killed, paused and started again."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final

from chaos.clocks import Clocks
from chaos.disks import Disks
from chaos.network import Network, open_network
from support.cgroups import cgroups_named
from support.docker import OwnEngine, an_engine, can_have_own_engine
from support.installation import BatchyardProcess, free_ports

PROCESS_AGENTS: Final = ("agent-1", "agent-2", "agent-3")
CONTAINER_AGENTS: Final = ("agent-4", "agent-5")
INNER_SERVICES: Final = ("registry", "jobstore", "scheduler", "logs")
PROCESSES: Final = "processes"
CONTAINERS: Final = "containers"
"""Queues and compute environments, by what their jobs run as."""

LEASE_S: Final = 8.0
"""Of the agents: short, so that a pause can be longer."""
_LEASES: Final = (
    *("--heartbeat-interval", "0.5", "--suspicion", "2"),
    *("--lease", str(LEASE_S), "--kill-budget", "4"),
)
_LEADER_LEASE: Final = ("--leader-lease", "2")
_DISK_MIB: Final = 64
_DISK_MIB_A_MINUTE: Final = 16

READY_BOUND_S: Final = 120.0
"""How long after the end of its troubles a process may take to be ready."""
_POLL_S: Final = 0.1


class Cluster:
    """Processes named like the services, each on a host of its own; agents keep their folders over restarts."""

    def __init__(self, folder: Path, network: Network, disks: Disks, clocks: Clocks, engine: OwnEngine | None) -> None:
        self.folder, self.network, self.disks, self.clocks, self.engine = folder, network, disks, clocks, engine
        self.http_url = ""
        self.restarts = 0
        """How often a process that could not start, or ended by itself, was started once more."""
        self.ended_by_themselves: list[str] = []
        self._processes: dict[str, BatchyardProcess] = {}
        self._commands = self._make_commands()

    def _make_commands(self) -> dict[str, list[str]]:
        ports = dict(zip((*INNER_SERVICES, "http", "gateway"), free_ports(6), strict=True))
        at = self.network.address
        where = {name: ["--" + name, f"{at(name)}:{ports[name]}"] for name in INNER_SERVICES}
        listen = {
            name: ["--host", at(name), "--insecure", "--grpc-port", str(ports[name])]
            for name in (*INNER_SERVICES, "gateway")
        }
        to_scheduler = [*where["scheduler"], *where["logs"]]
        data = ["--data-dir", str(self.store_folder)]
        return {
            "registry": ["registry", *listen["registry"], *where["jobstore"], *data],
            "jobstore": ["jobstore", *listen["jobstore"], *where["registry"], *data, *_LEADER_LEASE],
            "scheduler": ["scheduler", *listen["scheduler"], *where["jobstore"], *where["registry"], *_LEASES],
            "logs": ["logs", *listen["logs"], *where["jobstore"], "--data-dir", str(self.folder / "logs")],
            **{name: ["agent", *to_scheduler, *self._agent_options(name)] for name in self.agents},
            "gateway": [
                *("gateway", "--port", str(ports["http"])),
                *listen["gateway"],
                *chain.from_iterable(where.values()),
            ],
        }

    def _agent_options(self, name: str) -> list[str]:
        kind = (
            ["--runtime", "docker", "--compute-environment", CONTAINERS]
            if name in CONTAINER_AGENTS
            else ["--runtime", "process", "--compute-environment", PROCESSES]
        )
        return ["--data-dir", str(self.folder / name), "--capacity", "vcpus=4,memory=4GiB", *kind]

    @property
    def store_folder(self) -> Path:
        """Where the databases are."""
        return self.folder / "store"

    @property
    def agents(self) -> list[str]:
        """All agents; those of containers only with an engine, which they share."""
        return [*PROCESS_AGENTS, *(CONTAINER_AGENTS if self.engine else ())]

    @property
    def names(self) -> list[str]:
        """Everything that can be harmed."""
        return list(self._commands)

    # Processes

    def spawn(self, name: str) -> None:
        """Start a process on its host, without waiting for it."""
        environment = self.clocks.environment(name)
        if name in CONTAINER_AGENTS and self.engine is not None:
            environment["DOCKER_HOST"] = self.engine.url
        self._processes[name] = BatchyardProcess(
            self._commands[name],
            log=self.folder / "said" / f"{name}.log",
            environment=environment,
            prefix=self.network.inside(name),
        )

    def kill(self, name: str) -> None:
        """Kill a process at once; an agent's launcher, containers and jobs live on."""
        process = self._processes.pop(name)
        process.interrupt(signal.SIGKILL)
        process.close()

    def lose_host(self, agent: str, *, with_disk: bool) -> None:
        """Kill an agent with its launcher and all that they have started at one moment, and forget what a boot forgets.

        For hosts of processes; what a container engine runs is not the host's own.
        """
        stopped: set[int] = set()
        # A host dies as a whole: nobody on it sees another one die, nor starts anything meanwhile.
        while fresh := self._processes_of(agent) - stopped:
            for pid in fresh:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= fresh
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process = self._processes.pop(agent)
        process.interrupt(signal.SIGKILL)
        process.close()
        for path in sorted(self._cgroups_of(agent), key=lambda path: -len(path.parts)):
            _remove_cgroups(path)
        if with_disk:
            for path in (self.folder / agent).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _processes_of(self, agent: str) -> set[int]:
        """Return an agent, its launchers, and all their descendants."""
        roots = {self._processes[agent].pid, *self._launchers_of(agent)}
        children: dict[int, list[int]] = {}
        for pid in _pids():
            with suppress(OSError, IndexError, ValueError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(pid)
        found: set[int] = set()
        while roots:
            pid = roots.pop()
            if pid not in found:
                found.add(pid)
                roots.update(children.get(pid, ()))
        return found

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        with suppress(ProcessLookupError):
            os.kill(self._processes[name].pid, number)

    def launcher_of(self, agent: str) -> int | None:
        """Return the process id of an agent's launcher, or of its containers' guard, if it has one now."""
        return next(self._launchers_of(agent), None)

    def _launchers_of(self, agent: str) -> Iterator[int]:
        mark = str((self.folder / agent).resolve()).encode()
        for pid in _pids():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"python" in line[0] and b"-S" in line and any(mark in word for word in line):
                    yield pid

    def mend(self) -> None:
        """Do what a service manager does: start again what has ended, until everything is ready.

        Before it is ready a process is entitled to end, as one whose disk is full does; after that it is noted.
        """
        deadline = time.monotonic() + READY_BOUND_S
        waiting = set(self.names)
        while waiting:
            for name in sorted(waiting):
                process = self._processes[name]
                line = process.printed_line(_POLL_S)
                if not process.is_running:
                    code = process.wait()
                    if line is not None:
                        self.ended_by_themselves.append(f"{name} ended by itself, with {code}")
                    process.close()
                    self.restarts += 1
                    self.spawn(name)
                elif line is not None:
                    waiting.discard(name)
                    if name == "gateway":
                        self.http_url = line.split()[-1]
            if time.monotonic() > deadline:
                said = "".join((self.folder / "said" / f"{name}.log").read_text()[-1500:] for name in sorted(waiting))
                raise AssertionError(f"not ready within {READY_BOUND_S} s: {sorted(waiting)}\n{said}")

    def close(self) -> None:
        """Stop everything, the entrance first."""
        for name in [name for name in reversed(self.names) if name in self._processes]:
            self._processes.pop(name).close()

    def processes_left(self) -> list[str]:
        """Return the command lines of processes that carry this cluster's folder."""
        found, mark = [], str(self.folder).encode()
        for pid in _pids():
            if pid != os.getpid():
                with suppress(OSError):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if mark in line:
                        found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def containers_left(self) -> list[str]:
        """Return the engine's containers."""
        return self.engine.containers() if self.engine else []

    def cgroups_left(self) -> list[str]:
        """Return cgroups of the agents' launchers."""
        return [str(path) for path in self._cgroups_of("agent-*")]

    def _cgroups_of(self, agents: str) -> list[Path]:
        """Return the cgroups of the launchers of agents whose names match a pattern."""
        ids = [path.read_text() for path in self.folder.glob(f"{agents}/agent/agent.json")]
        names = {f"batchyard-{word}" for text in ids for word in text.split('"')}
        return cgroups_named(names)


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _remove_cgroups(path: Path) -> None:
    """Remove a cgroup and those in it, once what was killed in them is gone."""
    for below in path.iterdir():
        if below.is_dir():
            _remove_cgroups(below)
    deadline = time.monotonic() + READY_BOUND_S
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


@contextmanager
def cluster(folder: Path, *, minutes: float, containers: bool) -> Iterator[Cluster]:
    """Run all processes for the length of the context; the folder is left to look into."""
    with ExitStack() as stack:
        folder.mkdir(mode=0o700)
        (folder / "said").mkdir()
        engine = None
        if containers and can_have_own_engine():
            engine = stack.enter_context(an_engine())
        network = open_network([*INNER_SERVICES, *PROCESS_AGENTS, *CONTAINER_AGENTS, "gateway"])
        stack.callback(network.close)
        homes = ["store", "logs", *PROCESS_AGENTS, *CONTAINER_AGENTS]
        size = _DISK_MIB + int(_DISK_MIB_A_MINUTE * minutes)
        disks = Disks({name: folder / name for name in homes}, mib=size)
        stack.callback(disks.close)
        running = Cluster(folder, network, disks, Clocks(folder / "clocks"), engine)
        stack.callback(running.close)
        for name in running.names:
            running.spawn(name)
        running.mend()
        yield running
