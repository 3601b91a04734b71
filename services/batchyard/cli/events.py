"""`batchyard events`: AWS's events of jobs and blocked queues, one a line."""

import logging
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
import grpc
from rich.text import Text

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.operations.v1.job_operations_service_pb2 import (
    JobStateChangeEvent,
    WatchJobEventsRequest,
    WatchJobEventsResponse,
)
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from batchyard.cli import clients, options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.folder import DataFolder
from batchyard.cli.job_client import RECONNECT_PAUSE_S
from batchyard.cli.logging import configure_logging
from batchyard.cli.output import STYLES, console_of, printable
from batchyard.domain.names import Caller
from batchyard.gateway.transcoder import compile_encoder, words_of
from batchyard.rpc.connection import open_channel
from batchyard.rpc.identity import metadata_for
from batchyard.rpc.tls import Tls

if TYPE_CHECKING:
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub

_log = logging.getLogger(__name__)

_WORDS = words_of(JobStatus.DESCRIPTOR)
_STATUSES = {word: number for number, word in _WORDS.items()}
_STATUS_WIDTH = max(map(len, _WORDS.values()))
_encode = compile_encoder(JobStateChangeEvent.DESCRIPTOR)


async def watched(
    stub: "JobOperationsServiceAsyncStub", caller: Caller, request: WatchJobEventsRequest
) -> AsyncGenerator[WatchJobEventsResponse]:
    """Yield responses, without gap or repetition also when the connection breaks, however long that lasts."""
    is_told: bool | None = None
    while True:
        try:
            async for response in stub.WatchJobEvents(request, metadata=tuple(metadata_for(caller))):
                is_told = False
                request.after_revision = response.revision
                request.ClearField("after_index")
                if response.HasField("index"):
                    request.after_index = response.index
                yield response
        except grpc.aio.AioRpcError as error:
            # A server that has never answered may not be there at all.
            if is_told is None or error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            if not is_told:
                _log.warning("the connection broke, trying again: %s", error.details())
            is_told = True
            await anyio.sleep(RECONNECT_PAUSE_S)
        else:
            return


def _print_object(event: JobStateChangeEvent) -> None:
    sys.stdout.write(_encode(event).decode() + "\n")


def _print_line(event: JobStateChangeEvent) -> None:
    """Print what people want to know of an event; on a terminal the status has its colour."""
    job, word = event.detail, _WORDS.get(event.detail.status, "")
    reason = printable(job.container.reason or job.status_reason)
    line = Text(f"{event.time}  ").append(word.ljust(_STATUS_WIDTH), STYLES.get(word, ""))
    line.append(f"  {job.job_id}  {job.job_name}  {reason}".rstrip())
    console = console_of()
    if console.is_terminal:
        console.print(line, soft_wrap=True)
    else:
        print(line.plain)


async def print_events(
    target: str,
    caller: Caller,
    request: WatchJobEventsRequest,
    tls: Tls | None,
    show: Callable[[JobStateChangeEvent], None],
) -> None:
    """Show events until there are no more, or for ever."""
    async with open_channel(target, tls) as channel:
        stub: JobOperationsServiceAsyncStub = JobOperationsServiceStub(channel)
        async with aclosing(watched(stub, caller, request)) as responses:
            async for response in responses:
                for event in response.events:
                    show(event)
                sys.stdout.flush()


@click.command(cls=BriefCommand)
@options.option("--follow", is_flag=True, help="Go on with what comes, until interrupted; begins now.")
@options.option("--replay", is_flag=True, help="With --follow: first print what is kept.")
@options.option("--queue", multiple=True, metavar="NAME", help="Events of jobs in this queue only; repeatable.")
@options.option("--job", multiple=True, metavar="ID", help="Events of this job only; repeatable.")
@options.option(
    "--status",
    multiple=True,
    type=click.Choice(list(_STATUSES), case_sensitive=False),
    metavar="STATUS",
    help=f"Events of jobs that come into this status; repeatable. One of {', '.join(_STATUSES)}.",
)
@clients.server()
@clients.tls_of_client()
@options.output("json: an object a line. table: a line for people.", default="json")
@options.account_and_region()
@options.logging()
def events(
    *,
    endpoint: str | None,
    data_dir: Path,
    tls: Tls | None,
    follow: bool,
    replay: bool,
    queue: Sequence[str],
    job: Sequence[str],
    status: Sequence[str],
    account: str,
    region: str,
    output: str,
    log_format: str,
    log_level: str,
) -> None:
    """Print the events of jobs, one JSON object a line: AWS's "Batch Job State Change" and "Batch Job Queue Blocked".

    Without --follow: those that are kept, oldest first.
    """
    configure_logging(log_format, log_level)
    target = clients.target_of(endpoint, DataFolder(data_dir))
    request = WatchJobEventsRequest(
        jobs=job,
        job_queues=queue,
        statuses=[JobStatus.ValueType(_STATUSES[word]) for word in status],
        from_oldest=replay or not follow,
        until_caught_up=not follow,
    )
    show = _print_object if output == "json" else _print_line
    with clients.talking_to(target, unread="nobody reads the events any more"):
        anyio.run(print_events, target, clients.caller_for(account, region, tls), request, tls, show)
