"""What a client has asked for of its arrays, and what must hold for their children."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from batchyard.domain.jobs import JobId, JobKey, array_and_index
from support.jobs import NAMESPACE


@dataclass(frozen=True, slots=True)
class ArrayRequest:
    """An array as it was submitted."""

    size: int
    sequential: bool
    paired_with: Sequence[JobId]


@dataclass(slots=True)
class Arrays:
    """All arrays of a run."""

    requests: dict[JobId, ArrayRequest] = field(default_factory=dict)
    """By job id; an array whose submit was never taken in is here too."""

    def children(self, job_id: JobId) -> list[JobId]:
        """Return the ids of an array's children; none of what is no array."""
        request = self.requests.get(job_id)
        return [JobId(f"{job_id}:{index}") for index in range(request.size)] if request is not None else []

    def dependencies(self, job_id: JobId) -> Iterator[JobId]:
        """Yield the children of its own array and of others that a child waits for; nothing for other jobs."""
        child = array_and_index(JobKey(NAMESPACE, job_id))
        if child is None:
            return
        (_, array_id), index = child
        request = self.requests[array_id]
        yield from (JobId(f"{other}:{index}") for other in request.paired_with)
        if request.sequential and index:
            yield JobId(f"{array_id}:{index - 1}")

    def array_of(self, job_id: JobId) -> JobId:
        """Return the array of a child, and any other job itself."""
        child = array_and_index(JobKey(NAMESPACE, job_id))
        return job_id if child is None else child[0].job_id
