"""Who waits: jobs of equal shape stand in one line, lines stand in the share of their queue.

A line whose head found no room is parked, and is looked at again only after something has changed that could let it
through. A waiting job is one small tuple, in its line's heap and in the index of its namespace. Of the children of an
array only the first is one, the others stand behind it as bits.

Of a long line only the beginning is known, up to a place. What comes behind that place counts as not known, also where
it is, until those before it are.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from batchyard.domain.arrays import Indices, lowest, only
from batchyard.domain.jobs import JobId, JobKey
from batchyard.scheduler.arrays import WaitingArray
from batchyard.scheduler.model import LineKey, QueuedChildren, Resources

if TYPE_CHECKING:
    from batchyard.scheduler.queues import Queue, Share

Entry: TypeAlias = tuple[int, JobId, int, "Line"]
"""A waiting job: its place in the order of its share, its id, its version, its line."""

Index: TypeAlias = dict[JobId, Entry]
"""The waiting jobs of a namespace by their ids."""

Arrays: TypeAlias = dict[JobId, tuple[WaitingArray, "Line"]]
"""The arrays of a namespace with children that wait, by the arrays' ids, and the line in which they stand."""

NOT_KNOWN: Final = JobId("")
"""In place of the id of a job that is in the job store alone."""

_COMPACT_ABOVE: Final = 64


