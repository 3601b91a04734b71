"""What a host was offered and how far each run has come. Pure: the caller brings the time and keeps the journal.

A run goes OFFERED < CLAIMED < STARTED < DONE, or from OFFERED to REVOKED, and never back. Offers wait in the order of
their arrival and hold nothing; a claim holds room until the run is DONE. A fence that is known is never taken again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum

Fence = tuple[int, int]
"""Store epoch and number: names one offer of one job to one agent, for ever."""

Need = tuple[int, int, int]
"""Thousandths of a vCPU, MiB, GPUs."""

HISTORY_LENGTH = 10_000
"""Forgotten fences that are remembered one by one; offers arrive nearly in order, so older ones are refused."""


class RunState(IntEnum):
    """How far a run has come; the numbers are those of the agent protocol."""

    OFFERED = 1
    CLAIMED = 2
    STARTED = 3
    DONE = 4
    REVOKED = 5


class RunEnd(IntEnum):
    """Why a run is DONE; the numbers are those of the agent protocol."""

    EXITED = 1
    START_FAILED = 2
    TIMED_OUT = 3
    STOPPED = 4
    LOST = 5
    NEVER_STARTED = 6


FINAL = frozenset({RunState.DONE, RunState.REVOKED})
_HOLDS_ROOM = frozenset({RunState.CLAIMED, RunState.STARTED})


class Run:
    """One fence and what became of it. Times are seconds of CLOCK_BOOTTIME."""

    __slots__ = (
        "about",
        "begun",
        "end",
        "ended",
        "exit_code",
        "fence",
        "journalled",
        "need",
        "order",
        "reason",
        "started",
        "state",
    )

    def __init__(self, fence: Fence, need: Need, about: dict[str, str], order: object) -> None:
        self.fence = fence
        self.need = need
        self.about = about
        """What the agent wants to be told again with every word about this run."""
        self.order = order
        """How to start it; the runtime's own words."""
        self.state = RunState.OFFERED
        self.journalled = False
        """Whether a claim of it is on disk; it may be before there is room."""
        self.begun = False
        """Whether it may have started, be it only for want of a proof that it has not."""
        self.started: float | None = None
        self.ended: float | None = None
        self.exit_code: int | None = None
        self.end: RunEnd | None = None
        self.reason = ""


class FenceHistory:
    """Remembers the fences of forgotten runs in bounded room; of what it no longer remembers it says "known"."""

    def __init__(self, length: int = HISTORY_LENGTH) -> None:
        self._length = length
        self._order: deque[Fence] = deque()
        self._fences: set[Fence] = set()
        self.floor: Fence = (0, 0)
        """Everything up to here counts as known."""

    def add(self, fence: Fence) -> None:
        """Remember a fence."""
        if fence in self:
            return
        self._order.append(fence)
        self._fences.add(fence)
        if len(self._order) > self._length:
            oldest = self._order.popleft()
            self._fences.remove(oldest)
            self.raise_floor(oldest)

    def raise_floor(self, fence: Fence) -> None:
        """Count everything up to `fence` as known."""
        self.floor = max(self.floor, fence)

    def __contains__(self, fence: Fence) -> bool:
        return fence <= self.floor or fence in self._fences

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Fence]:
        return iter(self._order)


