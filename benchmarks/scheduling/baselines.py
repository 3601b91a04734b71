"""What the core is compared with: plain FIFO, and EASY backfilling, both with the tightest fit.

FIFO starts nothing before the head of its queue. EASY gives the head a reservation on the host that has room for it
first, by the time limits of what runs there, and starts whatever does not delay that. A job without a time limit is
taken to run for ever.
"""

from collections.abc import Sequence
from math import inf

from batchyard.scheduler.model import Resources
from benchmarks.scheduling.simulator import Start
from benchmarks.scheduling.workload import Task, Workload


class Fifo:
    """First come, first served: a head that does not fit holds up all behind it."""

    name = "FIFO"

    def __init__(self, workload: Workload) -> None:
        self._room = list(workload.hosts)
        self._host_of: dict[int, int] = {}
        self._waiting: list[Task] = []

    def submit(self, task: Task) -> None:
        """Take a job in."""
        self._waiting.append(task)

    def end(self, task: Task) -> None:
        """Note that a job that was started has ended."""
        host = self._host_of.pop(task.number)
        self._room[host] = self._room[host].plus(task.need)

    def decide(self, now: float) -> tuple[Sequence[Start], float | None]:
        """Return what is to start now."""
        del now
        started = 0
        starts = []
        for task in self._waiting:
            host = self._tightest(task.need)
            if host is None:
                break
            starts.append(self._start(task, host))
            started += 1
        del self._waiting[:started]
        return starts, None

    def _start(self, task: Task, host: int) -> Start:
        self._room[host] = self._room[host].minus(task.need)
        self._host_of[task.number] = host
        return Start(task, host)

    def _tightest(self, need: Resources) -> int | None:
        fits = [(room.vcpus_milli, room.memory_mib, host) for host, room in enumerate(self._room) if need.fits_in(room)]
        return min(fits)[2] if fits else None


class Easy(Fifo):
    """EASY backfilling (Lifka, 1995) where each job runs on one host."""

    name = "EASY"

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._running: list[dict[int, tuple[float, Resources]]] = [{} for _ in workload.hosts]

    def end(self, task: Task) -> None:
        """Note that a job that was started has ended."""
        del self._running[self._host_of[task.number]][task.number]
        super().end(task)

    def decide(self, now: float) -> tuple[Sequence[Start], float | None]:
        """Return what is to start now."""
        starts, _ = super().decide(now)
        starts = list(starts)
        for start in starts:
            self._note(start, now)
        if not self._waiting:
            return starts, None
        head = self._waiting[0]
        reserved, shadow = self._reservation(head, now)
        too_large: set[Resources] = set()
        rest = [head]
        for task in self._waiting[1:]:
            host = None if task.need in too_large else self._backfill(task, head, reserved, shadow, now)
            if host is None:
                rest.append(task)
                if self._tightest(task.need) is None:
                    too_large.add(task.need)
            else:
                starts.append(self._start(task, host))
                self._note(starts[-1], now)
        self._waiting = rest
        return starts, None

    def _note(self, start: Start, now: float) -> None:
        limit = start.task.limit_s
        self._running[start.host][start.task.number] = (inf if limit is None else now + limit, start.task.need)

    def _reservation(self, head: Task, now: float) -> tuple[int, float]:
        """Return the host that has room for the head first, and when."""
        return min((self._opens(host, head.need, now), host) for host in range(len(self._room)))[::-1]

    def _opens(self, host: int, need: Resources, now: float) -> float:
        room, at = self._room[host], now
        for ends_by, freed in sorted(self._running[host].values()):
            if need.fits_in(room):
                break
            room, at = room.plus(freed), ends_by
        return max(now, at) if need.fits_in(room) else inf

    def _backfill(self, task: Task, head: Task, reserved: int, shadow: float, now: float) -> int | None:
        fits = []
        for host, room in enumerate(self._room):
            if not task.need.fits_in(room):
                continue
            ends_by = inf if task.limit_s is None else now + task.limit_s
            if host != reserved or ends_by <= shadow or self._leaves_room(task, head, host, shadow):
                fits.append((room.vcpus_milli, room.memory_mib, host))
        return min(fits)[2] if fits else None

    def _leaves_room(self, task: Task, head: Task, host: int, shadow: float) -> bool:
        room = self._room[host]
        for ends_by, freed in self._running[host].values():
            if ends_by <= shadow:
                room = room.plus(freed)
        return head.need.plus(task.need).fits_in(room)
