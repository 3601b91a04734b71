"""One command as a job, from submission to exit code, as a client of the public gRPC API."""

import logging
import math
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import click
import grpc
from anyio.streams.memory import MemoryObjectReceiveStream

from batchyard.api.common.v1.container_pb2 import KeyValuePair
from batchyard.api.jobs.v1.jobs_pb2 import (
    JOB_STATUS_FAILED,
    JOB_STATUS_PENDING,
    JOB_STATUS_RUNNABLE,
    JOB_STATUS_SUBMITTED,
    JOB_STATUS_SUCCEEDED,
    ArrayProperties,
    ContainerOverrides,
    JobDependency,
)
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest, SubmitJobRequest, TerminateJobRequest
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange, WatchJobsRequest
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from batchyard.api.operations.v1.logs_service_pb2 import FollowLogEventsRequest, LogEvent
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.registry_service_pb2 import DescribeJobDefinitionsRequest, RegisterJobDefinitionRequest
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.cli.errors import EXIT_INTERRUPTED
from batchyard.domain.names import Caller
from batchyard.rpc.connection import open_channel
from batchyard.rpc.identity import metadata_for
from batchyard.rpc.log_context import about_job
from batchyard.rpc.tls import Tls

if TYPE_CHECKING:
    from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceAsyncStub
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub
    from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceAsyncStub
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

_log = logging.getLogger(__name__)

DEFINITION_NAME: Final = "run"
"""All jobs of `batchyard run` share revisions of this job definition: one for each image."""

CONNECT_TIMEOUT_S: Final = 10.0
RECONNECT_TIMEOUT_S: Final = 60.0
RECONNECT_PAUSE_S: Final = 0.2
LAST_LINES_TIMEOUT_S: Final = 10.0
"""How long the end of the log is waited for, once the job has ended."""
EARLIER_LINES_TIMEOUT_S: Final = 5.0
"""How long the next line of an attempt's log is waited for, once the next attempt has begun."""

EXIT_FAILED_WITHOUT_CODE: Final = 1
LOOK_WHY_IT_WAITS_S: Final = 1.0
"""How often a job that has not begun is asked for its reason, of which a change is not told."""

WAITS: Final = frozenset({JOB_STATUS_SUBMITTED, JOB_STATUS_PENDING, JOB_STATUS_RUNNABLE})
"""The statuses of a job that has not begun."""

Show = Callable[[LogEvent], None]
"""Does with a line of a log whatever is to be done."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What the user asks for."""

    command: Sequence[str]
    name: str
    queue: str
    image: str
    vcpus: int
    memory_mib: int
    environment: Mapping[str, str]
    array_size: int | None = None
    after: Sequence[str] = ()
    """Ids, ARNs or names of jobs that it waits for."""


