"""A host: a disk, a clock, and on it the production launcher, whose processes are timers."""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

from batchyard.agent.launcher import journal as journal_module
from batchyard.agent.launcher import server, starting, tree, wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.journal import Journal
from batchyard.agent.launcher.ledger import Fence, Need, RunEnd, RunState
from batchyard.agent.launcher.processes import OUT_OF_MEMORY
from batchyard.agent.launcher.server import Launcher
from batchyard.agent.launcher.starting import Starter
from batchyard.agent.launcher.workfolders import WorkFolders
from batchyard.agent.runtimes import launched
from batchyard.agent.runtimes.launched import _end_leftovers
from simulation.checker import Checker
from simulation.kernel import HostClock, Kernel, Life
from simulation.network import End, Network

IDLE_S = 5.0


class Host:
    """What outlives its processes: the disk, unless it is lost, and the clock until the next boot."""

    def __init__(
        self, kernel: Kernel, net: Network, checker: Checker, name: str, disk: Path, rate: float, capacity: Need
    ) -> None:
        self.kernel = kernel
        self.net = net
        self.checker = checker
        self.name = name
        self.clock = HostClock(kernel, rate=rate, wall_skew_s=kernel.rng.uniform(-1e6, 1e6))
        self.capacity = capacity
        self.environments: tuple[str, ...] = ()
        """The compute environments that its agent serves, by name; none: all."""
        self.kill_latency_s = 1.0
        """The longest that a process takes to die of SIGKILL."""
        self.durations: Callable[[], float] = lambda: 1.0
        self.disk_failures = 0.0
        self.claim_deaths = 0.0
        """Probability that the launcher dies about a start: after the claim, or before what follows it is written."""
        self.lies = 0.0
        """Probability that its launcher tells something of its runs late, again, or not whole."""
        self.namespaced = kernel.chance(0.8)
        """Whether the death of a launcher ends what it has started."""
        self.orphans: dict[int, SimulatedProcess] = {}
        """What a launcher without a namespace has left behind, by process id."""
        self.launcher: SimulatedLauncher | None = None
        self.boots = 0
        self.launchers = self.pids = 0
        self.disks = 0
        self._disk = disk
        self.new_disk()
        self.boot()

    @property
    def folder(self) -> Path:
        """Where its agent keeps what it must not forget."""
        return self._disk / f"{self.name}-{self.disks}"

    @property
    def agent_id(self) -> str:
        """The agent's id: that of the disk."""
        return f"{self.name}.{self.disks}"

    def new_disk(self) -> None:
        """Lose the disk, and get an empty one; the agent on it is another one."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.disks += 1
        self.folder.mkdir()

    def boot(self) -> None:
        """Begin a new run of the kernel."""
        self.boots += 1
        self.clock.boot()

    def start_launcher(self) -> None:
        """Start a launcher, unless one lives."""
        if self.launcher is None:
            with on_cpu_of(self):
                _end_leftovers(self.folder, self.agent_id)
                self.launcher = SimulatedLauncher(self)

    def launcher_dies(self) -> None:
        """Kill the launcher, and with it, if it is PID 1 of a namespace, all that it has started."""
        if self.launcher is not None:
            self.kernel.note(f"{self.name}: launcher dies")
            self.launcher.die()
            self.launcher = None

    def power_fails(self) -> None:
        """Stop everything; of what was not synced, a part is lost."""
        journal = self.launcher.journal if self.launcher is not None else None
        self.launcher_dies()
        for process in list(self.orphans.values()):
            process.vanish()
        if journal is not None:
            kept = self.kernel.rng.randint(journal.synced, journal.written)
            os.truncate(self.folder / "journal", kept)


class _DeathError(Exception):
    """The launcher dies at this very place."""


class SyncedJournal(Journal):
    """The production journal, which knows how much of it a power cut leaves, on a disk that may be full."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._is_ready = False
        self.synced = self.written = 0
        super().__init__(str(host.folder / "journal"), wire.boot_id(), namespaced=host.namespaced)
        self._is_ready = True

    def _write(self, line: bytes, *, sync: bool) -> None:
        kind = json.loads(line)[0]
        if self._is_ready and self._host.kernel.chance(self._host.disk_failures):
            raise OSError("no space left on the simulated device")
        # The claim is on disk and nothing has started; or something has, and nobody has said so yet.
        if self._is_ready and kind in ("B", "S") and self._host.kernel.chance(self._host.claim_deaths):
            raise _DeathError
        super()._write(line, sync=sync)
        self.written = self._size
        if sync:
            self.synced = self._size
        if self._is_ready and kind in ("C", "B") and self._host.kernel.chance(self._host.claim_deaths):
            raise _DeathError

    def rewrite(self, lines: Iterable[list[object]]) -> None:
        super().rewrite(lines)
        self.synced = self.written = self._size


