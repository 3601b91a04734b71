"""Following the registry: what the scheduler knows of queues, their policies and compute environments."""

from typing import TYPE_CHECKING, Final

import grpc.aio

from batchyard.api.scheduler.v1.resources_service_pb2 import ResourceChange, ResourceKind, WatchResourcesRequest
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceStub
from batchyard.domain.errors import HistoryGoneError
from batchyard.rpc.errors import error_from
from batchyard.scheduler.convert import environment_of, policy_of, queue_of
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.model import ResourceKey

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceAsyncStub

_KINDS: Final = (
    ResourceKind.RESOURCE_KIND_COMPUTE_ENVIRONMENT,
    ResourceKind.RESOURCE_KIND_JOB_QUEUE,
    ResourceKind.RESOURCE_KIND_SCHEDULING_POLICY,
)


class ResourceWatch:
    """Follows the registry, one watch at a time, each from where the one before it ended."""

    def __init__(self, registry: grpc.aio.Channel, scheduler: Scheduler) -> None:
        self._stub: ResourceWatchServiceAsyncStub = ResourceWatchServiceStub(registry)
        self._scheduler = scheduler
        self._revision = 0
        self._environments: dict[ResourceKey, int] = {}
        self._queues: dict[ResourceKey, int] = {}
        self._policies: dict[ResourceKey, int] = {}
        self._round = 0
        """Counts the watches that began from nothing; resources are kept with the one that last told of them."""

    async def follow(self) -> None:
        """Watch until the stream ends, which is an AioRpcError unless it ended in order."""
        if not self._revision:
            self._round += 1
        call = self._stub.WatchResources(WatchResourcesRequest(kinds=_KINDS, after_revision=self._revision))
        try:
            async for response in call:
                for change in response.changes:
                    self._apply(change)
                if response.caught_up:
                    self._drop_unmentioned()
                    self._revision = max(self._revision, response.revision)
                self._scheduler.resources_changed(complete=response.caught_up)
        except grpc.aio.AioRpcError as error:
            if isinstance(error_from(error), HistoryGoneError):
                self._revision = 0
            raise
        finally:
            call.cancel()

    def _apply(self, change: ResourceChange) -> None:
        planner = self._scheduler.planner
        if change.HasField("compute_environment"):
            environment = environment_of(change.namespace, change.compute_environment)
            key = ResourceKey(change.namespace, change.compute_environment.compute_environment_name)
            if environment is None:
                self._environments.pop(key, None)
                planner.drop_environment(key)
            else:
                self._environments[key] = self._round
                planner.put_environment(environment)
        elif change.HasField("job_queue"):
            queue = queue_of(change.namespace, change.job_queue)
            key = ResourceKey(change.namespace, change.job_queue.job_queue_name)
            if queue is None:
                self._queues.pop(key, None)
                planner.drop_queue(key)
            else:
                self._queues[key] = self._round
                planner.put_queue(queue)
        elif change.HasField("scheduling_policy"):
            policy = policy_of(change.namespace, change.scheduling_policy)
            if change.deleted:
                self._policies.pop(policy.key, None)
                planner.drop_policy(policy.key)
            else:
                self._policies[policy.key] = self._round
                planner.put_policy(policy)

    def _drop_unmentioned(self) -> None:
        """Drop what a watch from nothing should have told of, and did not: it went while nobody watched."""
        for key in [key for key, told in self._environments.items() if told != self._round]:
            del self._environments[key]
            self._scheduler.planner.drop_environment(key)
        for key in [key for key, told in self._queues.items() if told != self._round]:
            del self._queues[key]
            self._scheduler.planner.drop_queue(key)
        for key in [key for key, told in self._policies.items() if told != self._round]:
            del self._policies[key]
            self._scheduler.planner.drop_policy(key)
