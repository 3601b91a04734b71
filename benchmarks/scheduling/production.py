"""The production core as the simulator sees it."""

from collections.abc import Sequence
from typing import Final

from batchyard.domain.jobs import Fence, JobId, JobKey
from batchyard.scheduler.model import (
    Agent,
    ComputeEnvironment,
    JobQueue,
    QueuedJob,
    ResourceKey,
    Resources,
    SchedulingPolicy,
)
from batchyard.scheduler.planner import Planner
from benchmarks.scheduling.simulator import Start
from benchmarks.scheduling.workload import Task, Workload

NAMESPACE: Final = "123456789012"
ENVIRONMENT: Final = ResourceKey(NAMESPACE, "environment")
QUEUE: Final = ResourceKey(NAMESPACE, "queue")
POLICY: Final = ResourceKey(NAMESPACE, "policy")
STARVATION_BOUND_S: Final = 300.0


def a_planner(hosts: Sequence[Resources], weights: dict[str, float], *, bound_s: float = STARVATION_BOUND_S) -> Planner:
    """Return a planner with one queue, over agents of these sizes."""
    planner = Planner(starvation_bound_s=bound_s)
    planner.put_environment(ComputeEnvironment(ENVIRONMENT, enabled=True, valid=True, max_vcpus_milli=None))
    if weights:
        planner.put_policy(SchedulingPolicy(POLICY, weights=tuple(weights.items())))
    planner.put_queue(JobQueue(QUEUE, 1, (ENVIRONMENT.name,), POLICY if weights else None))
    for number, capacity in enumerate(hosts):
        planner.agent_joined(Agent(f"agent-{number:05d}", 1, capacity))
    return planner


class Production:
    """The scheduler's core, with every proposal accepted."""

    name = "Batchyard"

    def __init__(self, workload: Workload, *, bound_s: float = STARVATION_BOUND_S) -> None:
        self.planner: Final = a_planner(workload.hosts, dict(workload.weights), bound_s=bound_s)
        self._tasks: dict[str, Task] = {}

    def submit(self, task: Task) -> None:
        """Take a job in."""
        job_id = JobId(str(task.number))
        self._tasks[job_id] = task
        self.planner.queue_job(
            QueuedJob(JobKey(NAMESPACE, job_id), QUEUE.name, task.number, task.need, 1, task.share, 0, task.limit_s)
        )

    def end(self, task: Task) -> None:
        """Note that a job that was started has ended."""
        self.planner.run_ended(Fence(1, task.number), int(task.runs_s * 1000))

    def decide(self, now: float) -> tuple[Sequence[Start], float | None]:
        """Return what is to start now, and when to be asked again."""
        plan = self.planner.plan(now)
        starts = []
        for offer in plan.offers:
            task = self._tasks.pop(offer.job.job_id)
            self.planner.offer_accepted(offer.job, Fence(1, task.number))
            starts.append(Start(task, int(offer.agent_id.rpartition("-")[2])))
        return starts, plan.next_deadline