class SimulatedProcess:
    """A run's process: a timer that ends, or is ended."""

    def __init__(self, launcher: "SimulatedLauncher", fence: Fence, order: wire.StartOrder) -> None:
        self._launcher = launcher
        self._life = Life("process")
        self._kernel = launcher.host.kernel
        self.fence = fence
        launcher.host.pids += 1
        self.pid = launcher.host.pids
        self.folder = ""
        self.cgroup = None
        self.exit_code: int | None = None
        self.stopped: RunEnd | None = None
        self.is_over_memory = False
        self.deadline = float("inf")
        self.timeout_s = order.timeout_s
        self.timeout_grace_s = order.timeout_grace_s
        self.lives = True
        self._is_dying = False
        launcher.host.checker.started(
            launcher.host.name,
            fence,
            order.env["AWS_BATCH_JOB_ID"],
            int(order.env["AWS_BATCH_JOB_ATTEMPT"]),
            ends_within_s=order.timeout_s + order.timeout_grace_s if order.timeout_s is not None else None,
        )
        exit_code = 0 if self._kernel.chance(0.75) else 1
        self._kernel.after(launcher.host.durations(), self._life, lambda: self._end(exit_code))

    def stop(self, end: RunEnd, now: float, grace_s: float) -> None:
        """Ask it to end, and have it killed after the grace."""
        if self.stopped is None:
            self.stopped, self.deadline = end, now + grace_s
            if grace_s > 0 and self._kernel.chance(0.5):
                self._kernel.after(self._kernel.rng.random() * grace_s, self._life, lambda: self._end(143))
        else:
            self.deadline = min(self.deadline, now + grace_s)

    def has_survivors(self, *, strangers: bool) -> bool:
        """Tell whether something of it lives on."""
        return False

    def kill(self, now: float, others: object) -> bool:
        """Kill it, which takes a moment; return whether it was alive."""
        if self.lives and not self._is_dying:
            self._is_dying = True
            latency_s = self._kernel.rng.random() * self._launcher.host.kill_latency_s
            self._kernel.after(latency_s, self._life, lambda: self._end(137))
        self.deadline = now + 0.5
        return self.lives

    def was_out_of_memory(self) -> bool:
        """Tell whether it was killed for memory."""
        return False

    def vanish(self, exit_code: int | None = None) -> None:
        """End without anyone to see it."""
        if self.lives:
            self.lives = self._life.alive = False
            self._launcher.host.orphans.pop(self.pid, None)
            self._launcher.host.checker.ended(self.fence, exit_code)

    def _end(self, exit_code: int) -> None:
        if self.lives:
            self.vanish(exit_code)
            self.exit_code = exit_code
            self._launcher.exited.append(self)
            self._launcher.soon()


class _NoFolders:
    """Stands for the work folders."""

    removers: AbstractSet[int] = frozenset()

    def take(self, user: object) -> str:
        """Return a folder."""
        return ""

    def give_back(self, folder: str) -> None:
        """Do nothing."""


