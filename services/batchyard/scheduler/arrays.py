"""Children of arrays that wait: a set of indices, of which the lowest stands in the line for all of them."""

from itertools import islice

from batchyard.domain.arrays import Indices, each, lowest, only
from batchyard.domain.jobs import JobId


class WaitingArray:
    """The children of one array that wait and have never been offered.

    One of them is in front: it is a job like any other in the line. The others are behind it, and cost a bit each.
    """

    __slots__ = ("behind", "front", "job_id", "order", "version")

    def __init__(self, job_id: JobId, order: int, version: int) -> None:
        self.job_id = job_id
        self.order = order
        """The array's place in its share; those of its children follow."""
        self.version = version
        """Of each child."""
        self.front: int | None = None
        """Index of the child in front."""
        self.behind: Indices = 0

    def __len__(self) -> int:
        return self.behind.bit_count() + (self.front is not None)

    @property
    def front_id(self) -> JobId | None:
        """The job id of the child in front."""
        return None if self.front is None else self.child_id(self.front)

    def child_id(self, index: int) -> JobId:
        """Return the job id of a child."""
        return JobId(f"{self.job_id}:{index}")

    def child_order(self, index: int) -> int:
        """Return the place of a child in the order of its share."""
        return self.order + 1 + index

    def first_behind(self, limit: int) -> list[tuple[int, JobId]]:
        """Return the first of those behind, with their places."""
        return [(self.child_order(index), self.child_id(index)) for index in islice(each(self.behind), limit)]

    def advance(self) -> int | None:
        """Bring the lowest of those behind to the front, which must be empty; return its index, or None."""
        assert self.front is None
        if self.behind:
            self.front = lowest(self.behind)
            self.behind &= ~only(self.front)
        return self.front
