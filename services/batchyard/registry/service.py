"""The RegistryService, as gRPC calls it: each operation is handed on with its caller."""

# The generated names of RPCs are AWS's names of operations.
# ruff: noqa: N802

from typing import Any

import grpc.aio

from batchyard.api.registry.v1 import registry_service_pb2 as api
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from batchyard.registry.definitions import Definitions
from batchyard.registry.environments import Environments
from batchyard.registry.policies import Policies
from batchyard.registry.queues import Queues
from batchyard.registry.tags import Tags
from batchyard.rpc.identity import caller_of

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryServicer(RegistryServiceServicer):
    """Serves the operations on resources and on tags."""

    def __init__(
        self, environments: Environments, queues: Queues, definitions: Definitions, policies: Policies, tags: Tags
    ) -> None:
        self._environments = environments
        self._queues = queues
        self._definitions = definitions
        self._policies = policies
        self._tags = tags

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

    async def CreateSchedulingPolicy(
        self, request: api.CreateSchedulingPolicyRequest, context: Context
    ) -> api.CreateSchedulingPolicyResponse:
        """Create a scheduling policy."""
        return await self._policies.create(request, caller_of(context))

    async def DescribeSchedulingPolicies(
        self, request: api.DescribeSchedulingPoliciesRequest, context: Context
    ) -> api.DescribeSchedulingPoliciesResponse:
        """Describe scheduling policies by ARN."""
        return await self._policies.describe(request, caller_of(context))

    async def ListSchedulingPolicies(
        self, request: api.ListSchedulingPoliciesRequest, context: Context
    ) -> api.ListSchedulingPoliciesResponse:
        """List the ARNs of all scheduling policies, a page at a time."""
        return await self._policies.list(request, caller_of(context))

    async def UpdateSchedulingPolicy(
        self, request: api.UpdateSchedulingPolicyRequest, context: Context
    ) -> api.UpdateSchedulingPolicyResponse:
        """Replace what a policy says."""
        return await self._policies.update(request, caller_of(context))

    async def DeleteSchedulingPolicy(
        self, request: api.DeleteSchedulingPolicyRequest, context: Context
    ) -> api.DeleteSchedulingPolicyResponse:
        """Delete a policy that no queue names."""
        return await self._policies.delete(request, caller_of(context))

    async def TagResource(self, request: api.TagResourceRequest, context: Context) -> api.TagResourceResponse:
        """Add tags to a resource or a job."""
        return await self._tags.tag(request, caller_of(context))

    async def UntagResource(self, request: api.UntagResourceRequest, context: Context) -> api.UntagResourceResponse:
        """Take tags away from a resource or a job."""
        return await self._tags.untag(request, caller_of(context))

    async def ListTagsForResource(
        self, request: api.ListTagsForResourceRequest, context: Context
    ) -> api.ListTagsForResourceResponse:
        """Return the tags of a resource or a job."""
        return await self._tags.list(request, caller_of(context))
