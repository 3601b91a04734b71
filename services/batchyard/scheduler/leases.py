"""How long each agent is believed to live. Pure: the time comes in as an argument.

An agent stops its jobs at its own deadline, L after it *sent* a heartbeat that was answered. The scheduler counts from
the *receipt*, which is later, and adds the kill budget K and the margin of clocks: so the agent's deadline always
comes first, whatever the delay, and only after both is the agent lost. A lease that is not renewed is suspect long
before that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from batchyard.domain.clock import CLOCK_MARGIN


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of an agent."""

    agent_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Due:
    """What has come of the time that passed."""

    suspects: tuple[str, ...]
    """Agents that have become suspect."""
    lost: tuple[Incarnation, ...]
    """Agents whose leases are over; they are forgotten."""


class _Lease:
    __slots__ = ("deadline", "incarnation", "lease_s", "suspect", "suspect_at", "wakes_at")

    def __init__(self, incarnation: int, lease_s: float) -> None:
        self.incarnation = incarnation
        self.lease_s = lease_s
        """Of what is granted from now on."""
        self.suspect = False
        self.suspect_at = self.deadline = float("-inf")
        self.wakes_at: float | None = None


class Leases:
    """The leases of all live agents, as this scheduler counts them."""

    def __init__(self, *, lease_s: float, kill_budget_s: float, suspicion_s: float) -> None:
        self._lease_s = lease_s
        self._kill_budget_s = kill_budget_s
        self._suspicion_s = suspicion_s
        self._leases: dict[str, _Lease] = {}
        self._timers: list[tuple[float, str]] = []

    def length_s(self, lease_s: float) -> float:
        """Return how long after the last heartbeat an agent with such a lease is lost."""
        return (lease_s + self._kill_budget_s) * CLOCK_MARGIN

    def begin(self, live: Mapping[Incarnation, float], now: float) -> None:
        """Give every live agent a full lease, and forget all others: what an earlier leader granted is not known.

        Each agent comes with the longest lease that it may have got.
        """
        self._leases.clear()
        self._timers.clear()
        for agent, lease_s in live.items():
            self.grant(agent, now, lease_s)

    def grant(self, agent: Incarnation, now: float, lease_s: float | None = None) -> None:
        """Give an agent a full lease from now on, of the usual length if none is said; so are its renewals.

        What it was given before counts to its end, also if that was longer.
        """
        length_s = self._lease_s if lease_s is None else lease_s
        lease = self._leases.get(agent.agent_id)
        if lease is None or lease.incarnation != agent.incarnation:
            lease = self._leases[agent.agent_id] = _Lease(agent.incarnation, length_s)
        lease.lease_s = length_s
        self._extend(agent.agent_id, lease, now)

    def renew(self, agent: Incarnation, now: float) -> bool:
        """Extend a lease on the receipt of a heartbeat; return False if that incarnation has none to extend."""
        lease = self._leases.get(agent.agent_id)
        if lease is None or lease.incarnation != agent.incarnation:
            return False
        self._extend(agent.agent_id, lease, now)
        return True

    def has(self, agent_id: str) -> bool:
        """Tell whether an agent has a lease."""
        return agent_id in self._leases

    def deadline_of(self, agent_id: str) -> float | None:
        """Return when an agent counts as lost if it is not heard again; None if it has no lease."""
        lease = self._leases.get(agent_id)
        return None if lease is None else lease.deadline

    def is_suspect(self, agent_id: str) -> bool:
        """Tell whether an agent with a lease has been silent for too long to be offered anything."""
        lease = self._leases.get(agent_id)
        return lease is not None and lease.suspect

    def due(self, now: float) -> Due:
        """Return the agents that have become suspect or lost by now, each once."""
        suspects: list[str] = []
        lost: list[Incarnation] = []
        while self._timers and self._timers[0][0] <= now:
            at, agent_id = heappop(self._timers)
            lease = self._leases.get(agent_id)
            if lease is None or lease.wakes_at != at:
                continue
            lease.wakes_at = None
            if lease.deadline <= now:
                del self._leases[agent_id]
                lost.append(Incarnation(agent_id, lease.incarnation))
                continue
            if not lease.suspect and lease.suspect_at <= now:
                lease.suspect = True
                suspects.append(agent_id)
            self._arm(agent_id, lease)
        return Due(tuple(suspects), tuple(lost))

    def next_deadline(self) -> float | None:
        """Return when `due` should be asked next, at the latest; None while there are no leases."""
        return self._timers[0][0] if self._timers else None

    def _extend(self, agent_id: str, lease: _Lease, now: float) -> None:
        lease.suspect = False
        lease.suspect_at = now + min(self._suspicion_s, lease.lease_s / 2)
        lease.deadline = max(lease.deadline, now + self.length_s(lease.lease_s))
        self._arm(agent_id, lease)

    def _arm(self, agent_id: str, lease: _Lease) -> None:
        """Set the one timer of a lease. It is not moved by heartbeats: it rings, finds them, and is set again."""
        at = lease.deadline if lease.suspect else lease.suspect_at
        if lease.wakes_at is None or at < lease.wakes_at:
            lease.wakes_at = at
            heappush(self._timers, (at, agent_id))
