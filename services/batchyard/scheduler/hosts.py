"""Where there is room: the agents' hosts, indexed so that the tightest fit is found without looking at each.

A host's capacity is counted once, whichever environments it serves. Hosts with the same selector (the environments
that they serve) and the same holder (the waiting line that room is held for, if any) share an index.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol, TypeAlias

from batchyard.domain.jobs import JobKey
from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import NOTHING, Agent, Resources, sum_of

Selector: TypeAlias = tuple[str, ...]
"""Names of the environments that hosts serve, sorted; empty: all."""

EVERY: Selector = ()

_Fit: TypeAlias = tuple[int, int, int, str]
"""Free GPUs, vCPUs, memory and the agent's id: the smallest of all fits is the tightest."""


class RoomIndex:
    """A multiset of amounts of room, each with an agent's id, in which the tightest fit is found quickly.

    GPUs count first, so that jobs without GPUs leave the hosts that have some alone while others fit. A search steps
    over the distinct (GPUs, vCPUs) levels and bisects the memory within each.
    """

    __slots__ = ("_levels", "_rooms")

    def __init__(self) -> None:
        self._levels: list[tuple[int, int]] = []
        self._rooms: dict[tuple[int, int], list[tuple[int, str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._levels)

    def add(self, room: Resources, agent_id: str) -> None:
        """Add an agent with this much room."""
        level = (room.gpus, room.vcpus_milli)
        rooms = self._rooms.get(level)
        if rooms is None:
            self._rooms[level] = [(room.memory_mib, agent_id)]
            insort(self._levels, level)
        else:
            insort(rooms, (room.memory_mib, agent_id))

    def remove(self, room: Resources, agent_id: str) -> None:
        """Remove an agent that was added with exactly this much room."""
        level = (room.gpus, room.vcpus_milli)
        rooms = self._rooms[level]
        del rooms[bisect_left(rooms, (room.memory_mib, agent_id))]
        if not rooms:
            del self._rooms[level]
            del self._levels[bisect_left(self._levels, level)]

    def tightest(self, need: Resources) -> _Fit | None:
        """Return the agent whose room fits `need` most tightly, or None."""
        levels, rooms_of = self._levels, self._rooms
        for position in range(bisect_left(levels, (need.gpus, need.vcpus_milli)), len(levels)):
            level = levels[position]
            if level[1] < need.vcpus_milli:
                continue
            rooms = rooms_of[level]
            at = bisect_left(rooms, (need.memory_mib, ""))
            if at < len(rooms):
                return (*level, *rooms[at])
        return None

    def agent_ids(self) -> list[str]:
        """Return the ids of all agents in the index."""
        return [agent_id for rooms in self._rooms.values() for _, agent_id in rooms]

    def largest(self) -> Resources:
        """Return the largest GPUs, vCPUs and memory, which may be those of different agents."""
        return Resources(
            max((vcpus for _, vcpus in self._levels), default=0),
            max((rooms[-1][0] for rooms in self._rooms.values()), default=0),
            max((gpus for gpus, _ in self._levels), default=0),
        )


class Run(Protocol):
    """Something that takes up room on a host."""

    @property
    def agent_id(self) -> str:
        """Where it is."""
        ...

    @property
    def job(self) -> JobKey:
        """What it is a run of."""
        ...

    @property
    def need(self) -> Resources:
        """What it takes up."""
        ...

    @property
    def ends_by(self) -> float:
        """When it has ended at the latest; infinity if that is not known."""
        ...

    def __hash__(self) -> int: ...


class Opening(NamedTuple):
    """When a host has room for something, by what is known of its runs."""

    at: float
    """Minus infinity: it has it. Infinity: that is not known."""
    room: Resources
    """What is free then."""


class Host:
    """What is known of one agent's host."""

    __slots__ = (
        "agent_id",
        "capacity",
        "counted",
        "holder",
        "incarnation",
        "indexed_room",
        "open",
        "runs",
        "selector",
        "used",
    )

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.incarnation = 0
        self.capacity: Resources | None = None
        """None: runs are known to be there, but the agent has not joined."""
        self.counted = False
        """Whether its capacity counts among what hosts have."""
        self.selector: Selector = EVERY
        self.used = NOTHING
        self.runs: dict[Run, None] = {}
        self.open = False
        """Whether it takes new jobs."""
        self.holder: Line | None = None
        """The line that its room is held for."""
        self.indexed_room: Resources | None = None

    @property
    def room(self) -> Resources:
        """What is free; negative where the capacity shrank under its runs."""
        return (self.capacity or NOTHING).minus(self.used)

    @property
    def tightness(self) -> tuple[int, int, int, str]:
        """A key that puts hosts in order: the one with the least room first."""
        room = self.room
        return (room.gpus, room.vcpus_milli, room.memory_mib, self.agent_id)

    def opening(self, need: Resources) -> Opening:
        """Return when it has room for this at the latest, if it takes nothing more."""
        room = self.room
        if need.fits_in(room):
            return Opening(-inf, room)
        for run in sorted(self.runs, key=lambda run: run.ends_by):
            room = room.plus(run.need)
            if need.fits_in(room):
                return Opening(run.ends_by, room)
        return Opening(inf, room)

    def serves(self, environment: str) -> bool:
        """Tell whether it serves the compute environment of this name."""
        return not self.selector or environment in self.selector


@dataclass(frozen=True, slots=True)
class HostUse:
    """How much of a host is taken."""

    used: Resources
    runs: int


class Hosts:
    """All hosts, and the indexes over those that take jobs."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._indexes: dict[tuple[Selector, Line | None], RoomIndex] = {}
        self._capacities: dict[Selector, RoomIndex] = {}
        """Capacities of the hosts that have joined and are not drained, whether they take jobs now or not."""
        self._draining: set[str] = set()
        """Ids of drained agents, known or not."""
        self._largest: dict[Selector, Resources] = {}
        self._named: dict[str, list[Selector]] = {}
        self._moved: dict[str, Host] = {}
        """Those whose room may be another than that with which they are indexed, by agent."""
        self.held: dict[str, Host] = {}
        """Those whose room is held for a line, by agent."""

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    def get(self, agent_id: str) -> Host | None:
        """Return a host, or None if nothing is known of it."""
        return self._hosts.get(agent_id)

    def use_of(self, agent_id: str) -> HostUse:
        """Return how much of a host is taken."""
        host = self._hosts.get(agent_id)
        return HostUse(host.used, len(host.runs)) if host else HostUse(NOTHING, 0)

    def join(self, agent: Agent) -> Host:
        """Take in an agent, or what has changed of it, and let it take jobs unless it is drained."""
        host = self._hosts.setdefault(agent.agent_id, Host(agent.agent_id))
        self._unindex(host)
        self._forget_capacity(host)
        host.incarnation, host.capacity = agent.incarnation, agent.capacity
        host.selector = tuple(sorted(set(agent.environments)))
        self._let_go(host)
        self._remember_capacity(host)
        self.reopen(host)
        return host

    def close(self, host: Host) -> None:
        """Let a host take no jobs until it joins or reopens."""
        self._unindex(host)
        host.open = False
        self._let_go(host)

    def _let_go(self, host: Host) -> None:
        host.holder = None
        self.held.pop(host.agent_id, None)

    def reopen(self, host: Host) -> None:
        """Let a host that has joined take jobs again, unless it is drained."""
        host.open = host.capacity is not None and host.agent_id not in self._draining
        self._index(host)

    def drain(self, agent_id: str) -> None:
        """Let an agent's host take no jobs, nor count as one that could, until told otherwise."""
        self._draining.add(agent_id)
        host = self._hosts.get(agent_id)
        if host is not None:
            self.close(host)
            self._forget_capacity(host)

    def undrain(self, agent_id: str) -> None:
        """Let an agent's host count again; it takes jobs when it joins or reopens."""
        self._draining.discard(agent_id)
        host = self._hosts.get(agent_id)
        if host is not None:
            self._remember_capacity(host)

    def leave(self, agent_id: str) -> None:
        """Forget an agent; its runs count against nothing but are still remembered until they end."""
        host = self._hosts.get(agent_id)
        if host is None:
            return
        self.close(host)
        self._forget_capacity(host)
        host.capacity = None
        if not host.runs:
            del self._hosts[agent_id]

    def charge(self, run: Run) -> Host:
        """Count a run on its host, known or not."""
        host = self._hosts.get(run.agent_id)
        if host is None:
            host = self._hosts[run.agent_id] = Host(run.agent_id)
        host.used = host.used.plus(run.need)
        host.runs[run] = None
        self._reindex(host)
        return host

    def discharge(self, run: Run) -> Host:
        """Count a run no more."""
        host = self._hosts[run.agent_id]
        host.used = host.used.minus(run.need)
        del host.runs[run]
        self._reindex(host)
        if not host.runs and host.capacity is None:
            del self._hosts[run.agent_id]
        return host

    def discharge_all(self) -> None:
        """Forget all runs."""
        for host in list(self._hosts.values()):
            host.used = NOTHING
            host.runs.clear()
            if host.capacity is None:
                del self._hosts[host.agent_id]
            else:
                self._reindex(host)

    def hold(self, host: Host, holder: Line | None) -> None:
        """Hold a host's room for a line, or for nobody."""
        self._unindex(host)
        host.holder = holder
        if holder is None:
            self.held.pop(host.agent_id, None)
        else:
            self.held[host.agent_id] = host
        self._index(host)

    def tightest(self, environment: str, need: Resources, holders: Iterable[Line | None]) -> Host | None:
        """Return the host with the tightest fit in an environment, among those held for one of `holders`."""
        self._settle()
        best: _Fit | None = None
        for holder in holders:
            for selector in self._selectors(environment):
                index = self._indexes.get((selector, holder))
                fit = index.tightest(need) if index is not None else None
                if fit is not None and (best is None or fit < best):
                    best = fit
        return None if best is None else self._hosts[best[3]]

    def could_ever_serve(self, environment: str, need: Resources) -> bool:
        """Tell whether some agent that has joined is large enough when it is empty."""
        return any(
            self._capacities[selector].tightest(need) is not None
            for selector in self._selectors(environment)
            if selector in self._capacities
        )

    def largest_serving(self, environment: str) -> Resources | None:
        """Return the largest vCPUs, memory and GPUs among the agents of an environment; None if it has none."""
        sizes = [self._largest_of(name) for name in self._selectors(environment) if name in self._capacities]
        if not sizes:
            return None
        return Resources(
            max(size.vcpus_milli for size in sizes),
            max(size.memory_mib for size in sizes),
            max(size.gpus for size in sizes),
        )

    def is_served(self, environment: str) -> bool:
        """Tell whether some agent takes jobs for an environment now."""
        return any(
            selector == EVERY or environment in selector for (selector, _), index in self._indexes.items() if index
        )

    def drained_serving(self, environment: str) -> list[Host]:
        """Return the drained hosts that have joined and serve an environment."""
        hosts = [self._hosts[agent_id] for agent_id in sorted(self._draining) if agent_id in self._hosts]
        return [host for host in hosts if host.capacity is not None and host.serves(environment)]

    def sanity_check(self, taken: Mapping[str, Sequence[Resources]]) -> None:
        """Assert that hosts and indexes agree with each other and with what is taken of each agent."""
        self._settle()
        assert set(taken) <= set(self._hosts), "runs on agents that are not known"
        for host in self._hosts.values():
            runs = taken.get(host.agent_id, ())
            assert len(host.runs) == len(runs), f"{host.agent_id}: miscounted runs"
            assert host.used == sum_of(runs), f"{host.agent_id}: miscounted use"
            assert host.open == (host.indexed_room is not None), (
                f"{host.agent_id}: open but not indexed, or the reverse"
            )
            is_drained = host.agent_id in self._draining
            assert not (host.open and is_drained), f"{host.agent_id}: drained and open"
            assert host.counted == (host.capacity is not None and not is_drained), f"{host.agent_id}: miscounted"
            assert (host.holder is not None) == (host.agent_id in self.held), f"{host.agent_id}: held, or not"
            if host.open:
                assert host.indexed_room == host.room, f"{host.agent_id}: indexed with room that it does not have"
        indexed = [agent_id for index in self._indexes.values() for agent_id in index.agent_ids()]
        assert sorted(indexed) == sorted(host.agent_id for host in self._hosts.values() if host.open)

    def _selectors(self, environment: str) -> Sequence[Selector]:
        return (EVERY, *self._named.get(environment, ()))

    def _largest_of(self, selector: Selector) -> Resources:
        size = self._largest.get(selector)
        if size is None:
            size = self._largest[selector] = self._capacities[selector].largest()
        return size

    def _index(self, host: Host) -> None:
        if not host.open or host.indexed_room is not None:
            return
        key = (host.selector, host.holder)
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = RoomIndex()
        host.indexed_room = host.room
        index.add(host.indexed_room, host.agent_id)

    def _unindex(self, host: Host) -> None:
        if host.indexed_room is None:
            return
        key = (host.selector, host.holder)
        index = self._indexes[key]
        index.remove(host.indexed_room, host.agent_id)
        host.indexed_room = None
        if not index:
            del self._indexes[key]

    def _reindex(self, host: Host) -> None:
        """Have it indexed by the room that it has when a fit is next looked for: by then it may have what it had."""
        if host.indexed_room is not None:
            self._moved[host.agent_id] = host

    def _settle(self) -> None:
        for host in self._moved.values():
            if host.indexed_room is not None and host.indexed_room != host.room:
                self._unindex(host)
                self._index(host)
        self._moved.clear()

    def _remember_capacity(self, host: Host) -> None:
        if host.counted or host.capacity is None or host.agent_id in self._draining:
            return
        host.counted = True
        selector = host.selector
        if selector not in self._capacities:
            self._capacities[selector] = RoomIndex()
            for name in selector:
                self._named.setdefault(name, []).append(selector)
        self._capacities[selector].add(host.capacity, host.agent_id)
        self._largest.pop(selector, None)

    def _forget_capacity(self, host: Host) -> None:
        if not host.counted or host.capacity is None:
            return
        host.counted = False
        selector = host.selector
        index = self._capacities[selector]
        index.remove(host.capacity, host.agent_id)
        self._largest.pop(selector, None)
        if not index:
            del self._capacities[selector]
            for name in selector:
                self._named[name].remove(selector)
                if not self._named[name]:
                    del self._named[name]
