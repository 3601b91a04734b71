"""`batchyard queues`, `environments` and `agents`: where jobs wait, and where they run."""

import click

from batchyard.api.operations.v1.agents_service_pb2 import AgentSummary, ListAgentsRequest
from batchyard.api.operations.v1.overview_service_pb2 import CountJobsRequest
from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail, ComputeEnvironmentType
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.registry_service_pb2 import DescribeComputeEnvironmentsRequest, DescribeJobQueuesRequest
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.cli.brief import BriefCommand
from batchyard.cli.output import members_of, print_json, print_table
from batchyard.cli.session import Server, Session, server_options
from batchyard.gateway.transcoder import words_of

_STATES = words_of(ResourceState.DESCRIPTOR)
_RESOURCE_STATUSES = words_of(ResourceStatus.DESCRIPTOR)
_TYPES = words_of(ComputeEnvironmentType.DESCRIPTOR)
_COUNTED = ("PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")


async def all_queues(session: Session) -> list[JobQueueDetail]:
    """Return all job queues of the account."""
    pages = session.pages(session.registry.DescribeJobQueues, DescribeJobQueuesRequest())
    return [queue async for page in pages for queue in page.job_queues]


@click.command(cls=BriefCommand)
@server_options()
def queues(*, server: Server) -> None:
    """List job queues, with how many jobs of each are in which status; an array is one job."""

    async def act(session: Session) -> None:
        found = await all_queues(session)
        counted = await session.call_patiently(session.overview.CountJobs, CountJobsRequest())
        counts = {queue.job_queue_name: dict(queue.by_status) for queue in counted.queues}
        if server.as_json:
            print_json(
                {
                    "jobQueues": [
                        members_of(queue) | {"jobsByStatus": counts.get(queue.job_queue_name, {})} for queue in found
                    ]
                }
            )
        else:
            columns = ("QUEUE", "PRIORITY#", "STATE", "STATUS", *(f"{status}#" for status in _COUNTED), "ENVIRONMENTS")
            rows = [_queue_row(queue, counts.get(queue.job_queue_name, {})) for queue in found]
            print_table(columns, rows, whole=["QUEUE", "STATE"], spare=["ENVIRONMENTS", "STATUS", "PRIORITY#"])

    server.run(act)


def _queue_row(queue: JobQueueDetail, counts: dict[str, int]) -> tuple[str, ...]:
    order = sorted(queue.compute_environment_order, key=lambda entry: entry.order)
    return (
        queue.job_queue_name,
        str(queue.priority),
        _STATES.get(queue.state, ""),
        _RESOURCE_STATUSES.get(queue.status, ""),
        *(str(counts.get(status, 0)) for status in _COUNTED),
        ", ".join(entry.compute_environment.rpartition("/")[2] for entry in order),
    )


@click.command(cls=BriefCommand)
@server_options()
def environments(*, server: Server) -> None:
    """List compute environments: which kind they are, whether they take jobs, and how many vCPUs they allow."""

    async def act(session: Session) -> None:
        pages = session.pages(session.registry.DescribeComputeEnvironments, DescribeComputeEnvironmentsRequest())
        found = [environment async for page in pages for environment in page.compute_environments]
        if server.as_json:
            print_json({"computeEnvironments": [members_of(environment) for environment in found]})
        else:
            columns = ("ENVIRONMENT", "TYPE", "STATE", "STATUS", "MAX VCPUS#", "REASON")
            rows = [_environment_row(environment) for environment in found]
            print_table(columns, rows, whole=["ENVIRONMENT", "STATE", "STATUS"], spare=["TYPE", "MAX VCPUS#"])

    server.run(act)


def _environment_row(environment: ComputeEnvironmentDetail) -> tuple[str, ...]:
    managed = environment.HasField("compute_resources")
    return (
        environment.compute_environment_name,
        _TYPES.get(environment.type, ""),
        _STATES.get(environment.state, ""),
        _RESOURCE_STATUSES.get(environment.status, ""),
        str(environment.compute_resources.maxv_cpus) if managed else "",
        environment.status_reason,
    )


@click.command(cls=BriefCommand)
@server_options()
def agents(*, server: Server) -> None:
    """List agents, the hosts that run jobs: what they have, and how much of it is taken."""

    async def act(session: Session) -> None:
        answer = await session.call_patiently(session.agents.ListAgents, ListAgentsRequest())
        if server.as_json:
            print_json(members_of(answer))
        else:
            columns = ("AGENT", "HOST", "STATUS", "RUNTIME", "RUNS#", "VCPUS#", "MEMORY MIB#", "ENVIRONMENTS")
            rows = [_agent_row(agent) for agent in answer.agents]
            print_table(columns, rows, whole=["AGENT", "STATUS"], spare=["ENVIRONMENTS", "RUNTIME"])

    server.run(act)


def _agent_row(agent: AgentSummary) -> tuple[str, ...]:
    return (
        agent.agent_id,
        agent.hostname,
        agent.status if agent.connected else "LOST",
        agent.runtime,
        str(agent.runs),
        f"{agent.vcpus_milli_used / 1000:g} of {agent.vcpus_milli / 1000:g}",
        f"{agent.memory_mib_used} of {agent.memory_mib}",
        ", ".join(agent.compute_environments) or "all",
    )
