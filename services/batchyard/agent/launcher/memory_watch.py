"""The limit of memory where no cgroup can be made: runs are looked at now and then, and ended when they use too much.

What they use in between is not seen, so a host can run short of memory before such a run is ended.
"""

from collections.abc import Collection, Iterable

from batchyard.agent.launcher import tree
from batchyard.agent.launcher.cgroups import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from batchyard.agent.launcher.processes import Process

INTERVAL_S = 0.5


class MemoryWatch:
    """Looks at all runs at once, at this interval."""

    def __init__(self) -> None:
        self._next_look = float("-inf")

    def next_look(self, processes: Collection["Process"]) -> float:
        """Return when to look again."""
        return self._next_look if processes else float("inf")

    def over_limit(self, now: float, processes: Collection["Process"]) -> list["Process"]:
        """Return the runs that use more memory than they may, if it is time to look."""
        if not processes or now < self._next_look:
            return []
        self._next_look = now + INTERVAL_S
        living = tree.by_run({process.pid: process.marks for process in processes})
        return [process for process in processes if _uses_more(living[process.pid], process.memory_mib * MIB)]


def _uses_more(members: dict[int, tree.Stat], limit: int) -> bool:
    # What is resident is told at once, and counts shared pages as often as they are shared.
    if limit <= 0 or sum(seen.resident_bytes for seen in members.values()) <= limit:
        return False
    return sum(_exact(members.items())) > limit


def _exact(members: Iterable[tuple[int, tree.Stat]]) -> Iterable[int]:
    for pid, seen in members:
        exact = tree.proportional_bytes(pid)
        yield seen.resident_bytes if exact is None else exact
