"""What a run has of its host beside its room, from its start to its end: a working folder, a cgroup, GPUs."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.gpus import Gpus
from batchyard.agent.launcher.processes import DEFAULT_SIGNALS, Process, StartError, spawn
from batchyard.agent.launcher.standby import Standby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from batchyard.agent.launcher.cgroups import Cgroup, CgroupPool
    from batchyard.agent.launcher.ledger import Need, Run
    from batchyard.agent.launcher.workfolders import WorkFolders


PLACED_AFTER_S = 0.003
"""A process is moved to the cgroups that it was not started in once it is so old: most are over by then."""


class Starter:
    """Starts processes, and takes back what they had."""

    def __init__(self, folders: WorkFolders, cgroups: CgroupPool | None) -> None:
        self._folders = folders
        self._cgroups = cgroups
        self._gpus = Gpus()
        self._standby: Standby | None = None
        self._unplaced: deque[tuple[float, Process]] = deque()
        # Elsewhere a move does not wait.
        self._stands_by = cgroups is not None and cgroups.layout.version == 2
        self.may_stand_by = self._stands_by
        """Whether a process could wait for the next run, and none does."""

    @property
    def layout(self) -> str:
        """What its cgroups can do; empty: it has none."""
        return "" if self._cgroups is None else str(self._cgroups.layout)

    def start(self, run: Run, capacity: Need) -> Process:
        """Start a run's process on a host of this capacity; raise StartError if it can't be."""
        order = run.order
        assert isinstance(order, wire.StartOrder)
        folder, cgroup, standby = "", None, None
        try:
            if order.refusal:
                raise StartError(order.refusal)
            if self._cgroups is not None and order.memory_mib:
                standby = self._take_standby(order.memory_mib, run.need[0])
                cgroup = standby.cgroup if standby else self._cgroups.acquire(order.memory_mib, run.need[0])
            folder = self._folders.take(order.user)
            order.env |= self._gpus.take(run.fence, run.need[2], capacity[2])
            process = spawn(run.fence, order, folder, cgroup, standby)
        except (StartError, OSError, ValueError, OverflowError) as error:
            # The last two for what users can write and no system call takes: NUL bytes, ids that are too large. One
            # bad order must not end the launcher, and with it every other run.
            if standby is not None and standby.waits:
                self._standby = standby
            elif cgroup is not None:
                self._release(cgroup)
            if folder:
                self._folders.give_back(folder)
            self._gpus.give_back(run.fence)
            if isinstance(error, StartError):
                raise
            raise StartError(str(error)) from error
        if cgroup is not None and cgroup.is_joined_later:
            self._unplaced.append((wire.now() + PLACED_AFTER_S, process))
        return process

    def place(self, now: float) -> None:
        """Move the processes that are old enough to the cgroups that they were not started in."""
        while self._unplaced and self._unplaced[0][0] <= now:
            _, process = self._unplaced.popleft()
            if process.exit_code is None and process.cgroup is not None:
                # It runs as well without.
                with suppress(OSError):
                    process.cgroup.place(process.pid)

    def place_due(self) -> float:
        """Return when a process is to be placed next; infinity: never."""
        return self._unplaced[0][0] if self._unplaced else float("inf")

    def take_back(self, process: Process) -> None:
        """Take back what a process had of which nothing lives any more."""
        if process.cgroup is not None:
            self._release(process.cgroup)
        self._folders.give_back(process.folder)
        self._gpus.give_back(process.fence)
        self.may_stand_by = self._stands_by and self._standby is None

    # Between runs

    def stand_by(self) -> None:
        """Have a process wait for the next run, which starts as well without one."""
        assert self._cgroups is not None
        # Once between two runs, whatever comes of it.
        self.may_stand_by = False
        with suppress(OSError):
            cgroup = self._cgroups.reserve()
            try:
                self._standby = Standby(cgroup, DEFAULT_SIGNALS)
            except OSError:
                self._release(cgroup)

    def _take_standby(self, memory_mib: int, vcpus_milli: int) -> Standby | None:
        """Return the process that waits, if it has come to its cgroup, which now has these limits."""
        standby = self._standby
        if standby is None or not standby.is_ready():
            return None
        self._standby = None
        try:
            standby.cgroup.limit(memory_mib, vcpus_milli)
        except OSError:
            # Even this copy of the launcher does not fit in.
            standby.dismiss()
            standby.cgroup.remove()
            return None
        return standby

    def reaped(self, pid: int) -> None:
        """Note that a child has ended, whoever it was."""
        self._folders.reaped(pid)
        if self._standby is not None and self._standby.pid == pid:
            self._standby.reaped()
            self._release(self._standby.cgroup)
            self._standby = None

    @property
    def helpers(self) -> AbstractSet[int]:
        """Children of this process that are no run's."""
        return self._folders.removers | ({self._standby.pid} if self._standby is not None else set())

    def close(self) -> None:
        """End what is left between runs, and remove the cgroups."""
        if self._standby is not None:
            self._standby.dismiss()
            self._release(self._standby.cgroup)
            self._standby = None
        if self._cgroups is not None:
            self._cgroups.close()

    def _release(self, cgroup: Cgroup) -> None:
        assert self._cgroups is not None
        self._cgroups.release(cgroup)
