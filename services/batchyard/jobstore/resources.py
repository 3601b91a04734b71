"""The store's copies of the queues and environments that the registry holds, kept on disk.

Copies follow the registry's watch. A queue that the store lacks is read through: the watch is read up to now before
the queue is said not to exist. Definitions are in `definitions`.
"""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import anyio
import grpc
import grpc.aio

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentType
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState, ResourceStatus
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    ResourceChange,
    WatchResourcesRequest,
)
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    ResourceKind as WatchedKind,
)
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import (
    ResourceWatchServiceStub,
)
from batchyard.domain.errors import NotFoundError, UnavailableError, WrongStateError
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.jobstore.reasons import TimeLimit
from batchyard.jobstore.writer import Writer
from batchyard.rpc.errors import error_from
from batchyard.storage.jobs import EnvironmentCopy, EnvironmentKey, QueueCopy, QueueKey

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceAsyncStub

REGISTRY_TIMEOUT_S: Final = 10.0

_WATCHED: Final = (WatchedKind.RESOURCE_KIND_COMPUTE_ENVIRONMENT, WatchedKind.RESOURCE_KIND_JOB_QUEUE)


class ResourceCopies:
    """Finds the queue that a submission names."""

    def __init__(self, writer: Writer, registry: grpc.aio.Channel) -> None:
        self._writer = writer
        self._watches: ResourceWatchServiceAsyncStub = ResourceWatchServiceStub(registry)
        self._queues: dict[QueueKey, QueueCopy] = {}
        self._environments: dict[EnvironmentKey, int] = {}
        """Their revisions; the copies themselves are the writer's."""
        self._limits: dict[QueueKey, Sequence[TimeLimit]] = {}
        """Of those queues that have any; read anew at each start."""
        self._revision = 0
        self._catching_up = anyio.Lock()

    def load(self, queues: Sequence[QueueCopy], environments: Sequence[EnvironmentCopy]) -> None:
        """Begin with the copies that are on disk."""
        self._queues = {queue.key: queue for queue in queues}
        # One whose cluster is not known was written by an earlier program, and is taken anew.
        self._environments = {
            environment.key: environment.revision for environment in environments if environment.cluster_arn
        }

    def time_limits(self, queue: QueueKey) -> Sequence[TimeLimit]:
        """Return for how long jobs of a queue may wait for which reasons."""
        return self._limits.get(queue, ())

    def queue_at_hand(self, caller: Caller, reference: str) -> QueueCopy | None:
        """Return the queue that a name or ARN refers to, if that is known without asking the registry."""
        name = name_in_reference(reference, ResourceKind.JOB_QUEUE, caller.namespace)
        found = self._queues.get(QueueKey(caller.namespace, name or ""))
        return None if found is None or found.gone else found

    async def queue(self, caller: Caller, reference: str) -> QueueCopy:
        """Return the queue that a name or ARN refers to; raise NotFoundError if there is none."""
        found = self.queue_at_hand(caller, reference)
        if found is None and name_in_reference(reference, ResourceKind.JOB_QUEUE, caller.namespace) is not None:
            await self._catch_up()
            found = self.queue_at_hand(caller, reference)
        if found is None:
            raise NotFoundError(f"JobQueue {reference} not found.", field="jobQueue")
        return found

    async def follow(self) -> None:
        """Follow the registry's changes of queues and environments until the stream ends."""
        await self._read_watch(until_caught_up=False)

    async def take(self, changes: Sequence[ResourceChange]) -> None:
        """Take changes into the copies, durably; raise WrongStateError if a queue cannot go yet."""
        queues, environments = [], []
        for change in changes:
            kind = change.WhichOneof("resource")
            if kind == "job_queue":
                queues.append(_queue_copy(change))
                self._note_time_limits(queues[-1], change.job_queue)
            elif kind == "compute_environment":
                environments.append(_environment_copy(change))
        queues = [copy for copy in queues if self._is_newer(copy)]
        environments = [copy for copy in environments if copy.revision > self._environments.get(copy.key, -1)]
        if queues or environments:
            await self._writer.do(lambda group: group.settle(queues, environments), alone=True)
            for queue in queues:
                if self._is_newer(queue):
                    self._queues[queue.key] = queue
            for environment in environments:
                known = self._environments.get(environment.key, -1)
                self._environments[environment.key] = max(known, environment.revision)

    def _note_time_limits(self, queue: QueueCopy, detail: JobQueueDetail) -> None:
        known = self._queues.get(queue.key)
        if known is None or known.revision <= queue.revision:
            actions = detail.job_state_time_limit_actions
            self._limits[queue.key] = [TimeLimit(action.reason, action.max_time_seconds) for action in actions]

    async def _take_what_can_be(self, changes: Sequence[ResourceChange]) -> None:
        """Take in what the watch says, save a queue that goes while it has unfinished jobs: of that we are asked."""
        try:
            await self.take(changes)
        except WrongStateError:
            for change in changes:
                with contextlib.suppress(WrongStateError):
                    await self.take([change])

    async def _catch_up(self) -> None:
        async with self._catching_up:
            try:
                with anyio.fail_after(REGISTRY_TIMEOUT_S):
                    await self._read_watch(until_caught_up=True)
            except TimeoutError:
                raise UnavailableError("the registry did not say in time which queues there are; try again") from None
            except grpc.aio.AioRpcError as error:
                raise error_from(error) from error

    async def _read_watch(self, *, until_caught_up: bool) -> None:
        request = WatchResourcesRequest(kinds=_WATCHED, after_revision=self._revision)
        call = self._watches.WatchResources(request, wait_for_ready=True)
        try:
            async for message in call:
                await self._take_what_can_be(message.changes)
                self._revision = max(self._revision, message.revision)
                if message.caught_up and until_caught_up:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                # The registry was set back, by a restored backup: begin anew.
                self._revision = 0
            raise
        finally:
            call.cancel()

    def _is_newer(self, copy: QueueCopy) -> bool:
        known = self._queues.get(copy.key)
        return known is None or known.revision < copy.revision


def _queue_copy(change: ResourceChange) -> QueueCopy:
    queue: JobQueueDetail = change.job_queue
    names = (
        name_in_reference(entry.compute_environment, ResourceKind.COMPUTE_ENVIRONMENT, change.namespace)
        for entry in queue.compute_environment_order
    )
    going = queue.status in (ResourceStatus.RESOURCE_STATUS_DELETING, ResourceStatus.RESOURCE_STATUS_DELETED)
    return QueueCopy(
        key=QueueKey(change.namespace, queue.job_queue_name),
        arn=queue.job_queue_arn,
        open=queue.state == ResourceState.RESOURCE_STATE_ENABLED and not going,
        gone=going,
        revision=change.revision,
        environments=tuple(name for name in names if name is not None),
        fair_share=bool(queue.scheduling_policy_arn),
        fargate=queue.job_queue_type == "ECS_FARGATE",
        created=change.created,
    )


def _environment_copy(change: ResourceChange) -> EnvironmentCopy:
    environment = change.compute_environment
    is_managed = environment.type == ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_MANAGED
    return EnvironmentCopy(
        key=EnvironmentKey(change.namespace, environment.compute_environment_name),
        usable=(
            environment.state == ResourceState.RESOURCE_STATE_ENABLED
            and environment.status == ResourceStatus.RESOURCE_STATUS_VALID
        ),
        max_vcpus_milli=environment.compute_resources.maxv_cpus * 1000 if is_managed else None,
        revision=change.revision,
        created=change.created,
        # Where it is not known when an environment came to be, it cannot be told from others of its name.
        cluster_arn=environment.ecs_cluster_arn if change.created else "",
    )
