"""The resources that a new installation has, so that a job can be submitted at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import grpc.aio

from batchyard.api.registry.v1.compute_environment_pb2 import COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder
from batchyard.api.registry.v1.registry_service_pb2 import CreateComputeEnvironmentRequest, CreateJobQueueRequest
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.domain.names import Caller
from batchyard.rpc.identity import metadata_for

if TYPE_CHECKING:
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

DEFAULT_NAME: Final = "default"
"""Of the compute environment and of the job queue."""

DEADLINE_S: Final = 20.0


async def create_defaults_once(channel: grpc.aio.Channel, caller: Caller, done: Path) -> None:
    """Create the compute environment and the job queue `default`, at the first start only.

    A later start finds the file `done`: whoever has deleted the defaults does not get them back. A start that dies in
    between begins again.
    """
    if await anyio.Path(done).exists():
        return
    registry: RegistryServiceAsyncStub = RegistryServiceStub(channel)
    metadata = tuple(metadata_for(caller))
    environment = CreateComputeEnvironmentRequest(
        compute_environment_name=DEFAULT_NAME, type=COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
    )
    queue = CreateJobQueueRequest(
        job_queue_name=DEFAULT_NAME,
        priority=1,
        compute_environment_order=[ComputeEnvironmentOrder(order=1, compute_environment=DEFAULT_NAME)],
    )
    try:
        await registry.CreateComputeEnvironment(environment, metadata=metadata, timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        _accept_existing(error)
    try:
        await registry.CreateJobQueue(queue, metadata=metadata, timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        _accept_existing(error)
    await anyio.Path(done).touch()


def _accept_existing(error: grpc.aio.AioRpcError) -> None:
    """Raise the error again, unless it says that the resource is there already."""
    if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
        raise error
