"""`batchyard top`: the fleet, the queues and what runs, at a glance and live."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus, JobSummary
from batchyard.api.jobs.v1.jobs_service_pb2 import ListJobsRequest
from batchyard.api.operations.v1.agents_service_pb2 import AgentSummary, ListAgentsRequest
from batchyard.api.operations.v1.overview_service_pb2 import CountJobsRequest, CountJobsResponse, MinuteCounts
from batchyard.cli.brief import BriefCommand
from batchyard.cli.jobs import listed, whenever_changed
from batchyard.cli.output import age, console_of, members_of, print_json, print_table
from batchyard.cli.resources import all_queues
from batchyard.cli.session import Server, Session, server_options

AGENTS_SHOWN: Final = 10
JOBS_SHOWN: Final = 15
MINUTE_S: Final = 60.0

_WAITING: Final = ("PENDING", "RUNNABLE")
_ACTIVE: Final = ("STARTING", "RUNNING")


@dataclass(frozen=True, slots=True)
class _Picture:
    agents: Sequence[AgentSummary]
    counts: CountJobsResponse
    running: Sequence[tuple[str, JobSummary]]
    looked_at: float
    """In seconds since the epoch."""


@click.command(cls=BriefCommand)
@server_options()
def top(*, server: Server) -> None:
    """Show how full the fleet is, what waits in each queue and what runs; on a terminal live, until interrupted."""
    live = console_of().is_terminal and not server.as_json

    pictures: list[_Picture] = []

    def show_again() -> None:
        """Show how long it all is by now: what it is has not changed."""
        for picture in pictures:
            console_of().clear()
            _print(picture)

    async def show(session: Session) -> None:
        picture = await _look(session)
        if server.as_json:
            print_json(
                {
                    "agents": [members_of(agent) for agent in picture.agents],
                    **members_of(picture.counts),
                    "running": [members_of(job) for _, job in picture.running],
                }
            )
            return
        if live:
            pictures[:] = [picture]
            show_again()
        else:
            _print(picture)

    async def act(session: Session) -> None:
        await (whenever_changed(session, show, agents=True, meanwhile=show_again) if live else show(session))

    server.run(act)


async def _look(session: Session) -> _Picture:
    agents = await session.call_patiently(session.agents.ListAgents, ListAgentsRequest())
    counts = await session.call_patiently(session.overview.CountJobs, CountJobsRequest())
    running = []
    for queue in [each.job_queue_name for each in await all_queues(session)]:
        request = ListJobsRequest(job_queue=queue, job_status=JobStatus.JOB_STATUS_RUNNING)
        running += [(queue, job) for job in await listed(session, request, (), JOBS_SHOWN)]
    running.sort(key=lambda entry: -entry[1].started_at)
    return _Picture(agents.agents, counts, running[:JOBS_SHOWN], time.time())


def ended_before(minutes: Sequence[MinuteCounts], looked_at: float, now: float) -> int:
    """Return how many jobs ended in the minute before this one.

    The last of the minutes is that in which was looked, in seconds since the epoch. Nothing has ended since.
    """
    place = len(minutes) - 2 + int(now // MINUTE_S - looked_at // MINUTE_S)
    return minutes[place].succeeded + minutes[place].failed if 0 <= place < len(minutes) else 0


def _print(picture: _Picture) -> None:
    connected = [agent for agent in picture.agents if agent.connected]
    ended = ended_before(picture.counts.minutes, picture.looked_at, time.time())
    click.echo(
        f"{len(connected)} of {len(picture.agents)} agents, "
        f"{sum(agent.vcpus_milli_used for agent in connected) / 1000:g} of "
        f"{sum(agent.vcpus_milli for agent in connected) / 1000:g} vCPUs, "
        f"{sum(agent.memory_mib_used for agent in connected)} of "
        f"{sum(agent.memory_mib for agent in connected)} MiB\n"
        f"{ended} jobs ended in the last whole minute\n"
    )
    print_table(
        ("QUEUE", "WAITING#", "ACTIVE#", "SUCCEEDED#", "FAILED#"),
        [
            (
                queue.job_queue_name,
                *(str(sum(queue.by_status.get(status, 0) for status in group)) for group in (_WAITING, _ACTIVE)),
                *(str(queue.by_status.get(status, 0)) for status in ("SUCCEEDED", "FAILED")),
            )
            for queue in picture.counts.queues
        ],
    )
    click.echo()
    fullest = sorted(connected, key=lambda agent: -agent.vcpus_milli_used)[:AGENTS_SHOWN]
    print_table(
        ("AGENT", "STATUS", "RUNS#", "VCPUS#", "MEMORY MIB#"),
        [
            (
                *(agent.hostname or agent.agent_id, agent.status, str(agent.runs)),
                f"{agent.vcpus_milli_used / 1000:g} of {agent.vcpus_milli / 1000:g}",
                f"{agent.memory_mib_used} of {agent.memory_mib}",
            )
            for agent in fullest
        ],
    )
    click.echo()
    print_table(
        ("RUNNING", "NAME", "QUEUE", "FOR"),
        [(job.job_id, job.job_name, queue, age(job.started_at)) for queue, job in picture.running],
        whole=["RUNNING"],
    )
