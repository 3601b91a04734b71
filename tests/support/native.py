"""Generated stubs on a plain channel: what a native client writes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc.aio

from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.domain.names import Caller
from batchyard.rpc.identity import metadata_for

if TYPE_CHECKING:
    from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceAsyncStub
    from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceAsyncStub
    from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceAsyncStub
    from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceAsyncStub
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub


class NativeClient:
    """The public services of an installation, for one account."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self.channel = channel
        self.caller = caller
        self.metadata: Sequence[tuple[str, str]] = tuple(metadata_for(caller))
        self.registry: RegistryServiceAsyncStub = RegistryServiceStub(channel)
        self.jobs: JobsServiceAsyncStub = JobsServiceStub(channel)
        self.operations: JobOperationsServiceAsyncStub = JobOperationsServiceStub(channel)
        self.logs: LogsServiceAsyncStub = LogsServiceStub(channel)
        self.agents: AgentsServiceAsyncStub = AgentsServiceStub(channel)

    @property
    def call(self) -> dict[str, Any]:
        """Keyword arguments of every call: for whom, and for how long at most."""
        return {"metadata": self.metadata, "timeout": 60}
