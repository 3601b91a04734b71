"""`batchyard jobs` and `describe`: which jobs there are, and all about one."""

from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

import anyio
import click
import grpc.aio

from batchyard.api.jobs.v1.jobs_pb2 import JobDetail, JobSummary
from batchyard.api.jobs.v1.jobs_service_pb2 import KeyValuesPair, ListJobsRequest
from batchyard.api.operations.v1.agents_service_pb2 import WatchAgentsRequest, WatchAgentsResponse
from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsRequest, WatchJobsResponse
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.job_client import Patience
from batchyard.cli.output import age, console_of, duration, members_of, moment, print_facts, print_json, print_table
from batchyard.cli.resources import all_queues
from batchyard.cli.session import STATUS_NUMBERS, Server, Session, job_argument, server_options, status_of, unique

PAGE: Final = 100
WATCH_PAUSE_S: Final = 1.0
MEANWHILE_S: Final = 5.0

_COLUMNS: Final = ("JOB", "NAME", "QUEUE", "STATUS", "AGE", "RAN", "REASON")


async def listed(session: Session, request: ListJobsRequest, statuses: Collection[str], limit: int) -> list[JobSummary]:
    """Return the first jobs of a listing that are in one of the statuses, or in any, page by page."""
    found: list[JobSummary] = []
    request.max_results = min(PAGE, limit)
    async for page in session.pages(session.jobs.ListJobs, request):
        found += [job for job in page.job_summary_list if not statuses or status_of(job) in statuses]
        if len(found) >= limit:
            break
    return found[:limit]


