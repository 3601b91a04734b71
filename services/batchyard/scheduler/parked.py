"""Lines whose heads found no host with room, indexed so that what has become free finds those that it could serve."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import Resources
from batchyard.scheduler.queues import Queue


class ParkedLines:
    """Parked lines, by what they need and by their queue."""

    def __init__(self) -> None:
        self._levels: list[int] = []
        self._needs: dict[int, list[tuple[int, int, Resources]]] = {}
        """By vCPUs: memory, GPUs, and all of it."""
        self._lines: dict[Resources, dict[Queue, dict[Line, None]]] = {}

    def add(self, line: Line) -> None:
        """Put a line in, if it is not there already."""
        need = line.need
        queues = self._lines.get(need)
        if queues is None:
            queues = self._lines[need] = {}
            needs = self._needs.get(need.vcpus_milli)
            if needs is None:
                needs = self._needs[need.vcpus_milli] = []
                insort(self._levels, need.vcpus_milli)
            insort(needs, (need.memory_mib, need.gpus, need))
        queues.setdefault(line.queue, {})[line] = None

    def discard(self, line: Line) -> None:
        """Take a line out, if it is there."""
        need = line.need
        queues = self._lines.get(need, {})
        lines = queues.get(line.queue, {})
        if line not in lines:
            return
        del lines[line]
        if not lines:
            del queues[line.queue]
        if not queues:
            del self._lines[need]
            needs = self._needs[need.vcpus_milli]
            del needs[bisect_left(needs, (need.memory_mib, need.gpus, need))]
            if not needs:
                del self._needs[need.vcpus_milli]
                del self._levels[bisect_left(self._levels, need.vcpus_milli)]

    def contains(self, line: Line) -> bool:
        """Tell whether a line is in."""
        return line in self._lines.get(line.need, {}).get(line.queue, {})

    def needs_fitting(self, room: Resources) -> list[Resources]:
        """Return what lines need that need no more than this."""
        fitting: list[Resources] = []
        for level in self._levels[: bisect_right(self._levels, room.vcpus_milli)]:
            needs = self._needs[level]
            small_enough = needs[: bisect_left(needs, (room.memory_mib + 1,))]
            fitting.extend(need for _, gpus, need in small_enough if gpus <= room.gpus)
        return fitting

    def queues(self, need: Resources) -> Iterable[Queue]:
        """Return the queues of the lines that need this."""
        return self._lines.get(need, {})

    def lines(self, queue: Queue, need: Resources) -> Iterable[Line]:
        """Return the lines of a queue that need this."""
        return self._lines.get(need, {}).get(queue, ())

    def fitting(self, room: Resources) -> list[Line]:
        """Return the lines that need no more than this."""
        return [line for need in self.needs_fitting(room) for lines in self._lines[need].values() for line in lines]
