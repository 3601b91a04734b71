"""Feeding ahead: offers beyond a host's room, so that a slot never waits for a round trip.

Only for jobs that have lately been over in milliseconds, and only as many as a host gets done in a moment. What is fed
ahead holds no room: its agent claims it when there is some, in the order of the offers, and so does this picture. It
counts against the ceiling of its compute environment from the start, because agents know nothing of ceilings.
"""

from collections.abc import Iterable
from functools import lru_cache
from math import inf
from typing import Final, Generic, Protocol, TypeVar

from batchyard.scheduler.hosts import Host
from batchyard.scheduler.model import LineKey, Resources

AHEAD_MS: Final = 250.0
"""How long a host may take for what was fed ahead: so long may a better job have to wait for it."""
AHEAD_MAX: Final = 128
"""Offers that one host may have ahead: enough to outlast a round trip, few enough to lose with the host."""
SWIFT_MS: Final = 100.0
"""Jobs that take longer than this are not fed ahead."""
LINES_MAX: Final = 10_000
"""Lines whose durations are remembered."""
_WEIGHT: Final = 0.2
"""Of the newest duration in the mean."""


class Durations:
    """How long jobs of each line have lately taken."""

    def __init__(self) -> None:
        self._means_ms: dict[LineKey, float] = {}

    def learn(self, line: LineKey, ran_for_ms: int) -> None:
        """Take in the duration of a run that has ended."""
        mean = self._means_ms.pop(line, None)
        if mean is None and len(self._means_ms) >= LINES_MAX:
            del self._means_ms[next(iter(self._means_ms))]
        self._means_ms[line] = ran_for_ms if mean is None else mean + _WEIGHT * (ran_for_ms - mean)

    def is_swift(self, line: LineKey) -> bool:
        """Tell whether jobs of a line have lately been over in a moment."""
        return self._means_ms.get(line, SWIFT_MS + 1) <= SWIFT_MS

    def ahead_of(self, line: LineKey, capacity: Resources) -> int:
        """Return how many such jobs a host of this capacity may have ahead; 0 if they are not swift."""
        mean_ms = self._means_ms.get(line, inf)
        if mean_ms > SWIFT_MS:
            return 0
        # A process costs its host a millisecond, however little it does.
        return min(AHEAD_MAX, int(_slots(line.need, capacity) * AHEAD_MS / max(mean_ms, 1.0)))


@lru_cache(maxsize=1024)
def _slots(need: Resources, capacity: Resources) -> int:
    """Return how many jobs with these needs a host runs at a time."""
    return min((have // wanted for have, wanted in zip(capacity, need, strict=True) if wanted > 0), default=1)


class _Placed(Protocol):
    @property
    def agent_id(self) -> str: ...

    @property
    def need(self) -> Resources: ...

    def __hash__(self) -> int: ...


P = TypeVar("P", bound=_Placed)


class Ahead(Generic[P]):
    """What each host has ahead, in the order of the offers."""

    def __init__(self) -> None:
        self._by_agent: dict[str, dict[P, None]] = {}

    def count(self, agent_id: str) -> int:
        """Return how much a host has ahead."""
        return len(self._by_agent.get(agent_id, ()))

    def of(self, agent_id: str) -> Iterable[P]:
        """Return what a host has ahead."""
        return self._by_agent.get(agent_id, ())

    def contains(self, placement: P) -> bool:
        """Tell whether a placement is ahead."""
        return placement in self._by_agent.get(placement.agent_id, ())

    def add(self, placement: P) -> None:
        """Put a placement at the end of its host's queue."""
        self._by_agent.setdefault(placement.agent_id, {})[placement] = None

    def remove(self, placement: P) -> bool:
        """Take a placement out, wherever it stands; return whether it was there."""
        if not self.contains(placement):
            return False
        waiting = self._by_agent[placement.agent_id]
        del waiting[placement]
        if not waiting:
            del self._by_agent[placement.agent_id]
        return True

    def next_fitting(self, host: Host) -> P | None:
        """Take out what the host's agent claims next, if there is room for it."""
        placement = next(iter(self._by_agent.get(host.agent_id, ())), None)
        if placement is None or not placement.need.fits_in(host.room):
            return None
        self.remove(placement)
        return placement

    def clear(self) -> None:
        """Forget everything."""
        self._by_agent.clear()