class Ledger:
    """All runs of one host, the room they hold, and the lease under which they may start."""

    def __init__(self) -> None:
        self.runs: dict[Fence, Run] = {}
        self.history = FenceHistory()
        self.capacity: Need = (0, 0, 0)
        self.lease_deadline = float("-inf")
        self.start_margin_s = 0.0
        """Nothing starts with less than this left of the lease."""
        self._epoch = 0
        self._free: Need = (0, 0, 0)
        self._waiting: deque[Run] = deque()
        self._changed: dict[Fence, Run] = {}

    def set_capacity(self, capacity: Need) -> None:
        """Say what the host has; runs that hold more than that keep it until they end."""
        used = _minus(self.capacity, self._free)
        self.capacity = capacity
        self._free = _minus(capacity, used)

    def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Move the deadline; it never goes back."""
        self.lease_deadline = max(self.lease_deadline, deadline)
        self.start_margin_s = start_margin_s

    def offer(self, run: Run) -> None:
        """Take an offer into the queue; whoever made it knows, so that alone is no change.

        One that is known only has its state told again. One that was forgotten, or that is of a lower store epoch than
        any seen, is given back: it may have run before.
        """
        held = self.runs.get(run.fence)
        if held is not None:
            self._changed[run.fence] = held
            return
        self.runs[run.fence] = run
        if run.fence in self.history or run.fence[0] < self._epoch:
            self._revoke(run)
            return
        self._epoch = run.fence[0]
        self._waiting.append(run)

    def revoke(self, fence: Fence) -> None:
        """Give an offer back unless it is claimed; either way its state is told again.

        A fence that was never seen counts as given back from now on, so that its late offer starts nothing.
        """
        run = self.runs.get(fence)
        if run is None:
            run = self.runs[fence] = Run(fence, (0, 0, 0), {}, None)
        if run.state is RunState.OFFERED:
            self._revoke(run)
        self._changed[fence] = run

    def revoke_waiting(self) -> None:
        """Give every unclaimed offer back."""
        for run in self._waiting:
            if run.state is RunState.OFFERED:
                self._revoke(run)
        self._waiting.clear()

    def startable(self, now: float) -> list[Run]:
        """Return the waiting runs, oldest first, that have room together and may start under the lease.

        Changes nothing but to give back what could never fit: `claim` them once they are in the journal.
        """
        if self.lease_deadline - now <= self.start_margin_s or not self.has_waiting():
            return []
        found: list[Run] = []
        free = self._free
        for run in self._waiting:
            if run.state is not RunState.OFFERED:
                continue
            if not _covers(self.capacity, run.need):
                self._revoke(run)
                continue
            if not _covers(free, run.need):
                break
            free = _minus(free, run.need)
            found.append(run)
        return found

    def first_waiting(self, count: int) -> list[Run]:
        """Return so many of the waiting runs, oldest first: those that have room, and those to have it next."""
        found: list[Run] = []
        for run in self._waiting:
            if len(found) == count:
                break
            if run.state is RunState.OFFERED:
                found.append(run)
        return found

    def claim(self, runs: Iterable[Run]) -> None:
        """Take room for runs that `startable` returned."""
        for run in runs:
            assert run.state is RunState.OFFERED, f"{run.fence} is claimed twice"
            assert _covers(self._free, run.need), f"{run.fence} is claimed without room"
            self._free = _minus(self._free, run.need)
            self._move(run, RunState.CLAIMED)

    def start(self, run: Run, now: float) -> None:
        """Record that the process or container is up."""
        run.started = now
        self._move(run, RunState.STARTED)

    def finish(self, run: Run, now: float, end: RunEnd, *, exit_code: int | None = None, reason: str = "") -> None:
        """Record that a run has ended with all that it started, and free its room."""
        self._free = (
            self._free[0] + run.need[0],
            self._free[1] + run.need[1],
            self._free[2] + run.need[2],
        )
        run.ended, run.end, run.exit_code, run.reason = now, end, exit_code, reason
        run.order = None
        self._move(run, RunState.DONE)

    def forget(self, fence: Fence) -> bool:
        """Drop a run that is over; its fence stays known. Return whether there was one."""
        run = self.runs.get(fence)
        if run is None or run.state not in FINAL:
            return False
        del self.runs[fence]
        self._changed.pop(fence, None)
        self.history.add(fence)
        return True

    def restore(self, runs: Iterable[Run], forgotten: Iterable[Fence], floor: Fence) -> None:
        """Take over what a journal holds. Call it on an empty ledger."""
        self.history.raise_floor(floor)
        for fence in forgotten:
            self.history.add(fence)
            self._epoch = max(self._epoch, fence[0])
        self._epoch = max(self._epoch, floor[0])
        for run in runs:
            self.runs[run.fence] = run
            self._epoch = max(self._epoch, run.fence[0])
            if run.state in _HOLDS_ROOM:
                self._free = _minus(self._free, run.need)

    def changes_due(self, young_s: float) -> float:
        """Return when `take_changes` has something to return, if starts that are younger than this are left."""
        return min((_due(run, young_s) for run in self._changed.values()), default=float("inf"))

    def take_changes(self, now: float = float("inf"), young_s: float = 0.0) -> list[Run]:
        """Return the runs that changed, or whose state was asked for, since the last call.

        Those that have only started, and less than `young_s` ago, are left for the next call.
        """
        changed = [run for run in self._changed.values() if _due(run, young_s) <= now]
        for run in changed:
            del self._changed[run.fence]
        return changed

    def has_waiting(self) -> bool:
        """Tell whether an offer is waiting."""
        while self._waiting and self._waiting[0].state is not RunState.OFFERED:
            self._waiting.popleft()
        return bool(self._waiting)

    def active(self) -> list[Run]:
        """Return the runs that hold room."""
        return [run for run in self.runs.values() if run.state in _HOLDS_ROOM]

    def _revoke(self, run: Run) -> None:
        run.order = None
        self._move(run, RunState.REVOKED)

    def _move(self, run: Run, state: RunState) -> None:
        assert state > run.state, f"{run.fence} goes from {run.state.name} to {state.name}"
        run.state = state
        self._changed[run.fence] = run


def _due(run: Run, young_s: float) -> float:
    return run.started + young_s if run.state is RunState.STARTED and run.started is not None else float("-inf")


def _covers(have: Need, need: Need) -> bool:
    return need[0] <= have[0] and need[1] <= have[1] and need[2] <= have[2]


def _minus(left: Need, right: Need) -> Need:
    return (left[0] - right[0], left[1] - right[1], left[2] - right[2])
