"""The ResourceWatchService: resources as they are, then as they change; and which job definition is the newest.

A watch reads the database from the revision up to which it has sent, whenever there is a newer one. Nothing is queued
for it: a slow reader finds the newest state of each resource when it comes back, and the writer never waits for it.
"""

from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any, Final

import grpc.aio

from batchyard.api.scheduler.v1.resources_service_pb2 import (
    GetNewestJobDefinitionRequest,
    GetNewestJobDefinitionResponse,
    WatchResourcesRequest,
    WatchResourcesResponse,
)
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    ResourceKind as WatchedKind,
)
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceServicer
from batchyard.domain.errors import HistoryGoneError, InvalidRequestError
from batchyard.domain.names import ResourceKind
from batchyard.registry.messages import stored_change
from batchyard.registry.newest import NewestDefinitions
from batchyard.registry.records import Records

CHANGES_MAX: Final = 200
"""Changes in one message."""

_KINDS: Final = {
    WatchedKind.RESOURCE_KIND_COMPUTE_ENVIRONMENT: ResourceKind.COMPUTE_ENVIRONMENT,
    WatchedKind.RESOURCE_KIND_JOB_QUEUE: ResourceKind.JOB_QUEUE,
    WatchedKind.RESOURCE_KIND_JOB_DEFINITION: ResourceKind.JOB_DEFINITION,
    WatchedKind.RESOURCE_KIND_SCHEDULING_POLICY: ResourceKind.SCHEDULING_POLICY,
}


class ResourceWatchServicer(ResourceWatchServiceServicer):
    """Serves watches of all namespaces."""

    def __init__(self, records: Records, newest: NewestDefinitions) -> None:
        self._records = records
        self._newest = newest

    async def GetNewestJobDefinition(  # noqa: N802  # the name of the RPC, as below
        self, request: GetNewestJobDefinitionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> GetNewestJobDefinitionResponse:
        """Return the newest ACTIVE revision, and for how long it is promised to be that."""
        definition, promised_s = await self._newest.find(request.namespace, request.job_definition_name)
        return GetNewestJobDefinitionResponse(job_definition=definition, promised_ms=int(promised_s * 1000))

    async def WatchResources(  # noqa: N802
        self, request: WatchResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[WatchResourcesResponse]:
        """Send what there is, or what has changed since a revision, and then every change.

        Several changes of a resource between two messages are sent as one. Raises HistoryGoneError for a revision
        that this registry has never reached: the reader has followed another one and must begin anew.
        """
        kinds = _kinds(request.kinds)
        start = await self._records.read(lambda reader: reader.revision())
        sent = request.after_revision
        if sent > start:
            raise HistoryGoneError(f"revision {sent} is ahead of this registry, which is at {start}")
        # Who begins from nothing needs no word of what was gone before.
        no_tombstones_until = 0 if sent else start
        caught_up = False
        while True:
            response, sent = await self._next(kinds, sent, no_tombstones_until)
            response.caught_up = sent >= start
            if response.changes or response.caught_up > caught_up:
                caught_up = response.caught_up
                yield response
            if len(response.changes) == 0:
                await self._records.committed_beyond(sent)

    async def _next(
        self, kinds: Collection[ResourceKind], sent: int, no_tombstones_until: int
    ) -> tuple[WatchResourcesResponse, int]:
        changes = await self._records.read(
            lambda reader: reader.changes(kinds, sent, CHANGES_MAX, no_tombstones_until=no_tombstones_until)
        )
        messages = [stored_change(stored) for stored in changes.resources]
        return WatchResourcesResponse(changes=messages, revision=changes.revision), changes.revision


def _kinds(wanted: Iterable[WatchedKind.ValueType]) -> Collection[ResourceKind]:
    """Return the kinds that a request asks for; all if it names none."""
    try:
        return frozenset(_KINDS[kind] for kind in wanted) or frozenset(_KINDS.values())
    except KeyError as error:
        raise InvalidRequestError(f"{error.args[0]} is not a kind of resource", field="kinds") from None
