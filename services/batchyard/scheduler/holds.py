"""For whom room is held: of each queue the first job that has waited beyond the bound.

It takes a host, where hosts are what it lacks: the one that will have room for it first, by what is known of its runs.
When that has not helped within another bound, and it is not known when it will, it takes two, then three, so that in
the end every host that could serve it is held, whatever runs there. It also takes its vCPUs below the ceiling of each
of its environments. What is behind a holder (later in its share, in other shares, in queues of equal or lower rank) is
not placed on its hosts, save what is over before the holder could begin (see `backfill`). The order of holders is
total, and an earlier one chooses first, so no two wait for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from math import inf
from typing import Final

from batchyard.scheduler.environments import Environment, Environments
from batchyard.scheduler.hosts import Host, Hosts
from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import ComputeEnvironment, ResourceKey

_NEAREST: Final = 32


@dataclass(frozen=True, slots=True)
class Released:
    """Hosts and environments that are now held for another line than before, or for none."""

    hosts: Sequence[Host]
    environments: Sequence[Environment]


def holder_order(line: Line) -> tuple[int, int, int]:
    """Return the key that puts holders in order: rank of the queue, then the place in its share."""
    head = line.head()
    return (line.queue.rank, head[0] if head else 0, line.serial)


def is_behind(line: Line, holder: Line) -> bool:
    """Tell whether a line has to leave alone what is held for the holder."""
    if line is holder:
        return False
    if line.queue.rank != holder.queue.rank:
        return line.queue.rank > holder.queue.rank
    return line.share is not holder.share or holder_order(line) > holder_order(holder)


class Holds:
    """The starving lines, and which hosts and ceilings they hold."""

    def __init__(self, hosts: Hosts, environments: Environments) -> None:
        self._hosts = hosts
        self._environments = environments
        self._starving: dict[Line, None] = {}
        self._stale = False
        self.holders: Sequence[Line] = ()
        """Those starving lines that hold something, in order."""

    def starve(self, line: Line) -> None:
        """Begin to hold room for a line."""
        line.starving, line.reach = True, 1
        self._starving[line] = None
        self._stale = True
        if not line.parked:
            self.claim(line)

    def reach_further(self, line: Line) -> bool:
        """Hold one more host for a line, unless one is known to have room for it at some time.

        Returns whether there may be still more of them.
        """
        held = [host for host in self._hosts.held.values() if host.holder is line]
        if held and all(host.opening(line.need).at == inf for host in held):
            line.reach += 1
            self._stale = True
        return line.reach < len(self._hosts)

    def claim(self, line: Line) -> None:
        """Hold all that a starving line could use, until it is looked at: nothing else may take what woke it."""
        if line.starving and line.short_of_hosts != line.queue.environments:
            line.short_of_hosts = line.queue.environments
            self._stale = True

    def relieve(self, line: Line) -> None:
        """Hold no room for a line any more."""
        if line.starving:
            line.starving = False
            del self._starving[line]
            self._stale = True

    def relieve_all(self) -> None:
        """Hold no room at all."""
        for line in list(self._starving):
            self.relieve(line)

    def invalidate(self) -> None:
        """Note that hosts, environments or the order of lines have changed."""
        self._stale = self._stale or bool(self._starving)

    @property
    def is_stale(self) -> bool:
        """Whether there is anything to refresh."""
        return self._stale

    def refresh(self, now: float) -> Released:
        """Bring the holds up to date; return what changed hands."""
        if not self._stale:
            return Released((), ())
        self._stale = False
        order = self._first_of_queues(now)
        released = Released(self._hold_hosts(order), self._hold_ceilings(order))
        held = {host.holder for host in self._hosts.held.values()}
        held |= {environment.holder for environment in self._environments}
        self.holders = [line for line in order if line in held]
        return released

    def _first_of_queues(self, now: float) -> list[Line]:
        """Return the starving line of each queue that comes first, in order: the others come after it.

        With fair share it is one of the share that stands lowest, and stays so until it is placed: shares take turns
        at standing lowest, and room that changed hands as often would be nobody's.
        """
        before = set(self.holders)

        def place(line: Line) -> tuple[bool, float, str]:
            share = line.share
            return (line not in before, share.standing(now), share.identifier)

        firsts: dict[ResourceKey, Line] = {}
        for line in sorted(self._starving, key=holder_order):
            first = firsts.setdefault(line.queue.key, line)
            if line.queue.fair is not None and place(line) < place(first):
                firsts[line.queue.key] = line
        return sorted(firsts.values(), key=holder_order)

    def _hold_hosts(self, order: Sequence[Line]) -> list[Host]:
        holders: dict[str, Line] = {}
        for line in order:
            names = self._wanted(line)
            candidates = [
                host
                for host in self._hosts
                if host.agent_id not in holders and _could_take(host, line) and any(map(host.serves, names))
            ]
            holders.update((host.agent_id, line) for host in _first_to_open(candidates, line))
        changed = []
        for agent_id in sorted(self._hosts.held.keys() | holders.keys()):
            host, holder = self._hosts.get(agent_id), holders.get(agent_id)
            if host is not None and holder is not host.holder:
                self._hosts.hold(host, holder)
                changed.append(host)
        return changed

    def _wanted(self, line: Line) -> list[str]:
        """Return the environments whose hosts a line holds."""
        return [name for name in line.short_of_hosts if self._could_run_in(line, name) is not None]

    def _hold_ceilings(self, order: Sequence[Line]) -> list[Environment]:
        holders: dict[ResourceKey, Line] = {}
        for line in order:
            for spec in filter(None, (self._could_run_in(line, name) for name in line.queue.environments)):
                if _is_limited(line, spec) and spec.key not in holders and self._is_served(line, spec):
                    holders[spec.key] = line
        changed = []
        for environment in self._environments:
            holder = holders.get(environment.key)
            if holder is not environment.holder:
                environment.holder = holder
                changed.append(environment)
        return changed

    def _could_run_in(self, line: Line, name: str) -> ComputeEnvironment | None:
        environment = self._environments.get(ResourceKey(line.queue.key.namespace, name))
        spec = environment.spec if environment is not None else None
        return spec if spec is not None and spec.usable and spec.may_ever_hold(line.need) else None

    def _is_served(self, line: Line, spec: ComputeEnvironment) -> bool:
        return any(_could_take(host, line) and host.serves(spec.key.name) for host in self._hosts)


def _is_limited(line: Line, spec: ComputeEnvironment) -> bool:
    """Tell whether vCPUs are counted in an environment, for all or for the shares of the line's queue."""
    fair = line.queue.fair
    return spec.max_vcpus_milli is not None or (
        fair is not None and fair.reserves and spec.reserve_base_milli is not None
    )


def _first_to_open(hosts: Sequence[Host], line: Line) -> list[Host]:
    """Return as many hosts as a line reaches: those that it has already, then those that will have room for it first.

    Of the hosts that lack the least it is looked up when they will; where that is not known, those come first.
    """
    nearest = nsmallest(max(line.reach, _NEAREST), hosts, key=lambda host: (host.holder is not line, _lack(host, line)))
    nearest.sort(key=lambda host: (host.holder is not line, host.opening(line.need).at))
    return nearest[: line.reach]


def _lack(host: Host, line: Line) -> tuple[float, str]:
    """Return how far a host is from having room for a line, as a part of what it needs, and the agent's id."""
    missing = (max(0, need - have) / need for need, have in zip(line.need, host.room, strict=True) if need)
    return (max(missing, default=0.0), host.agent_id)


def _could_take(host: Host, line: Line) -> bool:
    return host.open and host.capacity is not None and line.need.fits_in(host.capacity)