class SimulatedLauncher(Launcher):
    """The production launcher with its rim cut off: no sockets, signals and processes of the machine."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.life = Life(f"{host.name} launcher")
        self.exited: list[SimulatedProcess] = []
        self.journal = SyncedJournal(host)
        self._end: End | None = None
        self._wakes_at = float("inf")
        host.launchers += 1
        host.kernel.note(f"{host.name}: launcher {host.launchers} starts")
        options = Options(folder=str(host.folder), agent_id=host.agent_id, idle_s=IDLE_S)
        super().__init__(options, self.journal, None, namespaced=host.namespaced)
        self._selector.close()
        self._said: deque[dict[str, object]] = deque(maxlen=8)
        for run in self._ledger.runs.values():
            if run.end is RunEnd.NEVER_STARTED:
                host.checker.never_started(run.fence)
        self._instance = f"launcher-{host.launchers}"
        self._starter = Starter(cast("WorkFolders", _NoFolders()), None)
        host.net.listen(f"{host.name} launcher", self.life, host.name, self._accepted)
        self.soon()

    def die(self) -> None:
        """End at once; what it has started ends too, or becomes an orphan."""
        self.life.alive = False
        processes = cast("dict[Fence, SimulatedProcess]", self._processes)
        for process in list(processes.values()):
            if self.host.namespaced:
                process.vanish()
            elif process.lives:
                self.host.orphans[process.pid] = process
        self.journal.close()
        self.host.net.died(self.life)

    def soon(self) -> None:
        """Take a turn next."""
        self._wake_in(0.0005)

    def _wake_in(self, delay_s: float) -> None:
        at = self.host.kernel.now + delay_s
        if at < self._wakes_at:
            self._wakes_at = at
            self.host.kernel.after(delay_s, self.life, lambda: self._wake_up(at))

    def _wake_up(self, at: float) -> None:
        if at != self._wakes_at:
            return
        self._wakes_at = float("inf")
        with on_cpu_of(self.host):
            if self._is_over(wire.now()):
                self.host.kernel.note(f"{self.host.name}: launcher leaves")
                self.die()
                self.host.launcher = None
                return
            try:
                self.turn()
            except _DeathError:
                self.host.launcher_dies()
                return
            patience_s = self._patience(wire.now())
        if patience_s is not None:
            self._wake_in(max(0.001, patience_s / self.host.clock.rate))

    # What production does with the machine

    def _listen(self) -> None:
        pass

    def _wake_on_exits(self) -> None:
        pass

    def _collect_exits(self) -> list[SimulatedProcess]:  # type: ignore[override]
        exited, self.exited = self.exited, []
        return exited

    def _accepted(self, end: End, data: bytes) -> None:
        with on_cpu_of(self.host):
            self._drop_agent()
            self._end = end
            self._agent = end  # type: ignore[assignment]  # only whether there is one counts
            self._inbox = wire.LineBuffer()
            end.received = self._obey_all
            end.closed = lambda _: self._lose_agent(end)
            self._withdraw(self._ledger.take_changes())
            self._send(
                {
                    "protocol": wire.PROTOCOL,
                    "instance": self._instance,
                    "namespaced": self._namespaced,
                    "lost": self._lost,
                    "runs": [wire.encode_run(run) for run in self._ledger.runs.values()],
                }
            )
            self._obey_all(data)

    def _lose_agent(self, end: End) -> None:
        if self._end is end:
            with on_cpu_of(self.host):
                self._drop_agent()
            self.soon()

    def _drop_agent(self) -> None:
        self._agent = self._end = None
        self._idle_since = wire.now()

    def _obey_all(self, data: bytes) -> None:
        with on_cpu_of(self.host):
            for message in self._inbox.feed(data):
                self._obey(message)
        self.soon()

    def _send(self, message: dict[str, object]) -> None:
        if self._end is None:
            return
        if "instance" not in message and self.host.kernel.chance(self.host.lies):
            self._lie(self._end, message)
        else:
            self._end.send(wire.encode(message))
        self._said.append(message)

    def _lie(self, end: End, message: dict[str, object]) -> None:
        """Say it as a bad runtime does: an old word again, this one later, or without the exit code."""
        kernel = self.host.kernel
        kind = kernel.rng.choice(("again", "late", "never up", "no code", "out of memory"))
        runs = [list(run) for run in cast("list[list[object]]", message["runs"])]
        if kind == "late":
            kernel.after(5 * kernel.rng.random(), self.life, lambda: end.send(wire.encode(message)))
            return
        if kind == "never up":
            # How it ended tells that it was up.
            runs = [run for run in runs if run[1] != RunState.STARTED]
        for run in runs:
            if kind == "no code" and run[6] == RunEnd.EXITED:
                run[5] = None
            if kind == "out of memory" and run[5]:
                run[7] = OUT_OF_MEMORY
        end.send(wire.encode({"runs": runs}))
        if kind == "again" and self._said:
            end.send(wire.encode(kernel.rng.choice(self._said)))


_cpu: list[Host] = []


def _kill_orphans(list_members: Callable[[], Collection[int]]) -> bool:
    members = list_members()
    for pid in members:
        _cpu[-1].orphans[pid].vanish()
    return bool(members)


@contextmanager
def on_cpu_of(host: Host) -> Iterator[None]:
    """Let code ask this host for its clock."""
    _cpu.append(host)
    try:
        yield
    finally:
        _cpu.pop()


def _spawn(fence: Fence, order: wire.StartOrder, folder: str, cgroup: object, standby: object) -> SimulatedProcess:
    launcher = _cpu[-1].launcher
    assert launcher is not None
    return SimulatedProcess(launcher, fence, order)


@contextmanager
def simulated_machine() -> Iterator[None]:
    """Have the launcher's module find simulated hosts in place of this machine."""
    with (
        patch.object(wire, "now", lambda: _cpu[-1].clock.monotonic_s()),
        patch.object(wire, "boot_id", lambda: f"{_cpu[-1].name} boot {_cpu[-1].boots}"),
        patch.object(starting, "spawn", _spawn),
        patch.object(tree, "children", set),
        patch.object(tree, "processes", lambda: dict(_cpu[-1].orphans)),
        patch.object(tree, "carries", lambda pid, marks: True),
        patch.object(tree, "kill", _kill_orphans),
        patch.object(launched, "time", SimpleNamespace(sleep=lambda _: None)),
        patch.object(server, "_log", lambda _: None),
        patch.object(journal_module, "COMPACT_AFTER_BYTES", 4096),
    ):
        yield
