"""A small model of jobs as users see them: where each may be now, going by what was asked and seen so far."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from support.aws import STATUSES, TERMINAL, Json

Kind: TypeAlias = Literal["succeeds", "fails", "holds", "waits"]
"""What a job does: end at once, well or not; run until it is terminated; or ask for more than any host has."""

RUNS: Final[Mapping[Kind, frozenset[str]]] = {
    "succeeds": frozenset({"RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED"}),
    "fails": frozenset({"RUNNABLE", "STARTING", "RUNNING", "FAILED"}),
    "holds": frozenset({"RUNNABLE", "STARTING", "RUNNING"}),
    "waits": frozenset({"RUNNABLE"}),
}
"""Where a job may be, without anybody's help, once its dependencies have succeeded."""

EXITED: Final = "Essential container in task exited"
DEPENDENCY_FAILED: Final = "Dependent Job failed"
CHILD_FAILED: Final = "Array Child Job failed"


@dataclass(slots=True, eq=False)
class Job:
    """A job, a child, or an array, which has children and ends when they have."""

    job_id: str
    queue: str
    kind: Kind
    needs: "Sequence[Job]" = ()
    children: "Sequence[Job]" = ()
    seen: str = "SUBMITTED"
    """Where it was when it was looked at last. Without retries a job only moves forward."""
    asked: list[str] = field(default_factory=list)
    """Reasons of the requests to end it that may have had an effect."""
    stopped: bool = False
    """One of them has ended it for certain."""

    def ways(self, now: "Mapping[Job, frozenset[str]]") -> frozenset[str]:
        """Return where it may be, given where those may be on which it depends."""
        if self.seen in TERMINAL:
            return frozenset({self.seen})
        if self.stopped:
            return frozenset({"FAILED"})
        found = self._array_ways(now) if self.children else self._own_ways(now)
        return frozenset(status for status in found if is_forward(self.seen, status))

    def _own_ways(self, now: "Mapping[Job, frozenset[str]]") -> set[str]:
        needs = [now[need] for need in self.needs]
        found = {"FAILED"} if self.asked or any("FAILED" in need for need in needs) else set()
        if any(need - TERMINAL for need in needs):
            found.add("PENDING")
        if all("SUCCEEDED" in need for need in needs):
            found |= RUNS[self.kind]
        return found

    def _array_ways(self, now: "Mapping[Job, frozenset[str]]") -> set[str]:
        children = [now[child] for child in self.children]
        found = set()
        if any(child - TERMINAL for child in children):
            found.add("PENDING")
        if all(child & TERMINAL for child in children) and any("FAILED" in child for child in children):
            found.add("FAILED")
        if all("SUCCEEDED" in child for child in children):
            found.add("SUCCEEDED")
        return found

    def reasons(self, status: str, now: "Mapping[Job, frozenset[str]]") -> set[str | None]:
        """Return what may be told of why it is in this terminal status."""
        if status == "SUCCEEDED":
            return {None if self.children else EXITED}
        found: set[str | None] = set(self.asked)
        if not self.stopped:
            found |= {DEPENDENCY_FAILED for need in self.needs if "FAILED" in now[need]}
            if self.children:
                found.add(CHILD_FAILED)
            elif self.kind == "fails":
                found.add(EXITED)
        return found


class Jobs:
    """All jobs of an account."""

    def __init__(self) -> None:
        self.arrays_and_singles: list[Job] = []

    def __iter__(self) -> Iterator[Job]:
        """Give all jobs, each after those on which it depends, arrays after their children."""
        for job in self.arrays_and_singles:
            yield from job.children
            yield job

    def named(self, job_id: str) -> Job | None:
        """Return the job or child with this id."""
        return next((job for job in self if job.job_id == job_id), None)

    def of(self, queue: str) -> list[Job]:
        """Return the arrays and single jobs that were submitted to a queue of this name."""
        return [job for job in self.arrays_and_singles if job.queue == queue]

    def now(self) -> dict[Job, frozenset[str]]:
        """Return where each job may be at present."""
        found: dict[Job, frozenset[str]] = {}
        for job in self:
            found[job] = job.ways(found)
        return found

    def submit(
        self, job_id: str, queue: str, kind: Kind, size: int, needs: Sequence[Job], pairs: Sequence[Job], *, chain: bool
    ) -> None:
        """Take in a job; a size of 0 is none, pairs are arrays it waits for child by child."""
        children: list[Job] = []
        for index in range(size):
            before = children[-1:] if chain else []
            own_needs = [*needs, *(array.children[index] for array in pairs), *before]
            children.append(Job(f"{job_id}:{index}", queue, kind, own_needs))
        self.arrays_and_singles.append(Job(job_id, queue, kind, needs, children))

    def end(self, job_id: str, reason: str) -> None:
        """Take in that a job was cancelled or terminated, before it is known whether that came in time."""
        job, now = self.named(job_id), self.now()
        if job is None:
            return
        for one in job.children or [job]:
            _end(one, now, reason)
        if job.children and now[job] - TERMINAL:
            job.asked.append(reason)
            # One that may have ended before keeps what was told of it then.
            job.stopped = not now[job] & TERMINAL and all(child.stopped for child in job.children)

    def look(self, described: Sequence[Json]) -> None:
        """Check what DescribeJobs tells of all jobs at once, and remember it."""
        now = self.now()
        found = {job["jobId"]: job for job in described}
        assert set(found) == {job.job_id for job in self}
        for job in self:
            detail = found[job.job_id]
            status = detail["status"]
            assert status in now[job], f"{status}, expected one of {set(now[job])}: {detail}"
            if status in TERMINAL:
                assert detail.get("statusReason") in job.reasons(status, now), detail
            if job.stopped:
                assert detail["isCancelled"] or detail["isTerminated"], detail
            if job.children:
                _check_summary(detail, [found[child.job_id]["status"] for child in job.children])
        for job in self:
            job.seen = found[job.job_id]["status"]


def is_forward(before: str, after: str) -> bool:
    """Whether a job that is never tried again can be in one status and later in the other."""
    return before == after or (before not in TERMINAL and STATUSES.index(before) <= STATUSES.index(after))


def _end(job: Job, now: Mapping[Job, frozenset[str]], reason: str) -> None:
    may_be = now[job]
    if may_be <= TERMINAL:
        return
    job.asked.append(reason)
    # A job that can be placed may have been, and then only the host can tell how it ended.
    placeable = bool(may_be & {"STARTING", "RUNNING"})
    if not placeable and not may_be & TERMINAL:
        job.stopped = True


def _check_summary(array: Json, children: Sequence[str]) -> None:
    """Arrays tell how many of their children are where."""
    properties = array["arrayProperties"]
    assert properties["size"] == len(children)
    assert properties["statusSummary"] == {status: children.count(status) for status in STATUSES}, array
