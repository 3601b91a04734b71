"""Who waits: jobs of equal shape stand in one line, lines stand in their queue.

A line whose head found no room is parked, and is looked at again only after something has changed that could let it
through. A waiting job is one small tuple, in its line's heap and in the index of its namespace. Of the children of an
array only the first is one, the others stand behind it as bits.
"""

from bisect import bisect_left, bisect_right, insort
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

from batchyard.domain.arrays import Indices, lowest, only
from batchyard.domain.jobs import JobId, JobKey
from batchyard.scheduler.arrays import WaitingArray
from batchyard.scheduler.model import JobQueue, QueuedChildren, ResourceKey, Resources

Entry: TypeAlias = tuple[int, JobId, int, "Line"]
"""A waiting job: its place in the order of submission, its id, its version, its line."""

Index: TypeAlias = dict[JobId, Entry]
"""The waiting jobs of a namespace by their ids."""

Arrays: TypeAlias = dict[JobId, tuple[WaitingArray, "Line"]]
"""The arrays of a namespace with children that wait, by the arrays' ids, and the line in which they stand."""

_COMPACT_ABOVE: Final = 64


class Line:
    """The waiting jobs of one queue that need the same, in the order of submission."""

    __slots__ = (
        "_arrays",
        "_behind",
        "_entries",
        "_fronts",
        "_index",
        "_live",
        "blocked_since",
        "explained",
        "need",
        "parked",
        "queue",
        "ready_as",
        "serial",
        "short_of_hosts",
        "starving",
        "told",
        "wakes_at",
    )

    def __init__(self, serial: int, queue: "Queue", need: Resources, index: Index, arrays: Arrays) -> None:
        self.serial = serial
        """Unlike that of any other line; it breaks ties, so that no order depends on addresses."""
        self.queue = queue
        self.need = need
        self._index = index
        self._arrays = arrays
        self._entries: list[Entry] = []
        self._live = 0
        self._fronts: dict[JobId, WaitingArray] = {}
        """The arrays of which a child is one of the entries, by the id of that child."""
        self._behind = 0
        """Children that wait behind those."""
        self.ready_as: int | None = None
        """The sequence under which its queue has it as ready."""
        self.parked = False
        self.blocked_since: float | None = None
        """When the head was first found not to fit."""
        self.short_of_hosts: tuple[str, ...] = ()
        """Names of the environments in which the head may find that only a host is lacking."""
        self.starving = False
        """Whether the head has waited for so long that room is held for it."""
        self.told = ""
        """Why its jobs wait, as was last told."""
        self.explained = False
        """Whether it is known why the present head waits."""
        self.wakes_at: float | None = None
        """When its timer fires."""

    def __len__(self) -> int:
        return self._live + self._behind

    def add(self, job_id: JobId, sequence: int, version: int) -> None:
        """Put a job in its place."""
        entry = (sequence, job_id, version, self)
        self._index[job_id] = entry
        heappush(self._entries, entry)
        self._live += 1

    def add_children(self, children: QueuedChildren) -> None:
        """Put children of an array in their places."""
        array_id = children.array.job_id
        array, _ = self._arrays.get(array_id, (None, None))
        if array is None:
            array = WaitingArray(array_id, children.sequence, children.version)
            self._arrays[array_id] = (array, self)
        before = len(array)
        array.behind |= children.indices
        self._behind += len(array) - before
        if array.front is not None and array.behind and lowest(array.behind) < array.front:
            self._recall(array)
        if array.front is None:
            self._advance(array)

    def replace(self, job_id: JobId, sequence: int, version: int) -> None:
        """Put a newer version of a job in the place of the one that is there."""
        entry = (sequence, job_id, version, self)
        self._index[job_id] = entry
        heappush(self._entries, entry)
        self._compact()

    def head(self) -> Entry | None:
        """Return the first job without taking it."""
        entries, index = self._entries, self._index
        while entries:
            if index.get(entries[0][1]) is entries[0]:
                return entries[0]
            heappop(entries)  # withdrawn
        return None

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
        self.add(array.child_id(index), array.child_sequence(index), array.version)

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

    def head_key(self) -> JobKey | None:
        """Return the first job's name."""
        head = self.head()
        return None if head is None else JobKey(self.queue.key.namespace, head[1])

    def _compact(self) -> None:
        if len(self._entries) > _COMPACT_ABOVE + 2 * self._live:
            self._entries = [entry for entry in self._entries if self._index.get(entry[1]) is entry]
            heapify(self._entries)


