"""What the writer remembers of its newest commits, so that the next groups need not read it.

Nobody else writes. A writer whose commit has failed is made anew, and with it this.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from batchyard.domain.jobs import AgentId, Job, JobKey, array_and_index
from batchyard.domain.lifecycle import TERMINAL
from batchyard.storage.jobs import (
    AgentRecord,
    Changes,
    EnvironmentCopy,
    EnvironmentKey,
    JobWriter,
    QueueCopy,
    QueueKey,
)

JOBS_MAX: Final = 4096
SPECS_MAX: Final = 32
SPEC_BYTES_MAX: Final = 64 * 1024


class Memory:
    """Jobs that have not ended, specifications of arrays, and what offers rest on. What it gives out are copies."""

    def __init__(self) -> None:
        self._jobs: dict[JobKey, Job] = {}
        """The one that was written last comes last."""
        self._specs: dict[int, bytes] = {}
        self._queues: dict[QueueKey, QueueCopy] = {}
        self._environments: dict[EnvironmentKey, EnvironmentCopy] = {}
        self._agents: dict[AgentId, AgentRecord] = {}

    def jobs(self, storage: JobWriter, keys: Iterable[JobKey]) -> Iterator[Job]:
        """Yield those of the jobs that exist; of children only those with rows."""
        unknown = []
        for key in keys:
            known = self._jobs.get(key)
            if known is not None:
                yield known.copy()
            elif not self._has_no_row(key):
                unknown.append(key)
        if unknown:
            yield from storage.jobs(unknown)

    def specs(self, storage: JobWriter, jobs: Collection[Job]) -> dict[int, bytes]:
        """Return serialized JobSpecs by the sequence number under which they are."""
        wanted = {job.spec_sequence: job.parent is not None for job in jobs}
        found = {sequence: spec for sequence in wanted if (spec := self._specs.get(sequence)) is not None}
        unknown = wanted.keys() - found.keys()
        if unknown:
            read = storage.specs(unknown)
            found.update(read)
            for sequence, spec in read.items():
                if wanted[sequence] and len(spec) <= SPEC_BYTES_MAX:
                    self._specs[sequence] = spec
            _forget_oldest(self._specs, SPECS_MAX)
        return found

    def queue(self, storage: JobWriter, key: QueueKey) -> QueueCopy | None:
        """Return the store's copy of a queue."""
        known = self._queues.get(key)
        if known is None and (known := storage.queue(key)) is not None:
            self._queues[key] = known
        return known

    def environment(self, storage: JobWriter, key: EnvironmentKey) -> EnvironmentCopy | None:
        """Return the store's copy of a compute environment."""
        known = self._environments.get(key)
        if known is None and (known := storage.environment(key)) is not None:
            self._environments[key] = known
        return known

    def agent(self, storage: JobWriter, agent_id: AgentId) -> AgentRecord | None:
        """Return what is known of an agent."""
        known = self._agents.get(agent_id)
        if known is None and (known := storage.agent(agent_id)) is not None:
            self._agents[agent_id] = known
        return known

    def committed(self, changes: Changes) -> None:
        """Take over what was written."""
        if changes.removal:
            self._jobs.clear()
            self._specs.clear()
            self._agents.clear()
        for new in changes.new_jobs:
            self._put(new.job)
        for job in changes.jobs:
            self._put(job)
        for array in changes.arrays:
            self._put(array)
        _forget_oldest(self._jobs, JOBS_MAX)
        self._queues.update((queue.key, queue) for queue in changes.queues)
        self._environments.update((environment.key, environment) for environment in changes.environments)
        self._agents.update((agent.agent_id, agent) for agent in changes.agents)

    def _put(self, job: Job) -> None:
        self._jobs.pop(job.key, None)
        if job.state not in TERMINAL:
            self._jobs[job.key] = job

    def _has_no_row(self, key: JobKey) -> bool:
        """Return whether the job is known to be a child without a row."""
        found = array_and_index(key)
        array = self._jobs.get(found[0]) if found is not None else None
        if found is None or array is None or array.children is None:
            return False
        return array.children.state_without_row(found[1]) is not None


def _forget_oldest(entries: dict[JobKey, Job] | dict[int, bytes], count_max: int) -> None:
    while len(entries) > count_max:
        del entries[next(iter(entries))]  # type: ignore[arg-type]
