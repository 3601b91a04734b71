"""The children of an array job, as far as they have no rows of their own.

A child gets a row when it is first offered, or when something happens to it alone. Until then it is a bit in a few
sets that its array keeps: what thousands of waiting children cost is some kilobytes. Children with rows are counted
here by state, and those that have ended are kept as bits too, for other children may wait for them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final, TypeAlias

from batchyard.domain.lifecycle import JobEvent, JobState

SIZE_MIN: Final = 2
SIZE_MAX: Final = 10_000

VERSION_WITHOUT_ROW: Final = 1
"""Of a child without a row; it is never offered in any other state than RUNNABLE, and never comes back to it."""

Indices: TypeAlias = int
"""A set of indices: index i is in it if bit i is set. Cheap to unite, to cut, to count and to store."""


def all_of(size: int) -> Indices:
    """Return the indices below a size."""
    return (1 << size) - 1


def only(index: int) -> Indices:
    """Return the set of one index."""
    return 1 << index


def lowest(indices: Indices) -> int:
    """Return the lowest of indices, of which there must be one."""
    return (indices & -indices).bit_length() - 1


def each(indices: Indices) -> Iterator[int]:
    """Yield indices in ascending order."""
    for start, byte in enumerate(to_bytes(indices)):
        while byte:
            yield start * 8 + lowest(byte)
            byte &= byte - 1


def ranges(indices: Indices) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of indices, in ascending order."""
    base = 0
    while indices:
        gap = lowest(indices)
        length = lowest(~(indices >> gap))
        yield base + gap, base + gap + length - 1
        indices >>= gap + length
        base += gap + length


def to_bytes(indices: Indices) -> bytes:
    """Return indices as bytes, as many as it takes: index i is in them if bit i % 8 of byte i // 8 is set."""
    return indices.to_bytes((indices.bit_length() + 7) // 8, "little")


def from_bytes(data: bytes) -> Indices:
    """Return the indices that `to_bytes` made bytes of."""
    return int.from_bytes(data, "little")


@dataclass(slots=True)
class Children:
    """What an array knows of its children. The sets are disjoint; a child that is in none has a row and has not ended.

    Belongs to the transaction that loaded it, with the array's job.
    """

    size: int
    sequential: bool
    """Each child waits for the one before it."""
    paired: bool
    """Each child waits for that with its own index in other arrays, which the store knows."""
    created_at: int
    """When the array's own dependencies were met, in milliseconds since the epoch; before that, when it came in."""
    changed_at: int
    """When a child last changed its state."""
    pending: Indices
    """Without rows, as are the members that follow up to `stopped`: they wait for a dependency."""
    runnable: Indices = 0
    dependency_failed: Indices = 0
    """FAILED because of a dependency."""
    stopped: Indices = 0
    """FAILED with their array, which was cancelled or terminated."""
    succeeded: Indices = 0
    """With rows, as are the members that follow."""
    failed: Indices = 0
    rows_runnable: int = 0
    rows_starting: int = 0
    rows_running: int = 0

    @property
    def waiting(self) -> Indices:
        """Those without rows that have not ended."""
        return self.pending | self.runnable

    @property
    def runnable_at(self) -> int:
        """When those that are RUNNABLE without rows became so, or, as that may be at many times, some time since."""
        return self.changed_at if self.sequential or self.paired else self.created_at

    @property
    def all_failed(self) -> Indices:
        """Those that are FAILED, with or without rows."""
        return self.dependency_failed | self.stopped | self.failed

    @property
    def are_over(self) -> bool:
        """Whether all have ended."""
        return (self.succeeded | self.all_failed).bit_count() == self.size

    @property
    def have_succeeded(self) -> bool:
        """Whether all have succeeded."""
        return self.succeeded.bit_count() == self.size

    def without_row(self, state: JobState) -> Indices:
        """Return those without rows that are in a state."""
        match state:
            case JobState.PENDING:
                return self.pending
            case JobState.RUNNABLE:
                return self.runnable
            case JobState.FAILED:
                return self.dependency_failed | self.stopped
            case _:
                return 0

    def state_without_row(self, index: int) -> JobState | None:
        """Return the state of a child, or None if it has a row."""
        if self.runnable >> index & 1:
            return JobState.RUNNABLE
        if self.pending >> index & 1:
            return JobState.PENDING
        return JobState.FAILED if (self.dependency_failed | self.stopped) >> index & 1 else None

    def summary(self) -> Mapping[JobState, int]:
        """Return how many children are in each state."""
        return {
            JobState.SUBMITTED: 0,
            JobState.PENDING: self.pending.bit_count(),
            JobState.RUNNABLE: self.runnable.bit_count() + self.rows_runnable,
            JobState.STARTING: self.rows_starting,
            JobState.RUNNING: self.rows_running,
            JobState.SUCCEEDED: self.succeeded.bit_count(),
            JobState.FAILED: self.all_failed.bit_count(),
        }

    # Changes

    def copy(self) -> "Children":
        """Return what changes apart from this one."""
        return Children(*_values_of(self))

    def move(self, indices: Indices, event: JobEvent, target: JobState) -> None:
        """Bring children without rows, which have not ended, into the state that an event leads to."""
        self.pending &= ~indices
        self.runnable &= ~indices
        if target is JobState.RUNNABLE:
            self.runnable |= indices
        elif event is JobEvent.DEPENDENCY_FAILED:
            self.dependency_failed |= indices
        else:
            assert event is JobEvent.CANCELLED
            self.stopped |= indices

    def gets_row(self, index: int, state: JobState) -> None:
        """Take in that a child has a row from now on, and still is in the state in which it had none."""
        self.pending &= ~only(index)
        self.runnable &= ~only(index)
        self._count(state, 1)

    def row_moved(self, index: int, came_from: JobState, state: JobState) -> None:
        """Take in that a child with a row has changed its state."""
        self._count(came_from, -1)
        self._count(state, 1)
        if state is JobState.SUCCEEDED:
            self.succeeded |= only(index)
        elif state is JobState.FAILED:
            self.failed |= only(index)

    def _count(self, state: JobState, by: int) -> None:
        if state is JobState.RUNNABLE:
            self.rows_runnable += by
        elif state is JobState.STARTING:
            self.rows_starting += by
        elif state is JobState.RUNNING:
            self.rows_running += by
        # PENDING ones get a row only to fail; those that have ended are in a set.

    def due(self, others: Iterable["Children"]) -> tuple[Indices, Indices]:
        """Return those PENDING children of which all dependencies have succeeded, and those of which one has failed.

        The dependencies are on siblings and on children of the other arrays.
        """
        released, failed = self.pending, 0
        for other in others:
            released &= other.succeeded
            failed |= other.all_failed
        if self.sequential:
            released &= self.succeeded << 1 | 1
            if all_failed := self.all_failed | self.pending & failed:
                failed |= ~all_of(lowest(all_failed) + 1)
        failed &= self.pending
        return released & ~failed, failed


_values_of = attrgetter(*(field.name for field in fields(Children)))
