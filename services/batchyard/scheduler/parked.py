"""Lines whose heads found no room, indexed so that what has become free wakes only those that it could serve."""

from bisect import bisect_left, bisect_right, insort

from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import Resources


class ParkedLines:
    """Lines whose heads found no host with room, by what they need."""

    def __init__(self) -> None:
        self._levels: list[int] = []
        self._lines: dict[int, list[tuple[int, int, int, Line]]] = {}

    def add(self, line: Line) -> None:
        """Put a line in, if it is not there already."""
        level = line.need.vcpus_milli
        item = _parked_item(line)
        lines = self._lines.get(level)
        if lines is None:
            self._lines[level] = [item]
            insort(self._levels, level)
            return
        at = bisect_left(lines, item)
        if at == len(lines) or lines[at][2] != line.serial:
            lines.insert(at, item)

    def discard(self, line: Line) -> None:
        """Take a line out, if it is there."""
        level = line.need.vcpus_milli
        lines = self._lines.get(level, [])
        at = bisect_left(lines, _parked_item(line))
        if at < len(lines) and lines[at][2] == line.serial:
            del lines[at]
            if not lines:
                del self._lines[level]
                del self._levels[bisect_left(self._levels, level)]

    def contains(self, line: Line) -> bool:
        """Tell whether a line is in."""
        return any(item[2] == line.serial for item in self._lines.get(line.need.vcpus_milli, ()))

    def fitting(self, room: Resources) -> list[Line]:
        """Return the lines that need no more than this."""
        fitting: list[Line] = []
        for level in self._levels[: bisect_right(self._levels, room.vcpus_milli)]:
            lines = self._lines[level]
            small_enough = lines[: bisect_left(lines, (room.memory_mib + 1,))]
            fitting.extend(line for _, gpus, _, line in small_enough if gpus <= room.gpus)
        return fitting


def _parked_item(line: Line) -> tuple[int, int, int, Line]:
    return (line.need.memory_mib, line.need.gpus, line.serial, line)
