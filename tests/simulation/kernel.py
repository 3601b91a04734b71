"""Virtual time and one seeded source of chance: what happens next in a simulated world, and the trace of what did."""

import heapq
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Final

TAIL: Final = 150
"""Lines of the trace that are kept to be shown."""


class Life:
    """One life of an actor: what was scheduled for it is dropped once it is dead, and waits while it is paused."""

    __slots__ = ("alive", "name", "paused_until")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused_until = 0.0


class Kernel:
    """The queue of events. Equal times go in the order in which they were scheduled."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = 0.0
        """True time, in seconds."""
        self.events = 0
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._digest = blake2b(digest_size=16)
        self._queue: list[tuple[float, float, Life, Callable[[], None]]] = []
        self._scheduled = 0

    def after(self, delay_s: float, life: Life, action: Callable[[], None]) -> None:
        """Have an actor do something later, if it still lives."""
        self._scheduled += 1
        heapq.heappush(self._queue, (self.now + max(0.0, delay_s), self._scheduled, life, action))

    def run(self, until: float, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Let things happen until a moment, or until `stop` says so."""
        while self._queue and self._queue[0][0] <= until and not stop():
            at, _, life, action = heapq.heappop(self._queue)
            if not life.alive:
                continue
            if life.paused_until > at:
                # What has piled up comes in any order when it wakes: messages, timers and ends of streams.
                heapq.heappush(self._queue, (life.paused_until, self.rng.random(), life, action))
                continue
            self.now = at
            self.events += 1
            action()
        if not stop():
            self.now = max(self.now, until)

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return self.rng.random() < probability

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now:11.4f} {text}"
        self.tail.append(line)
        self._digest.update(line.encode())

    def trace_hash(self) -> str:
        """Return the hash of the trace so far: two runs with the same hash did the same."""
        return self._digest.hexdigest()


class HostClock:
    """A host's clocks: the monotonic one is off by a rate and begins anew at each boot; the wall clock is arbitrary."""

    def __init__(self, kernel: Kernel, *, rate: float = 1.0, wall_skew_s: float = 0.0) -> None:
        self._kernel = kernel
        self.rate = rate
        self._wall_skew_s = wall_skew_s
        self._booted = 0.0

    def boot(self) -> None:
        """Begin at zero."""
        self._booted = self._kernel.now

    def monotonic_s(self) -> float:
        """Return seconds since boot, as this host counts them."""
        return (self._kernel.now - self._booted) * self.rate + 1.0

    def now_ms(self) -> int:
        """Return the wall clock."""
        return int((1_700_000_000 + self._kernel.now + self._wall_skew_s) * 1000)

    def true_delay(self, until: float) -> float:
        """Return the true seconds until the monotonic clock shows this moment."""
        return max(0.0, (until - self.monotonic_s()) / self.rate)