class JobClient:
    """The calls that one run makes, over one channel, for one caller."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._metadata = tuple(metadata_for(caller))
        self._registry: RegistryServiceAsyncStub = RegistryServiceStub(channel)
        self._jobs: JobsServiceAsyncStub = JobsServiceStub(channel)
        self._operations: JobOperationsServiceAsyncStub = JobOperationsServiceStub(channel)
        self._logs: LogsServiceAsyncStub = LogsServiceStub(channel)

    async def submit(self, request: JobRequest) -> str:
        """Submit the job and return its id."""
        submitted = await self._jobs.SubmitJob(
            SubmitJobRequest(
                job_name=request.name,
                job_queue=request.queue,
                job_definition=await self._definition_for(request.image),
                container_overrides=ContainerOverrides(
                    vcpus=request.vcpus,
                    memory=request.memory_mib,
                    command=request.command,
                    environment=[KeyValuePair(name=name, value=value) for name, value in request.environment.items()],
                ),
                array_properties=ArrayProperties(size=request.array_size) if request.array_size is not None else None,
                depends_on=[JobDependency(job_id=job) for job in request.after],
            ),
            metadata=self._metadata,
        )
        return submitted.job_id

    async def _definition_for(self, image: str) -> str:
        """Return the ARN of a revision with this image, registered now if there is none."""
        described = await self._registry.DescribeJobDefinitions(
            DescribeJobDefinitionsRequest(job_definition_name=DEFINITION_NAME, status="ACTIVE"),
            metadata=self._metadata,
            wait_for_ready=True,
            timeout=CONNECT_TIMEOUT_S,
        )
        for definition in described.job_definitions:
            if definition.container_properties.image == image:
                return definition.job_definition_arn
        registered = await self._registry.RegisterJobDefinition(
            RegisterJobDefinitionRequest(
                job_definition_name=DEFINITION_NAME,
                type="container",
                container_properties=ContainerProperties(image=image, vcpus=1, memory=256),
            ),
            metadata=self._metadata,
        )
        return registered.job_definition_arn

    async def terminate(self, job_id: str, reason: str) -> None:
        """Ask for the end of the job."""
        await self._jobs.TerminateJob(
            TerminateJobRequest(job_id=job_id, reason=reason),
            metadata=self._metadata,
            wait_for_ready=True,
            timeout=RECONNECT_TIMEOUT_S,
        )

    async def reason_for_waiting(self, job_id: str) -> str:
        """Return why the job has not begun; empty if it has, or if nobody can say it now."""
        request = DescribeJobsRequest(jobs=[job_id])
        try:
            answer = await self._jobs.DescribeJobs(request, metadata=self._metadata, timeout=CONNECT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            _log.debug("it is not known why the job waits", extra={"detail": error.details()})
            return ""
        return next((job.status_reason for job in answer.jobs if job.status in WAITS), "")

    async def changes(self, job_id: str) -> AsyncGenerator[JobChange]:
        """Yield the job as it is, then each change, without gap or repetition also when the connection breaks."""
        request = WatchJobsRequest(job_ids=[job_id])
        patience = Patience()
        while True:
            try:
                async for response in self._operations.WatchJobs(request, metadata=self._metadata):
                    patience.renew()
                    request.after_revision = response.revision
                    for change in response.changes:
                        yield change
            except grpc.aio.AioRpcError as error:
                await patience.wait_or_raise(error)

    async def lines(self, log_stream_name: str) -> AsyncGenerator[LogEvent]:
        """Yield the lines of a log until the attempt has ended, each of them once also when the connection breaks."""
        request = FollowLogEventsRequest(log_stream_name=log_stream_name)
        patience = Patience()
        while True:
            try:
                async for response in self._logs.FollowLogEvents(request, metadata=self._metadata):
                    patience.renew()
                    request.next_token = response.next_forward_token
                    for event in response.events:
                        yield event
            except grpc.aio.AioRpcError as error:
                await patience.wait_or_raise(error)
            else:
                return


class Patience:
    """How long a stream that breaks is opened again and again: a restart of the control plane harms no job."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: the stream has brought something."""
        self._give_up_at = anyio.current_time() + RECONNECT_TIMEOUT_S
        self._is_told = False

    async def wait_or_raise(self, error: grpc.aio.AioRpcError) -> None:
        """Pause before the next attempt; raise the error if it is of another kind, or has lasted too long."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or anyio.current_time() > self._give_up_at:
            raise error
        if not self._is_told:
            _log.info("the connection broke, trying again", extra={"detail": error.details()})
        self._is_told = True
        await anyio.sleep(RECONNECT_PAUSE_S)


class Follower:
    """Follows one job: its states from the watch, its output from the log of each attempt."""

    def __init__(self, client: JobClient, job_id: str, show: Show | None = None) -> None:
        """Print lines as they are, or let `show` do it."""
        self._client = client
        self._job_id = job_id
        self._show = show or _print_line
        self._printed: set[str] = set()
        self._printing: anyio.CancelScope | None = None
        """Of the log that is being printed."""
        self._waits = True

    async def to_the_end(self) -> JobChange:
        """Print what the job prints, and on stderr why it waits; return its last change."""
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(self._tell_why_it_waits)
            end = await self._changed_to_the_end()
            waiting.cancel_scope.cancel()
        return end

    async def _changed_to_the_end(self) -> JobChange:
        told, streams = anyio.create_memory_object_stream[str](math.inf)
        changes = self._client.changes(self._job_id)
        async with anyio.create_task_group() as logs, told, aclosing(changes):
            logs.start_soon(self._print_logs, streams)
            async for change in changes:
                _log.debug("the job changed", extra={"status": change.status, "reason": change.status_reason})
                self._waits = change.status in WAITS
                stream = change.log_stream_name
                if stream and stream not in self._printed:
                    self._printed.add(stream)
                    told.send_nowait(stream)
                    self._hurry()
                if change.status in (JOB_STATUS_SUCCEEDED, JOB_STATUS_FAILED):
                    logs.cancel_scope.deadline = anyio.current_time() + LAST_LINES_TIMEOUT_S
                    return change
        raise AssertionError("a watch ends only with an error")

    async def _tell_why_it_waits(self) -> None:
        told = ""
        while True:
            await anyio.sleep(LOOK_WHY_IT_WAITS_S)
            reason = await self._client.reason_for_waiting(self._job_id) if self._waits else ""
            if reason not in ("", told):
                click.echo(f"batchyard: job {self._job_id} waits: {reason}", err=True)
                told = reason

    async def _print_logs(self, streams: MemoryObjectReceiveStream[str]) -> None:
        """Print one log after the other: changes of several attempts may come at once."""
        async with streams:
            async for stream in streams:
                with anyio.CancelScope() as self._printing:
                    if streams.statistics().current_buffer_used:
                        self._hurry()
                    await self._print_log(stream)
                self._printing = None

    def _hurry(self) -> None:
        """Have what is printed come to its end: the next attempt has begun, and a lost one's log may never end."""
        if self._printing is not None:
            self._printing.deadline = anyio.current_time() + EARLIER_LINES_TIMEOUT_S

    async def _print_log(self, log_stream_name: str) -> None:
        async with aclosing(self._client.lines(log_stream_name)) as lines:
            async for line in lines:
                self._show(line)
                if self._printing is not None and self._printing.deadline < math.inf:
                    self._printing.deadline = anyio.current_time() + EARLIER_LINES_TIMEOUT_S


