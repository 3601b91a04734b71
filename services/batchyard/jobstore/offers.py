"""Whether a proposal is still true: everything that an offer rests on, checked in the transaction that makes it."""

from dataclasses import dataclass
from enum import IntEnum

from batchyard.domain.jobs import AgentId, Job, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.domain.values import value_class
from batchyard.storage.jobs import AgentRecord, EnvironmentCopy, EnvironmentKey, QueueCopy


@value_class(frozen=True, slots=True)
class Proposal:
    """A scheduler's wish to run a job on an agent."""

    key: JobKey
    version: int
    agent_id: AgentId
    incarnation: int
    compute_environment: str

    @property
    def environment(self) -> EnvironmentKey:
        """The compute environment's name in the store."""
        return EnvironmentKey(self.key.namespace, self.compute_environment)


class Cause(IntEnum):
    """What a refusal is about; the numbers are those of OfferRefusal in dispatch_service.proto."""

    JOB = 1
    AGENT = 2
    ENVIRONMENT = 3


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a proposal is not true any more."""

    cause: Cause
    text: str


def refused_for_job(job: Job | None, proposal: Proposal) -> Refusal | None:
    """Check the job: it waits, in the state that the scheduler has seen, and for nothing but a place."""
    if job is None:
        return Refusal(Cause.JOB, "the job does not exist")
    if job.state is not JobState.RUNNABLE or job.run is not None or job.version != proposal.version:
        return Refusal(Cause.JOB, "the job has changed")
    if job.dependencies_left:
        return Refusal(Cause.JOB, f"the job waits for {job.dependencies_left} others")
    return None


def refused_for_agent(agent: AgentRecord | None, proposal: Proposal) -> Refusal | None:
    """Check the agent: it lives, in the incarnation that the scheduler has seen, and takes jobs."""
    if agent is None or not agent.live or agent.incarnation != proposal.incarnation:
        return Refusal(Cause.AGENT, "the agent is not live with this incarnation")
    if agent.draining:
        return Refusal(Cause.AGENT, "the agent is drained")
    return None


def refused_for_environment(
    job: Job, queue: QueueCopy | None, environment: EnvironmentCopy | None, reserved_milli: int, proposal: Proposal
) -> Refusal | None:
    """Check that the job's queue leads to the environment, and that there is room in it.

    `reserved_milli` is what all runs reserve that are not over, those offered and not claimed among them. A closed
    queue goes on placing what it holds.
    """
    name = proposal.compute_environment
    text = ""
    if queue is None or queue.gone:
        text = f"job queue {job.job_queue} does not exist"
    elif name not in queue.environments:
        text = f"job queue {job.job_queue} does not lead to compute environment {name}"
    elif environment is None:
        text = f"compute environment {name} is not known to the job store yet"
    elif not environment.usable:
        text = f"compute environment {name} is not ENABLED and VALID"
    elif environment.max_vcpus_milli is not None and reserved_milli + job.vcpus_milli > environment.max_vcpus_milli:
        text = f"compute environment {name} is at its maxvCpus"
    return Refusal(Cause.ENVIRONMENT, text) if text else None
