"""Parked lines of a queue for which there may be room: looked at in their order, and no more of them than it takes.

When a host gets room, all lines of a queue that it could serve might be placed, of which there are as many as shares,
shapes and time limits together; there is room for few. So they stay parked, and come forward one after the other, as
long as nothing else of the queue goes before them. When one of them finds no room, all that need the same do not
either, and are passed over.
"""

from heapq import heapify, heappop
from math import inf
from typing import Final

from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import Resources
from batchyard.scheduler.parked import ParkedLines
from batchyard.scheduler.queues import Key, Queue

_UNLIMITED: Final = 1e18
_NOT_SHUT: Final = inf


def _limit(line: Line) -> float:
    return _UNLIMITED if line.time_limit_s is None else line.time_limit_s


class Prospects:
    """The prospects of one queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._shut_from: dict[Resources, float] = {}
        """What there may be room for, and the time limit from which on there is none; infinity: nothing is shut."""
        self._order: list[tuple[Key, int, list[Line]]] | None = None
        """A heap: what comes forward together, and its place; None: to be made."""
        self._made_at: float | None = None

    def open(self, need: Resources) -> None:
        """Note that there may be room for what needs this."""
        self._shut_from[need] = _NOT_SHUT
        self._order = None

    def shut(self, line: Line, *, behind_holder: bool) -> None:
        """Note that there was no room for a line."""
        shut_from = self._shut_from.get(line.need)
        if shut_from is None:
            return
        if not behind_holder:
            del self._shut_from[line.need]
        else:
            # What may use held hosts with a time limit may also with a shorter one.
            self._shut_from[line.need] = min(shut_from, _limit(line))

    def is_open(self, line: Line) -> bool:
        """Tell whether there may be room for a parked line."""
        shut_from = self._shut_from.get(line.need)
        return shut_from is not None and line.parked and _limit(line) < shut_from

    @property
    def any_open(self) -> bool:
        """Whether there may be room for anything."""
        return bool(self._shut_from)

    def forget(self) -> None:
        """Expect nothing."""
        self._shut_from.clear()
        self._order = None

    def first(self, now: float, parked: ParkedLines) -> Key | None:
        """Return the place of what comes forward next; None if nothing does."""
        if self._order is None or self._made_at != now:
            self._order, self._made_at = self._made(now, parked), now
        while self._order:
            key, _, lines = self._order[0]
            if any(map(self.is_open, lines)):
                return key
            heappop(self._order)
        self.forget()
        return None

    def take(self) -> list[Line]:
        """Take what comes forward next."""
        assert self._order
        _, _, lines = heappop(self._order)
        return [line for line in lines if self.is_open(line)]

    def _made(self, now: float, parked: ParkedLines) -> list[tuple[Key, int, list[Line]]]:
        together: dict[Key, list[Line]] = {}
        for need in self._shut_from:
            for line in parked.lines(self._queue, need):
                together.setdefault(self._queue.key_of(line, now), []).append(line)
        order = [(key, lines[0].serial, lines) for key, lines in together.items()]
        heapify(order)
        return order