def _print_line(event: LogEvent) -> None:
    print(event.message, flush=True)


def exit_code_of(change: JobChange) -> int:
    """Return the code to exit with for a job that has ended like this."""
    if change.status == JOB_STATUS_SUCCEEDED:
        return 0
    # A terminated job has FAILED even if its process made a good end.
    return change.exit_code or EXIT_FAILED_WITHOUT_CODE


async def run_job(target: str, caller: Caller, request: JobRequest, tls: Tls | None, attend: "Attend") -> int:
    """Submit the job, attend to it until it has ended, and return what to exit with.

    The first interrupt terminates the job, the second leaves it.
    """
    code: int | None = None
    async with open_channel(target, tls) as channel:
        client = JobClient(channel, caller)
        job_id = await client.submit(request)
        with about_job(job_id):
            if _log.isEnabledFor(logging.INFO):
                click.echo(f"batchyard: job {job_id} is submitted", err=True)
            async with anyio.create_task_group() as group:
                group.start_soon(_terminate_on_signal, client, job_id, group.cancel_scope)
                code = await attend(channel, job_id)
                group.cancel_scope.cancel()
    return EXIT_INTERRUPTED if code is None else code


Attend = Callable[[grpc.aio.Channel, str], Awaitable[int]]
"""Waits for the end of a job, and returns what to exit with."""


async def follow(client: JobClient, job_id: str, show: Show | None = None) -> int:
    """Print what a job prints, or let `show` do it; say why it failed; return what to exit with."""
    end = await Follower(client, job_id, show).to_the_end()
    if end.status == JOB_STATUS_FAILED:
        detail = f" ({end.reason})" if end.reason else ""
        code = f", exit code {end.exit_code}" if end.HasField("exit_code") else ""
        click.echo(f"batchyard: job {job_id} failed: {end.status_reason}{detail}{code}", err=True)
    return exit_code_of(end)


async def _terminate_on_signal(client: JobClient, job_id: str, following: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        interrupts = aiter(signals)
        await anext(interrupts)
        click.echo(f"batchyard: terminating job {job_id}; interrupt again to leave it alone", err=True)
        await client.terminate(job_id, "Interrupted by the user")
        await anext(interrupts)
        following.cancel()
