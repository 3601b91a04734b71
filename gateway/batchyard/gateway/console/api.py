"""What the pages ask the services for: the public operations, in AWS's names."""

from collections.abc import AsyncIterable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc.aio
import msgspec
from google.protobuf.descriptor import MethodDescriptor

from batchyard.api.operations.v1 import overview_service_pb2 as overview_pb2
from batchyard.api.operations.v1.agents_service_pb2 import WatchAgentsRequest, WatchAgentsResponse
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsRequest, WatchJobsResponse
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from batchyard.api.operations.v1.logs_service_pb2 import FollowLogEventsRequest, FollowLogEventsResponse
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub
from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceStub
from batchyard.domain.names import Caller
from batchyard.gateway.transcoder import compile_decoder, compile_encoder
from batchyard.gateway.upstreams import PUBLIC_SERVICES, Upstreams, reached, unary_call
from batchyard.rpc.identity import metadata_for

if TYPE_CHECKING:
    from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceAsyncStub
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub
    from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceAsyncStub
    from batchyard.api.operations.v1.overview_service_pb2_grpc import OverviewServiceAsyncStub

Json: TypeAlias = Any

DEADLINE_S: Final = 20.0


class Api:
    """Calls the services behind the gateway for a user."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._operations = {
            method.name: _Operation(method, upstreams.owner_of(service))
            for service in PUBLIC_SERVICES
            for method in service.methods
            if not method.server_streaming and method.name != "DescribeArrayChildren"
        }
        self._overview: OverviewServiceAsyncStub = OverviewServiceStub(upstreams.jobs)
        self._watches: JobOperationsServiceAsyncStub = JobOperationsServiceStub(upstreams.jobs)
        self._agents: AgentsServiceAsyncStub = AgentsServiceStub(upstreams.scheduler)
        self._logs: LogsServiceAsyncStub = LogsServiceStub(upstreams.logs)

    async def call(self, caller: Caller, operation: str, members: Json) -> Json:
        """Call an operation with AWS's members; return the answer in AWS's form.

        Raises AioRpcError as the service does, MemberError for members that the operation does not have so.
        """
        return await self._operations[operation].call(caller, members)

    async def child_statuses(self, caller: Caller, job_id: str) -> bytes:
        """Return the number of the status of each child of an array."""
        request = overview_pb2.DescribeArrayChildrenRequest(job_id=job_id)
        answer = await self._overview.DescribeArrayChildren(
            request, timeout=DEADLINE_S, metadata=tuple(metadata_for(caller))
        )
        return answer.statuses

    def watch(self, caller: Caller, job_ids: list[str]) -> AsyncIterable[WatchJobsResponse]:
        """Follow jobs from now on; none named: all."""
        return self._watches.WatchJobs(WatchJobsRequest(job_ids=job_ids), metadata=tuple(metadata_for(caller)))

    def watch_agents(self) -> AsyncIterable[WatchAgentsResponse]:
        """Follow the agents: how they are, then what changes of them, without what they run."""
        # Agents are nobody's: of no account more than of another.
        return self._agents.WatchAgents(WatchAgentsRequest(), metadata=tuple(metadata_for(Caller())))

    def follow(self, caller: Caller, log_stream_name: str, after: str = "") -> AsyncIterable[FollowLogEventsResponse]:
        """Follow a log to its end, from its beginning or after a token."""
        request = FollowLogEventsRequest(log_stream_name=log_stream_name, next_token=after or None)
        return self._logs.FollowLogEvents(request, metadata=tuple(metadata_for(caller)))


class _Operation:
    def __init__(self, method: MethodDescriptor, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._call = unary_call(channel, method)
        self._method = method

    @cached_property
    def _decode(self) -> Callable[[object], Any]:
        """When first it is wanted: most operations have no page."""
        return compile_decoder(self._method.input_type)

    @cached_property
    def _encode(self) -> Callable[[Any], bytes]:
        return compile_encoder(self._method.output_type)

    async def call(self, caller: Caller, members: Json) -> Json:
        await reached(self._channel)
        request = self._decode(members)
        response = await self._call(request, timeout=DEADLINE_S, metadata=tuple(metadata_for(caller)))
        return msgspec.json.decode(self._encode(response))
