"""What the commands for people share: one server, one caller, one form of output."""

import io
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import anyio
import click
import grpc.aio

from batchyard.api.jobs.v1.jobs_pb2 import JobDetail, JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub
from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceStub
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.cli import clients, options
from batchyard.cli.folder import DataFolder
from batchyard.cli.job_client import CONNECT_TIMEOUT_S, Patience
from batchyard.cli.logging import configure_logging
from batchyard.domain.names import Caller
from batchyard.gateway.transcoder import words_of
from batchyard.rpc.connection import open_channel
from batchyard.rpc.identity import metadata_for
from batchyard.rpc.tls import Tls

if TYPE_CHECKING:
    from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceAsyncStub
    from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceAsyncStub
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub
    from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceAsyncStub
    from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceAsyncStub
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

T = TypeVar("T")
Method = Callable[..., Awaitable[T]]

DESCRIBED_JOBS_MAX: Final = 100

STATUS_WORDS: Final = words_of(JobStatus.DESCRIPTOR)
STATUS_NUMBERS: Final = {word: JobStatus.ValueType(number) for number, word in STATUS_WORDS.items()}
ENDED: Final = frozenset({"SUCCEEDED", "FAILED"})


class Session:
    """The calls of one command, over one channel, for one caller."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self.channel = channel
        self.caller = caller
        self.metadata = tuple(metadata_for(caller))
        self.jobs: JobsServiceAsyncStub = JobsServiceStub(channel)
        self.registry: RegistryServiceAsyncStub = RegistryServiceStub(channel)
        self.operations: JobOperationsServiceAsyncStub = JobOperationsServiceStub(channel)
        self.logs: LogsServiceAsyncStub = LogsServiceStub(channel)
        self.overview: OverviewServiceAsyncStub = OverviewServiceStub(channel)
        self.agents: AgentsServiceAsyncStub = AgentsServiceStub(channel)

    async def call(self, method: Method[T], request: object) -> T:
        """Call a method once."""
        return await method(request, metadata=self.metadata, wait_for_ready=True, timeout=CONNECT_TIMEOUT_S)

    async def call_patiently(self, method: Method[T], request: object, patience: Patience | None = None) -> T:
        """Call a method that changes nothing, also over a restart of the server."""
        patience = patience or Patience()
        while True:
            try:
                answer = await self.call(method, request)
            except grpc.aio.AioRpcError as error:
                await patience.wait_or_raise(error)
            else:
                patience.renew()
                return answer

    async def pages(self, method: Method[T], request: Any) -> AsyncGenerator[T]:
        """Yield the answers to a listing, page by page; the request is changed to ask for the next."""
        patience = Patience()
        while True:
            answer: Any = await self.call_patiently(method, request, patience)
            yield answer
            if not answer.next_token:
                return
            request.next_token = answer.next_token

    async def describe(self, job_ids: Sequence[str], patience: Patience | None = None) -> list[JobDetail]:
        """Return jobs by id or ARN, in this order; raise ClickException for one that does not exist."""
        found: dict[str, JobDetail] = {}
        for start in range(0, len(job_ids), DESCRIBED_JOBS_MAX):
            request = DescribeJobsRequest(jobs=job_ids[start : start + DESCRIBED_JOBS_MAX])
            answer = await self.call_patiently(self.jobs.DescribeJobs, request, patience)
            found.update((name, job) for job in answer.jobs for name in (job.job_id, job.job_arn))
        missing = [job_id for job_id in job_ids if job_id not in found]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise click.ClickException(f"there is no job {missing[0]}{more} in account {self.caller.namespace}")
        return [found[job_id] for job_id in job_ids]


@dataclass(frozen=True, slots=True)
class Server:
    """What `server_options` declares: where to call, for whom, and how to print the answer."""

    target: str
    caller: Caller
    tls: Tls | None
    output: Literal["table", "json"]

    @property
    def as_json(self) -> bool:
        """Whether a program reads what is printed."""
        return self.output == "json"

    def run(self, act: Callable[[Session], Awaitable[int | None]]) -> None:
        """Carry a command out over a channel of its own; exit with the code that it returns, if it is not 0."""
        with clients.talking_to(self.target, unread="nobody reads the output any more"):
            code = anyio.run(self._with_session, act)
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.flush()
        sys.exit(code or 0)

    async def _with_session(self, act: Callable[[Session], Awaitable[int | None]]) -> int | None:
        async with open_channel(self.target, self.tls) as channel:
            return await act(Session(channel, self.caller))


def server_options() -> options.Decorator:
    """Declare which server a command calls, for whom, and what it prints; the command gets all as one, `server`."""
    flags = options.all_of(
        clients.server(),
        clients.tls_of_client(),
        options.account_and_region(),
        options.output(),
    )

    def decorate(command: options.Command) -> options.Command:
        @wraps(command)
        def with_server(
            *,
            endpoint: str | None,
            data_dir: Path,
            tls: Tls | None,
            account: str,
            region: str,
            output: Literal["table", "json"],
            **values: Any,
        ) -> Any:
            configure_logging("text", "warning")
            target = clients.target_of(endpoint, DataFolder(data_dir))
            server = Server(target, clients.caller_for(account, region, tls), tls, output)
            return command(server=server, **values)

        return flags(cast("options.Command", with_server))

    return decorate


def status_of(job: Any) -> str:
    """Return the status of a job, a summary or a change in AWS's word."""
    return STATUS_WORDS.get(job.status, "")


def job_argument(*, several: bool) -> Callable[[options.Command], options.Command]:
    """Declare the argument for a job's id or ARN, or for one or more of them."""
    name, number, metavar = ("jobs", -1, "JOB...") if several else ("job", 1, "JOB")
    return click.argument(name, nargs=number, required=True, metavar=metavar)


def unique(names: Iterable[str]) -> list[str]:
    """Return names, each once; `-` stands for those on stdin, separated by white space.

    Not for use in a loop, which would hold back a Ctrl-C of whoever types them.
    """
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(read(sys.stdin, "ids of jobs").split() if name == "-" else [name]))
    return list(found)


def read(file: IO[str], what: str) -> str:
    """Return all of a file; on a terminal say what is to be typed."""
    if file.isatty():
        click.echo(f"batchyard: type {what}; Ctrl-D ends them, Ctrl-C gives up", err=True)
    return file.read()