class Queue:
    """A job queue and its lines."""

    __slots__ = ("_ready", "key", "lines", "on_agenda", "rank", "spec", "turn")

    def __init__(self, key: ResourceKey) -> None:
        self.key = key
        self.spec: JobQueue | None = None
        """None: jobs name a queue that is not known, or not any more."""
        self.rank = 0
        """Queues of a lower rank go first."""
        self.turn = 0
        """When the queue last placed a job; among equals the lowest goes first."""
        self.on_agenda = False
        self.lines: dict[Resources, Line] = {}
        self._ready: list[tuple[int, int, Line]] = []

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of its compute environments, in order."""
        return () if self.spec is None else self.spec.environments

    def forget_lines(self) -> None:
        """Forget all lines."""
        self.lines.clear()
        self._ready.clear()
        self.on_agenda = False

    def make_ready(self, line: Line, sequence: int) -> None:
        """Have a line looked at; `sequence` is that of its head."""
        line.parked = False
        if line.ready_as is None or sequence < line.ready_as:
            line.ready_as = sequence
            heappush(self._ready, (sequence, line.serial, line))

    def next_ready(self) -> tuple[Line, Entry] | None:
        """Return the ready line whose head was submitted first, and that head; None if no line is ready."""
        while self._ready:
            sequence, _, line = self._ready[0]
            expected = line.ready_as == sequence
            head = line.head() if expected else None
            if head is not None and head[0] == sequence:
                return line, head
            heappop(self._ready)
            if expected:
                line.ready_as = None
                if head is not None:
                    self.make_ready(line, head[0])
        return None

    def unready(self, line: Line) -> None:
        """Have a line not looked at; it must be the one that `next_ready` has just returned."""
        heappop(self._ready)
        line.ready_as = None


class ParkedLines:
    """Lines whose heads found no host with room, by what they need."""

    def __init__(self) -> None:
        self._levels: list[int] = []
        self._lines: dict[int, list[tuple[int, int, int, Line]]] = {}

    def add(self, line: Line) -> None:
        """Put a line in, if it is not there already."""
        level = line.need.vcpus_milli
        item = _parked_item(line)
        lines = self._lines.get(level)
        if lines is None:
            self._lines[level] = [item]
            insort(self._levels, level)
            return
        at = bisect_left(lines, item)
        if at == len(lines) or lines[at][2] != line.serial:
            lines.insert(at, item)

    def discard(self, line: Line) -> None:
        """Take a line out, if it is there."""
        level = line.need.vcpus_milli
        lines = self._lines.get(level, [])
        at = bisect_left(lines, _parked_item(line))
        if at < len(lines) and lines[at][2] == line.serial:
            del lines[at]
            if not lines:
                del self._lines[level]
                del self._levels[bisect_left(self._levels, level)]

    def contains(self, line: Line) -> bool:
        """Tell whether a line is in."""
        return any(item[2] == line.serial for item in self._lines.get(line.need.vcpus_milli, ()))

    def fitting(self, room: Resources) -> list[Line]:
        """Return the lines that need no more than this."""
        fitting: list[Line] = []
        for level in self._levels[: bisect_right(self._levels, room.vcpus_milli)]:
            lines = self._lines[level]
            small_enough = lines[: bisect_left(lines, (room.memory_mib + 1,))]
            fitting.extend(line for _, gpus, _, line in small_enough if gpus <= room.gpus)
        return fitting


def _parked_item(line: Line) -> tuple[int, int, int, Line]:
    return (line.need.memory_mib, line.need.gpus, line.serial, line)
