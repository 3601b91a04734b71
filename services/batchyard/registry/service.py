"""The RegistryService, as gRPC calls it: each operation is handed on with its caller."""

# The generated names of RPCs are AWS's names of operations.
# ruff: noqa: N802

from typing import Any

import grpc.aio

from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from batchyard.registry.definitions import Definitions
from batchyard.registry.environments import Environments
from batchyard.registry.queues import Queues
from batchyard.rpc.identity import caller_of

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryServicer(RegistryServiceServicer):
    """Serves the eleven operations on resources."""

    def __init__(self, environments: Environments, queues: Queues, definitions: Definitions) -> None:
        self._environments = environments
        self._queues = queues
        self._definitions = definitions

    async def CreateComputeEnvironment(
        self, request: api.CreateComputeEnvironmentRequest, context: Context
    ) -> api.CreateComputeEnvironmentResponse:
        """Create a compute environment, VALID at once."""
        return await self._environments.create(request, caller_of(context))

    async def DescribeComputeEnvironments(
        self, request: api.DescribeComputeEnvironmentsRequest, context: Context
    ) -> api.DescribeComputeEnvironmentsResponse:
        """List compute environments by name, or all of them, a page at a time."""
        return await self._environments.describe(request, caller_of(context))

    async def UpdateComputeEnvironment(
        self, request: api.UpdateComputeEnvironmentRequest, context: Context
    ) -> api.UpdateComputeEnvironmentResponse:
        """Change the members that are sent."""
        return await self._environments.update(request, caller_of(context))

    async def DeleteComputeEnvironment(
        self, request: api.DeleteComputeEnvironmentRequest, context: Context
    ) -> api.DeleteComputeEnvironmentResponse:
        """Delete a DISABLED environment that no queue refers to."""
        return await self._environments.delete(request, caller_of(context))

    async def CreateJobQueue(self, request: api.CreateJobQueueRequest, context: Context) -> api.CreateJobQueueResponse:
        """Create a job queue over 1 to 3 compute environments."""
        return await self._queues.create(request, caller_of(context))

    async def DescribeJobQueues(
        self, request: api.DescribeJobQueuesRequest, context: Context
    ) -> api.DescribeJobQueuesResponse:
        """List job queues by name, or all of them, a page at a time."""
        return await self._queues.describe(request, caller_of(context))

    async def UpdateJobQueue(self, request: api.UpdateJobQueueRequest, context: Context) -> api.UpdateJobQueueResponse:
        """Change the members that are sent; an environment order replaces the old one whole."""
        return await self._queues.update(request, caller_of(context))

    async def DeleteJobQueue(self, request: api.DeleteJobQueueRequest, context: Context) -> api.DeleteJobQueueResponse:
        """Delete a DISABLED queue without unfinished jobs."""
        return await self._queues.delete(request, caller_of(context))

    async def RegisterJobDefinition(
        self, request: api.RegisterJobDefinitionRequest, context: Context
    ) -> api.RegisterJobDefinitionResponse:
        """Store a new revision under a name."""
        return await self._definitions.register(request, caller_of(context))

    async def DescribeJobDefinitions(
        self, request: api.DescribeJobDefinitionsRequest, context: Context
    ) -> api.DescribeJobDefinitionsResponse:
        """List definitions, by name ascending and revision descending, a page at a time."""
        return await self._definitions.describe(request, caller_of(context))

    async def DeregisterJobDefinition(
        self, request: api.DeregisterJobDefinitionRequest, context: Context
    ) -> api.DeregisterJobDefinitionResponse:
        """Make a revision INACTIVE: new submissions are refused, submitted jobs run on."""
        return await self._definitions.deregister(request, caller_of(context))
