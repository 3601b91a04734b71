"""A seeded network of streams, as TCP makes them: in order within a stream, anything between streams.

A lost message breaks its stream. Each end learns of that by itself and perhaps much later, and what was under way may
still arrive: so there are half-open streams, and words from the past.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from simulation.kernel import Kernel, Life

LOCAL_DELAY_S: Final = 0.0002
HANDLING_S: Final = 0.001
"""How long an actor takes at most for one of several messages."""

Accept = Callable[["End", bytes], None]


@dataclass
class Conditions:
    """How bad the network is now."""

    delay_s: float = 0.002
    """Mean, of one message."""
    loss: float = 0.0
    """Probability that a message, and its stream with it, is lost."""
    slow: float = 0.0
    """Probability that a new stream is slow as long as it lives."""
    slow_s: float = 30.0
    """The longest that a message takes on it."""
    abandoned: float = 0.0
    """Probability that a client gives a new stream up at once, while what it has said on it is still on its way."""
    blocked: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of sites, from and to."""


class End:
    """One side of a stream. Whoever has it sets what is called."""

    def __init__(self, net: "Network", life: Life, site: str, *, is_local: bool, slow_s: float) -> None:
        self._net = net
        self.life = life
        self.site = site
        self.peer: End
        self.open = True
        self.received: Callable[[bytes], None] = lambda _: None
        self.closed: Callable[[Exception | None], None] = lambda _: None
        self._is_local = is_local
        self.slow_s = slow_s
        """How long a message to this end takes at least."""
        self._inbox: deque[tuple[float, bytes | None, Exception | None]] = deque()
        self._last_arrival = self._busy_until = 0.0
        self._blocked_since: float | None = None
        self._broken = False

    def send(self, data: bytes) -> None:
        """Send a message, which arrives or not."""
        if not self.open or self._broken:
            return
        if not self._is_local and self._net.kernel.chance(self._net.conditions.loss):
            self._net.break_stream(self)
            return
        self.peer._put(data, None)

    def close(self, error: Exception | None = None) -> None:
        """End the stream in order: the peer learns of it after all that was sent."""
        if self.open:
            self.open = False
            if not self._broken:
                self.peer._put(None, error)

    def break_off(self, notice_s: float, *, keep: bool) -> None:
        """Let nothing more come but what is under way, if `keep`; it goes on as if nothing were, until it notices."""
        self._broken = True
        if not keep:
            self._inbox.clear()
        self._net.kernel.after(notice_s, self.life, self._lose)

    def _put(self, data: bytes | None, error: Exception | None) -> None:
        kernel = self._net.kernel
        delay_s = kernel.rng.expovariate(1 / (LOCAL_DELAY_S if self._is_local else self._net.conditions.delay_s))
        if self.slow_s:
            delay_s += self.slow_s * (1 + 0.1 * kernel.rng.random())
        self._last_arrival = max(self._last_arrival, kernel.now + delay_s)
        self._inbox.append((self._last_arrival, data, error))
        kernel.after(self._last_arrival - kernel.now, self.life, self._deliver)

    def _deliver(self) -> None:
        """Deliver a message that has arrived. Of several each takes its time, so that others act between them."""
        kernel = self._net.kernel
        if not self._inbox or self._inbox[0][0] > kernel.now + 1e-9:
            return
        if not self._is_local and (self.peer.site, self.site) in self._net.conditions.blocked:
            self._wait_for_the_link()
            return
        if self._busy_until > kernel.now:
            kernel.after(self._busy_until - kernel.now, self.life, self._deliver)
            return
        self._blocked_since = None
        _, data, error = self._inbox.popleft()
        if self._inbox and self._inbox[0][0] <= kernel.now + 1e-9:
            self._busy_until = kernel.now + kernel.rng.random() * HANDLING_S
            kernel.after(self._busy_until - kernel.now, self.life, self._deliver)
        if data is None:
            self._lose(error)
        elif self.open:
            self.received(data)

    def _wait_for_the_link(self) -> None:
        kernel = self._net.kernel
        if self._blocked_since is None:
            self._blocked_since = kernel.now
        if kernel.now - self._blocked_since > 60 or kernel.chance(0.02):
            self._net.break_stream(self)
        else:
            kernel.after(1.0, self.life, self._deliver)

    def _lose(self, error: Exception | None = None) -> None:
        if self.open:
            self.open = False
            self.closed(error)


class Network:
    """Where services listen, and what is between them and their clients."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.conditions = Conditions()
        self._services: dict[str, list[tuple[Life, str, Accept]]] = {}
        self._ends: dict[Life, list[End]] = {}

    def listen(self, service: str, life: Life, site: str, accept: Accept) -> None:
        """Serve new streams; `accept` gets each with its first message."""
        others = [other for other in self._services.get(service, ()) if other[0].alive]
        self._services[service] = [*others, (life, site, accept)]

    def connect(self, life: Life, site: str, service: str, *, local: bool = False) -> End:
        """Open a stream to one of those who serve it; it may turn out that nobody is there."""
        nobody: tuple[Life, str, Accept] = (Life("nobody"), "nowhere", lambda *_: None)
        known = [server for server in self._services.get(service, ()) if server[0].alive]
        target, target_site, accept = self.kernel.rng.choice(known) if known else nobody
        rng, slow_s = self.kernel.rng, 0.0
        if not local and self.kernel.chance(self.conditions.slow):
            slow_s = self.conditions.slow_s
        near = End(self, life, site, is_local=local, slow_s=slow_s * rng.random())
        far = End(self, target, target_site, is_local=local, slow_s=slow_s * rng.random())
        near.peer, far.peer = far, near
        far.received = lambda data: accept(far, data)
        if not known:
            self.kernel.after(0.05, life, near._lose)
        for end in (near, far):
            ends = self._ends.setdefault(end.life, [])
            ends[:] = [other for other in ends if other.open]
            ends.append(end)
        if not local and rng.random() < self.conditions.abandoned:
            far.slow_s = self.conditions.slow_s * rng.random()
            self.kernel.after(rng.random(), life, lambda: self._abandon(near, far))
        return near

    def _abandon(self, near: End, far: End) -> None:
        """Have the client know at once that the stream is broken, and the server a while after the last word on it."""
        if near.open:
            near.break_off(0, keep=False)
            far.break_off(2 * self.conditions.slow_s, keep=True)

    def between(self, site: str, other: str) -> list[End]:
        """Return the open ends at a site whose streams lead to the other."""
        return [
            end
            for ends in self._ends.values()
            for end in ends
            if end.open and (end.site, end.peer.site) == (site, other)
        ]

    def died(self, life: Life, *, silently: bool = False) -> None:
        """Break every stream of a life that has ended; nobody is told if its whole host is gone."""
        rng = self.kernel.rng
        for end in self._ends.pop(life, []):
            if end.open:
                end.open = False
                notice_s = rng.uniform(10, 90) if silently else rng.random() * 0.05
                end.peer.break_off(notice_s, keep=self.kernel.chance(0.5))

    def heal(self) -> None:
        """Be a good network from now on, for streams that are open too."""
        self.conditions = Conditions(delay_s=self.conditions.delay_s)
        for ends in self._ends.values():
            for end in ends:
                end.slow_s = 0.0

    def break_stream(self, end: End) -> None:
        """Lose the connection. Each end notices by itself."""
        rng = self.kernel.rng
        for side in (end, end.peer):
            side.break_off(rng.choice((0.01, 1.0, 40.0)) * rng.random(), keep=self.kernel.chance(0.5))