async def whenever_changed(
    session: Session,
    act: Callable[[Session], Awaitable[None]],
    *,
    agents: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    """Do something now, and whenever a job of the account has changed, though not more often than people can look.

    With `agents` also when one of them has changed; `meanwhile` is done now and then while nothing changes.
    """
    changed = anyio.Event()
    request = WatchJobsRequest()

    def jobs() -> AsyncIterable[WatchJobsResponse]:
        return session.operations.WatchJobs(request, metadata=session.metadata)

    def all_agents() -> AsyncIterable[WatchAgentsResponse]:
        return session.agents.WatchAgents(WatchAgentsRequest(), metadata=session.metadata)

    async def follow(watch: Callable[[], AsyncIterable[WatchJobsResponse | WatchAgentsResponse]]) -> None:
        patience = Patience()
        while True:
            try:
                async for response in watch():
                    patience.renew()
                    if isinstance(response, WatchJobsResponse):
                        request.after_revision = response.revision
                    changed.set()
            except grpc.aio.AioRpcError as error:
                await patience.wait_or_raise(error)

    async with anyio.create_task_group() as group:
        group.start_soon(follow, jobs)
        if agents:
            group.start_soon(follow, all_agents)
        # Watches tell of their beginning too: what changes from then on is not missed.
        while True:
            while not changed.is_set():
                with anyio.move_on_after(None if meanwhile is None else MEANWHILE_S):
                    await changed.wait()
                if meanwhile is not None and not changed.is_set():
                    meanwhile()
            changed = anyio.Event()
            await act(session)
            await anyio.sleep(WATCH_PAUSE_S)


def _requests(queue: str, statuses: Sequence[str], name: str | None, array: str | None) -> list[ListJobsRequest]:
    """Return the listings that together have what is wanted of a queue, or of an array."""
    if array is not None:
        return [
            ListJobsRequest(array_job_id=array, job_status=STATUS_NUMBERS[status])
            for status in statuses or STATUS_NUMBERS
        ]
    if name is not None or not statuses:
        # The one listing that goes over all statuses at once.
        return [ListJobsRequest(job_queue=queue, filters=[KeyValuesPair(name="JOB_NAME", values=[name or "*"])])]
    return [ListJobsRequest(job_queue=queue, job_status=STATUS_NUMBERS[status]) for status in statuses]


async def _found(
    session: Session, queues: Sequence[str], statuses: Sequence[str], name: str | None, array: str | None, limit: int
) -> list[tuple[str, JobSummary]]:
    """Return the newest jobs of queues, or the children of an array by index, each with its queue."""
    places = queues or ("",)
    if array is None and not queues:
        places = [each.job_queue_name for each in await all_queues(session)]
    listings = []
    for queue in places:
        for request in _requests(queue, statuses, name, array):
            # With a name the server looks at all statuses: what is not wanted is left out here.
            jobs = [(queue, job) for job in await listed(session, request, statuses, limit)]
            listings.append(sorted(jobs, key=_order(array)))
    return list(islice(merge(*listings, key=_order(array)), limit))


def _order(array: str | None) -> Callable[[tuple[str, JobSummary]], tuple[int, int]]:
    if array is not None:
        return lambda entry: (entry[1].array_properties.index, 0)
    return lambda entry: (-entry[1].created_at, 0)


def _row(queue: str, job: JobSummary) -> tuple[str, ...]:
    name = f"{job.job_name} [{job.array_properties.size}]" if job.array_properties.size else job.job_name
    return (
        *(job.job_id, name, queue, status_of(job), age(job.created_at), _ran(job)),
        job.container.reason or job.status_reason,
    )


def _ran(job: Any) -> str:
    if not job.started_at:
        return ""
    return duration(job.stopped_at - job.started_at) if job.stopped_at else age(job.started_at)


@click.command(cls=BriefCommand)
@options.option("--queue", multiple=True, metavar="NAME", help="Jobs of this queue; repeatable. Default: of all.")
@options.option(
    "--status",
    multiple=True,
    type=click.Choice(list(STATUS_NUMBERS), case_sensitive=False),
    metavar="STATUS",
    help=f"Jobs in this status; repeatable. One of {', '.join(STATUS_NUMBERS)}. Default: in all.",
)
@options.option("--name", metavar="NAME", default=None, help="Jobs of this name, in any case; a final * is a wildcard.")
@options.option("--array", metavar="JOB", default=None, help="The children of this array job, in place of queues.")
@options.option("--limit", type=click.IntRange(min=1), default=50, help="How many, the newest first.")
@options.option("--watch", is_flag=True, help="On a terminal: show them anew whenever one changes, until interrupted.")
@server_options()
def jobs(
    *,
    server: Server,
    queue: Sequence[str],
    status: Sequence[str],
    name: str | None,
    array: str | None,
    limit: int,
    watch: bool,
) -> None:
    """List jobs in whatever status, the newest first."""
    if watch and (server.as_json or not console_of().is_terminal):
        raise click.UsageError("--watch is for a terminal; programs follow `batchyard events`")
    if array is not None and (queue or name is not None):
        raise click.UsageError("--array goes with neither --queue nor --name")

    async def show(session: Session) -> None:
        found = await _found(session, queue, status, name, array, limit)
        if watch:
            console_of().clear()
        if server.as_json:
            print_json({"jobSummaryList": [members_of(job) for _, job in found]})
        else:
            print_table(_COLUMNS, [_row(place, job) for place, job in found], whole=["JOB", "STATUS"], spare=["REASON"])

    async def act(session: Session) -> None:
        await (whenever_changed(session, show) if watch else show(session))

    server.run(act)


@click.command(cls=BriefCommand)
@server_options()
@job_argument(several=True)
def describe(*, server: Server, jobs: Sequence[str]) -> None:
    """Tell all about each JOB, by id or ARN: what it is, why it waits, how its attempts went."""
    names = unique(jobs)

    async def act(session: Session) -> None:
        found = await session.describe(names)
        if server.as_json:
            print_json({"jobs": [members_of(job) for job in found]})
            return
        for number, job in enumerate(found):
            if number:
                print()
            print_facts(_facts(job))
            if job.attempts:
                print_table(("ATTEMPT#", "STARTED", "RAN", "EXIT#", "REASON"), _attempts(job), whole=["REASON"])

    server.run(act)


def _facts(job: JobDetail) -> list[tuple[str, str]]:
    container, array = job.container, job.array_properties
    needs = [f"{requirement.type} {requirement.value}" for requirement in container.resource_requirements]
    needs += [f"VCPU {container.vcpus}"] * container.HasField("vcpus")
    needs += [f"MEMORY {container.memory} MiB"] * container.HasField("memory")
    asked = [word for word, is_so in (("cancelled", job.is_cancelled), ("terminated", job.is_terminated)) if is_so]
    counts = ", ".join(f"{count} {status}" for status, count in sorted(array.status_summary.items()) if count)
    return [
        ("job", job.job_id),
        ("name", job.job_name),
        ("queue", job.job_queue.rpartition("/")[2]),
        ("definition", job.job_definition.rpartition("/")[2]),
        ("status", status_of(job)),
        ("reason", job.status_reason),
        ("container", container.reason),
        ("asked", ", ".join(asked)),
        ("exit code", str(container.exit_code) if container.HasField("exit_code") else ""),
        ("created", moment(job.created_at)),
        ("started", moment(job.started_at)),
        ("stopped", moment(job.stopped_at)),
        ("ran", _ran(job)),
        ("children", f"{array.size}: {counts}" if array.size else ""),
        ("index", str(array.index) if array.HasField("index") else ""),
        ("depends on", ", ".join(f"{each.job_id} {each.type}".strip() for each in job.depends_on)),
        ("command", " ".join(container.command)),
        ("image", container.image),
        ("needs", ", ".join(needs)),
        ("environment", " ".join(f"{each.name}={each.value}" for each in container.environment)),
        ("share", job.share_identifier),
        ("timeout", f"{job.timeout.attempt_duration_seconds} s" if job.HasField("timeout") else ""),
        ("attempts", "" if array.size else f"{len(job.attempts)} of {job.retry_strategy.attempts}"),
        ("log", container.log_stream_name),
        ("tags", " ".join(f"{name}={value}" for name, value in sorted(job.tags.items()))),
    ]


def _attempts(job: JobDetail) -> list[tuple[str, ...]]:
    return [
        (
            *(str(number), moment(attempt.started_at), _ran(attempt)),
            str(attempt.container.exit_code) if attempt.container.HasField("exit_code") else "",
            attempt.container.reason or attempt.status_reason,
        )
        for number, attempt in enumerate(job.attempts, start=1)
    ]
