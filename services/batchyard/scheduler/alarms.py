"""What falls due while nothing happens: telling why a job waits, and holding room for one that waits too long."""

from collections.abc import Iterable
from heapq import heappop, heappush

from batchyard.scheduler.environments import Environments
from batchyard.scheduler.holds import Holds
from batchyard.scheduler.hosts import Hosts
from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import WaitReason
from batchyard.scheduler.reasons import why_waiting


class Alarms:
    """One timer for each line that needs one.

    A reason is told once a head has waited for `reason_delay_s`, so that jobs that are placed soon cost nothing, and
    holds for all jobs of the line; told reasons are looked at again as long after agents, environments or queues have
    changed.
    """

    def __init__(
        self,
        hosts: Hosts,
        environments: Environments,
        holds: Holds,
        *,
        starvation_bound_s: float,
        reason_delay_s: float,
    ) -> None:
        self._hosts = hosts
        self._environments = environments
        self._holds = holds
        self._starvation_bound_s = starvation_bound_s
        self._reason_delay_s = reason_delay_s
        self._timers: list[tuple[float, int, Line]] = []
        self._rung: list[Line] = []
        self._structure_changed = False
        self._retell_at: float | None = None

    def structure_changed(self) -> None:
        """Note that agents, environments or queues have changed."""
        self._structure_changed = True

    def forget(self) -> None:
        """Forget all lines."""
        self._timers.clear()

    def arm(self, line: Line) -> None:
        """Set the timer of a parked line to what is due first; it has one at most, which may ring for nothing."""
        if line.blocked_since is None:
            return
        due = [] if line.explained else [line.blocked_since + self._reason_delay_s]
        if not line.starving:
            due.append(line.blocked_since + self._starvation_bound_s)
        elif line.reaches_further_at is not None:
            due.append(line.reaches_further_at)
        if due and (line.wakes_at is None or min(due) < line.wakes_at):
            line.wakes_at = min(due)
            heappush(self._timers, (line.wakes_at, line.serial, line))

    def ring(self, now: float) -> None:
        """Begin a plan: hold room for the lines whose heads have waited for too long."""
        while self._timers and self._timers[0][0] <= now:
            at, _, line = heappop(self._timers)
            if line.wakes_at != at:
                continue
            line.wakes_at = None
            if line.blocked_since is None:
                continue
            self._rung.append(line)
            if not line.starving and line.blocked_since + self._starvation_bound_s <= now:
                self._holds.starve(line)
                line.reaches_further_at = now + self._starvation_bound_s
            elif line.starving and line.reaches_further_at is not None and line.reaches_further_at <= now:
                may_grow = self._holds.reach_further(line)
                line.reaches_further_at = now + self._starvation_bound_s if may_grow else None

    def report(self, now: float, parked: Iterable[Line]) -> list[WaitReason]:
        """End a plan: return the reasons that have become due or are no longer what was told."""
        reasons: list[WaitReason] = []
        for line in self._rung:
            if line.parked and line.blocked_since is not None:
                if line.blocked_since + self._reason_delay_s <= now:
                    reasons.extend(self._tell(line))
                line.wakes_at = None
                self.arm(line)
        self._rung.clear()
        if self._structure_changed and self._retell_at is None:
            self._retell_at = now + self._reason_delay_s
            self._structure_changed = False
        if self._retell_at is not None and self._retell_at <= now:
            self._retell_at = None
            reasons.extend(reason for line in parked if line.explained for reason in self._tell(line))
        return reasons

    def next_deadline(self) -> float | None:
        """Return when something is due next, or None."""
        while self._timers and self._timers[0][2].wakes_at != self._timers[0][0]:
            heappop(self._timers)
        due = [self._timers[0][0]] if self._timers else []
        if self._retell_at is not None:
            due.append(self._retell_at)
        return min(due, default=None)

    def _tell(self, line: Line) -> list[WaitReason]:
        if line.head() is None:
            return []
        line.explained = True
        reason = why_waiting(line, self._environments, self._hosts)
        if reason == line.told:
            return []
        line.told = reason
        return [WaitReason(line.queue.key, line.need, reason, line.share.identifier)]
