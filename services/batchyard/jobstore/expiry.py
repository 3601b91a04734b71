"""Which of what is over goes next: a bounded number of rows at a time. Pure.

A finished job goes with its spec, its attempts and the record of who depended on it, once its time is over and no
unfinished job depends on it any more. So does an array, with its children. Events go before the jobs that they are
about.
"""

from collections.abc import Collection, Sequence
from typing import Final

from batchyard.storage.jobs import Dependency, FinishedJob, JobWriter, Removal

JOBS_A_STEP: Final = 200
DEPENDENCIES_A_STEP: Final = 1000
EVENTS_A_STEP: Final = 50
"""Commits; the record of one may take hundreds of kilobytes."""
ANSWERS_A_STEP: Final = 1000
AGENTS_A_STEP: Final = 200


class Sweep:
    """One way through all that is over, a step at a time."""

    def __init__(self, *, jobs_before_ms: int, agents_before_ms: int, answers_before_ms: int) -> None:
        """Say before which times what goes, events with the jobs; milliseconds since the epoch."""
        self._jobs_before_ms = jobs_before_ms
        self._answers_before_ms = answers_before_ms
        self._agents_before_ms = agents_before_ms
        self._position: FinishedJob | None = None
        self._records_are_done = False
        self.is_done = False
        """Whether nothing is left that can go."""

    def next_step(self, storage: JobWriter) -> Removal:
        """Return what goes in the next step; perhaps nothing, as jobs that others wait for are passed over."""
        if not self._records_are_done:
            if events_to := storage.events_before(self._jobs_before_ms, EVENTS_A_STEP):
                return Removal(events_to=events_to)
            if answers_to := storage.answers_before(self._answers_before_ms, ANSWERS_A_STEP):
                return Removal(answers_to=answers_to)
            self._records_are_done = True
            return Removal(agents=storage.gone_agents(self._agents_before_ms, AGENTS_A_STEP))
        finished = storage.finished_jobs(self._jobs_before_ms, self._position, JOBS_A_STEP)
        edges = storage.dependencies(finished, DEPENDENCIES_A_STEP)
        removal, passed = removable(finished, edges, is_cut=len(edges) == DEPENDENCIES_A_STEP)
        going = {sequence: place for place, sequence in enumerate(removal.jobs)}
        for before, job in enumerate(finished[:passed]):
            # The children of an array go before it, in steps of their own.
            if job.array_size and job.sequence in going and (rows := storage.children_of(job.sequence, JOBS_A_STEP)):
                removal.jobs = removal.jobs[: going[job.sequence]] + rows
                passed = before
                break
        if passed:
            self._position = finished[passed - 1]
        self.is_done = passed == len(finished) < JOBS_A_STEP
        return removal


def removable(finished: Sequence[FinishedJob], edges: Collection[Dependency], *, is_cut: bool) -> tuple[Removal, int]:
    """Return what goes of these jobs and who depends on them, and how many of the jobs have been dealt with.

    With `is_cut` the edges are not all that there are: those of the last job named may go on, of later ones are none.
    """
    removal = Removal()
    by_job: dict[int, list[Dependency]] = {}
    for edge in edges:
        by_job.setdefault(edge.finished, []).append(edge)
    cut_at = list(by_job)[-1] if is_cut else None
    for passed, job in enumerate(finished):
        own = by_job.get(job.sequence, [])
        if any(edge.waiting for edge in own):
            if job.sequence == cut_at:
                return removal, passed + 1
            continue
        removal.dependencies += [(edge.depends_on, edge.dependent) for edge in own]
        if job.sequence == cut_at:
            return removal, passed
        removal.jobs.append(job.sequence)
    return removal, len(finished)