class Line:
    """The waiting jobs of one share of a queue that need the same, in the order of the share."""

    __slots__ = (
        "_arrays",
        "_behind",
        "_entries",
        "_fronts",
        "_index",
        "_live",
        "asked",
        "blocked_since",
        "explained",
        "known_to",
        "need",
        "parked",
        "queue",
        "reach",
        "reaches_further_at",
        "ready_as",
        "serial",
        "share",
        "short_of_hosts",
        "starving",
        "time_limit_s",
        "told",
        "wakes_at",
    )

    def __init__(
        self,
        serial: int,
        share: "Share",
        need: Resources,
        time_limit_s: int | None,
        index: Index,
        arrays: Arrays,
    ) -> None:
        self.serial = serial
        """Unlike that of any other line; it breaks ties, so that no order depends on addresses."""
        self.share = share
        self.queue: Queue = share.queue
        self.need = need
        self.time_limit_s = time_limit_s
        self._index = index
        self._arrays = arrays
        self._entries: list[Entry] = []
        self._live = 0
        self._fronts: dict[JobId, WaitingArray] = {}
        """The arrays of which a child is one of the entries, by the id of that child."""
        self._behind = 0
        """Children that wait behind those."""
        self.known_to: int | None = None
        """The place up to which all jobs are known; None: all are, however many there are."""
        self.asked = False
        """Whether the store has been asked for those that follow."""
        self.ready_as: int | None = None
        """The place of its head under which its share has it as ready."""
        self.parked = False
        self.blocked_since: float | None = None
        """When the head was first found not to fit."""
        self.short_of_hosts: tuple[str, ...] = ()
        """Names of the environments in which the head may find that only a host is lacking."""
        self.starving = False
        """Whether the head has waited for so long that room is held for it."""
        self.reach = 0
        """On how many hosts that is."""
        self.reaches_further_at: float | None = None
        """When it will be on more."""
        self.told = ""
        """Why its jobs wait, as was last told."""
        self.explained = False
        """Whether it is known why the present head waits."""
        self.wakes_at: float | None = None
        """When its timer fires."""

    def __len__(self) -> int:
        return self._live + self._behind

    @property
    def key(self) -> LineKey:
        """Its name."""
        return LineKey(self.queue.key, self.share.identifier, self.need, self.time_limit_s)

    @property
    def is_over(self) -> bool:
        """Whether nothing waits in it, known or not."""
        return self.known_to is None and not len(self)

    def is_short(self, jobs: int) -> bool:
        """Tell whether more of it should be known: of what is known are fewer than so many jobs left."""
        return self.known_to is not None and not self.asked and self._live - len(self._fronts) < jobs

    def knows(self, order: int) -> bool:
        """Tell whether a place is among those of which all is known."""
        return self.known_to is None or order <= self.known_to

    def add(self, job_id: JobId, order: int, version: int) -> bool:
        """Put a job in its place, if that is among those of which all is known; return whether it was."""
        if not self.knows(order):
            return False
        self._put(job_id, order, version)
        return True

    def _put(self, job_id: JobId, order: int, version: int) -> None:
        entry = (order, job_id, version, self)
        self._index[job_id] = entry
        heappush(self._entries, entry)
        self._live += 1

    def extend(self, jobs: Sequence[tuple[int, JobId, int]], known_to: int | None) -> None:
        """Put in jobs that follow those that are known, after which all is known up to a place."""
        index = self._index
        for order, job_id, version in jobs:
            self._live += job_id not in index
            entry = index[job_id] = (order, job_id, version, self)
            self._entries.append(entry)
        heapify(self._entries)
        self.known_to = known_to

    def cut(self, jobs: int) -> None:
        """Forget all but the first so many jobs, if there are twice as many; the store has the others."""
        if self._live - len(self._fronts) <= 2 * jobs:
            return
        index, fronts = self._index, self._fronts
        entries = sorted(entry for entry in self._entries if index.get(entry[1]) is entry and entry[1] not in fronts)
        kept = entries[:jobs]
        for entry in entries[jobs:]:
            del index[entry[1]]
        self.known_to = kept[-1][0]
        self._entries = kept + [index[job_id] for job_id in fronts]
        heapify(self._entries)
        self._live = len(self._entries)

    def add_children(self, children: QueuedChildren) -> None:
        """Put children of an array in their places."""
        array_id = children.array.job_id
        array, _ = self._arrays.get(array_id, (None, None))
        if array is None:
            array = WaitingArray(array_id, children.order, children.version)
            self._arrays[array_id] = (array, self)
        before = len(array)
        array.behind |= children.indices
        self._behind += len(array) - before
        if array.front is not None and array.behind and lowest(array.behind) < array.front:
            self._recall(array)
        if array.front is None:
            self._advance(array)

    def replace(self, job_id: JobId, order: int, version: int) -> None:
        """Put a newer version of a job in the place of the one that is there."""
        entry = (order, job_id, version, self)
        self._index[job_id] = entry
        heappush(self._entries, entry)
        self._compact()

    def head(self) -> Entry | None:
        """Return the first job without taking it; None also if it is not known which one is the first."""
        entries, index = self._entries, self._index
        while entries:
            first = entries[0]
            if index.get(first[1]) is first:
                return first if self.known_to is None or first[0] <= self.known_to else None
            heappop(entries)  # withdrawn
        return None

    def upcoming(self) -> Entry | None:
        """Return the first job, or where the jobs begin that are not known; None if there is neither."""
        head = self.head()
        if head is not None or self.known_to is None:
            return head
        return (self.known_to + 1, NOT_KNOWN, 0, self)

    def take(self) -> Entry:
        """Take the first job out; there must be one."""
        entry = self.head()
        assert entry is not None
        heappop(self._entries)
        del self._index[entry[1]]
        self._live -= 1
        self._left(entry[1])
        return entry

    def discard(self, job_id: JobId) -> None:
        """Take out a job that is in the index, wherever it stands."""
        del self._index[job_id]
        self._live -= 1
        self._left(job_id)
        self._compact()

    def discard_behind(self, array: WaitingArray, indices: Indices) -> None:
        """Take out those children of an array that stand behind another one."""
        gone = array.behind & indices
        array.behind &= ~gone
        self._behind -= gone.bit_count()

    def _left(self, job_id: JobId) -> None:
        """Let the next child of an array come in front, if it was one that has left."""
        array = self._fronts.pop(job_id, None)
        if array is not None:
            array.front = None
            self._advance(array)

    def _advance(self, array: WaitingArray) -> None:
        """Bring the next child of an array to the front, or forget an array without any."""
        index = array.advance()
        if index is None:
            del self._arrays[array.job_id]
            return
        self._behind -= 1
        self._fronts[array.child_id(index)] = array
        self._put(array.child_id(index), array.child_order(index), array.version)

    def _recall(self, array: WaitingArray) -> None:
        """Have the child in front go behind the others again."""
        assert array.front is not None
        job_id = array.child_id(array.front)
        del self._index[job_id], self._fronts[job_id]
        array.behind |= only(array.front)
        array.front = None
        self._live -= 1
        self._behind += 1
        self._compact()

    def first(self, limit: int) -> list[tuple[int, JobId]]:
        """Return the first jobs with their places, in order; costs as much as it returns, and what has gone before."""
        if not self._entries:
            return []
        found: list[tuple[int, JobId]] = []
        todo: list[tuple[int, int]] = [(self._entries[0][0], 0)]
        children: list[tuple[int, JobId]] = []
        while todo and len(found) < limit:
            order, at = heappop(todo)
            entry = self._entries[at]
            for position in range(2 * at + 1, min(2 * at + 3, len(self._entries))):
                heappush(todo, (self._entries[position][0], position))
            if self._index.get(entry[1]) is entry:
                found.append((order, entry[1]))
                array = self._fronts.get(entry[1])
                if array is not None:
                    children += array.first_behind(limit)
        return sorted(found + children)[:limit]

    def head_key(self) -> JobKey | None:
        """Return the first job's name."""
        head = self.head()
        return None if head is None else JobKey(self.queue.key.namespace, head[1])

    def _compact(self) -> None:
        if len(self._entries) > _COMPACT_ABOVE + 2 * self._live:
            self._entries = [entry for entry in self._entries if self._index.get(entry[1]) is entry]
            heapify(self._entries)
