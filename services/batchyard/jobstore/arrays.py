"""Arrays within a group: how their children come along, those with rows and those without.

A child goes through the same table as any job. What happens to it alone happens in a row of its own, which it gets at
that moment; what happens to many at once (all are released, all are cancelled) happens to the sets that their array
keeps, in one step. What an array's end means to other jobs, and the end of a child, is settled by the group.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from batchyard.domain.arrays import Children, Indices, all_of, to_bytes
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.jobs import Job, JobChange, JobKey, array_and_index, child_without_row
from batchyard.domain.lifecycle import (
    REASON_ARRAY_CHILD_FAILED,
    REASON_DEPENDENCY_FAILED,
    TERMINAL,
    Effect,
    JobEvent,
    JobState,
    move,
)
from batchyard.jobstore.effects import Effects
from batchyard.storage.jobs import JobWriter


class MoveJob(Protocol):
    """Moves a job, and does what the table says must be done with it."""

    def __call__(self, job: Job, event: JobEvent, *, status_reason: str | None = None) -> None:
        """Move the job."""


class Arrays:
    """The arrays that a group has to do with."""

    def __init__(
        self,
        storage: JobWriter,
        effects: Effects,
        events: list[JobChange],
        now_ms: int,
        *,
        find: Callable[[JobKey], Job | None],
        adopt: Callable[[Job], Job],
        touch: Callable[[Job], None],
        move_job: MoveJob,
    ) -> None:
        """Work for a group: `find` finds its picture of a job, `adopt` makes one that was read part of that picture."""
        self._storage = storage
        self._effects = effects
        self._events = events
        self._now = now_ms
        self._find = find
        self._adopt = adopt
        self._touch = touch
        self._move_job = move_job
        self.changed: dict[JobKey, Job] = {}
        """Arrays with children that have changed."""
        self._progressed: dict[JobKey, Job] = {}
        """Arrays that are to be looked at: children have ended, or wait no longer for what all of them waited for."""
        self._failed: list[tuple[Job, Indices]] = []
        self._paired_with: dict[int, Sequence[Job]] = {}
        self._array_of: dict[int, Job] = {}
        self._new_pairings: dict[int, list[Job]] = {}

    # Children

    def child(self, key: JobKey) -> Job | None:
        """Return a child without a row; None for anything else."""
        if (found := array_and_index(key)) is None or (array := self._find(found[0])) is None:
            return None
        return child_without_row(array, found[1])

    def array_of(self, child: Job) -> Job:
        """Return the array of a child."""
        assert child.parent is not None
        known = self._array_of.get(child.parent)
        if known is not None:
            return known
        found = array_and_index(child.key)
        array = self._find(found[0]) if found is not None else None
        assert array is not None
        assert array.sequence == child.parent
        self._array_of[child.parent] = array
        return array

    def gets_row(self, child: Job) -> None:
        """Take in that a child, still in its old state, has its own row from now on."""
        children = self._change(self.array_of(child))
        children.gets_row(child.index, child.state)

    def child_moved(self, child: Job, came_from: JobState) -> None:
        """Take in that a child has moved, in its row."""
        if child.state is came_from:
            return
        array = self.array_of(child)
        children = self._change(array)
        children.row_moved(child.index, came_from, child.state)
        children.changed_at = self._now
        if child.state in TERMINAL:
            self._progressed[array.key] = array
            if child.cancelled and child.stop_reason == array.stop_reason:
                self._mark_cancelled(array)

    def unfinished_rows(self, array: Job, new: Iterable[Job]) -> list[Job]:
        """Return the children with rows that have not ended, those in `new` included."""
        stored = (self._adopt(child) for child in self._storage.unfinished_children(array.sequence))
        rows = {child.key: child for child in (*stored, *new) if child.parent == array.sequence}
        return [child for child in rows.values() if child.state not in TERMINAL]

    # Arrays

    def begin(self, array: Job, size: int, *, sequential: bool, paired_with: Sequence[Job]) -> None:
        """Give a new job its children."""
        array.children = Children(
            size,
            sequential,
            paired=bool(paired_with),
            created_at=array.created_at,
            changed_at=array.created_at,
            pending=all_of(size),
        )
        self.changed[array.key] = array
        if paired_with:
            self._paired_with[array.sequence] = paired_with
            for other in paired_with:
                self._new_pairings.setdefault(other.sequence, []).append(array)

    def pairing(self, key: JobKey, size: int) -> Job:
        """Return an array to wait for child by child; raise InvalidRequestError if that cannot be."""
        other = self._find(key)
        if other is None:
            raise InvalidRequestError(f"Job {key.job_id} does not exist", field="dependsOn")
        if other.children is None or other.children.size != size:
            raise InvalidRequestError(
                f"N_TO_N dependency requires array jobs of the same size: job {key.job_id} has "
                f"{'no children' if other.children is None else other.children.size}, this one {size}",
                field="dependsOn",
            )
        return other

    def array_moved(self, array: Job, event: JobEvent) -> None:
        """Have an array's move reach its children."""
        children = self._change(array)
        if event is JobEvent.DEPENDENCY_FAILED:
            self._move_all(array, children.pending, event, REASON_DEPENDENCY_FAILED)
        elif event is JobEvent.CHILDREN_RELEASED:
            children.created_at = self._now
            self._progressed[array.key] = array

    def stop(self, array: Job) -> None:
        """Cancel all children without rows, for the reason that the array has."""
        assert array.children is not None
        if array.children.waiting:
            self._mark_cancelled(array)
            self._move_all(array, array.children.waiting, JobEvent.CANCELLED, array.stop_reason)

    def _mark_cancelled(self, array: Job) -> None:
        if array.stop_reason is not None and not array.terminated:
            array.cancelled = True
            self._touch(array)

    # What follows

    @property
    def have_news(self) -> bool:
        """Whether anything is left to be settled."""
        return bool(self._progressed or self._failed)

    def take_failed(self) -> list[tuple[Job, Indices]]:
        """Return the children that have failed without rows since this was last asked, by array."""
        failed, self._failed = self._failed, []
        return failed

    def advance(self) -> None:
        """Release and fail the children for which it is decided, and end the arrays of which all children have."""
        progressed, self._progressed = self._progressed, {}
        if not progressed:
            return
        arrays = dict(progressed)
        sequences = [array.sequence for array in progressed.values()]
        paired = [self._adopt(array) for array in self._storage.paired_dependents(sequences)]
        paired += [array for sequence in sequences for array in self._new_pairings.get(sequence, ())]
        arrays.update((array.key, array) for array in paired)
        for array in arrays.values():
            if array.state not in TERMINAL:
                self._look_at(array)

    def _look_at(self, array: Job) -> None:
        children = array.children
        assert children is not None
        if children.pending:
            released, failed = children.due(self._dependencies(array))
            self._move_all(array, failed, JobEvent.DEPENDENCY_FAILED, REASON_DEPENDENCY_FAILED)
            if array.dependencies_left == 0:
                self._move_all(array, released, JobEvent.DEPENDENCIES_MET, None)
        if children.are_over:
            self._end(array, children)

    def _end(self, array: Job, children: Children) -> None:
        if children.succeeded or children.failed:
            array.stopped_at = self._now
        if children.have_succeeded:
            self._move_job(array, JobEvent.CHILDREN_SUCCEEDED)
        else:
            was_stopped = array.cancelled or array.terminated
            reason = array.stop_reason if was_stopped else REASON_ARRAY_CHILD_FAILED
            self._move_job(array, JobEvent.CHILD_FAILED, status_reason=reason)

    def _dependencies(self, array: Job) -> list[Children]:
        """Return the children that an array's children wait for, each for that with its own index."""
        if array.children is None or not array.children.paired:
            return []
        if array.sequence not in self._paired_with:
            stored = self._storage.paired_dependencies(array.sequence)
            self._paired_with[array.sequence] = [self._adopt(other) for other in stored]
        return [other.children for other in self._paired_with[array.sequence] if other.children is not None]

    def _move_all(self, array: Job, indices: Indices, event: JobEvent, reason: str | None) -> None:
        """Move children without rows, which have not ended, as the table says."""
        if not indices:
            return
        children = self._change(array)
        children.changed_at = self._now
        states = [(state, children.without_row(state) & indices) for state in (JobState.PENDING, JobState.RUNNABLE)]
        for state, members in states:
            if not members:
                continue
            step = move(state, event)
            children.move(members, event, step.target)
            if Effect.SETTLE_DEPENDENTS in step.effects:
                self._failed.append((array, members))
                self._progressed[array.key] = array
            if Effect.WITHDRAW in step.effects and state is JobState.RUNNABLE:
                # All that are RUNNABLE: nothing but the end of their array moves them without rows.
                self._effects.withdraw(array.key)
            if Effect.ENQUEUE in step.effects:
                self._effects.enqueue_children(array, members)
            self._events.append(self._change_of(array, members, event, step.target, reason))

    def _change_of(
        self, array: Job, members: Indices, event: JobEvent, state: JobState, reason: str | None
    ) -> JobChange:
        return JobChange(
            key=array.key,
            job_name=array.job_name,
            job_queue=array.job_queue,
            state=state,
            status_reason=reason,
            at=self._now,
            attempts=0,
            exit_code=None,
            reason=None,
            log_stream_name=None,
            cancelled=event is JobEvent.CANCELLED and array.cancelled,
            terminated=event is JobEvent.CANCELLED and not array.cancelled,
            children=to_bytes(members),
        )

    def _change(self, array: Job) -> Children:
        """Return the children of an array, to be changed."""
        assert array.children is not None
        self.changed[array.key] = array
        return array.children
