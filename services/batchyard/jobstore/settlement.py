"""ResourceSettlementService: how the registry makes sure that the store obeys a change, or has a queue's jobs ended."""

import asyncio
from typing import Final

from batchyard.api.registry.v1.resource_state_pb2 import ResourceStatus
from batchyard.api.scheduler.v1.resources_service_pb2 import (
    SettleResourcesRequest,
    SettleResourcesResponse,
    WithdrawJobDefinitionRequest,
    WithdrawJobDefinitionResponse,
)
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceSettlementServiceServicer
from batchyard.domain.jobs import Job, JobKey
from batchyard.domain.lifecycle import TERMINAL, JobState
from batchyard.jobstore.definitions import Definitions
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.resources import ResourceCopies
from batchyard.jobstore.writer import Writer
from batchyard.storage.jobs import QueueKey

JOBS_AT_ONCE: Final = 200

_UNFINISHED: Final = tuple(state for state in JobState if state not in TERMINAL)


class QueueEndings:
    """Terminates what a queue holds. The queue must be closed: jobs that come meanwhile may be passed over."""

    def __init__(self, *, writer: Writer, reading: Reading) -> None:
        self._writer = writer
        self._reading = reading

    async def terminate_jobs(self, queue: QueueKey, reason: str) -> None:
        """Have every unfinished job of a queue terminated; those that run end later.

        Each is terminated as by TerminateJob. Repeated, it does no harm: the first reason stays.
        """
        for state in _UNFINISHED:
            before: int | None = None
            while jobs := await self._page(queue, state, before):
                await asyncio.gather(*(self._terminate(job.key, reason) for job in jobs))
                before = jobs[-1].sequence

    async def _page(self, queue: QueueKey, state: JobState, before: int | None) -> list[Job]:
        return await self._reading.ask(lambda reader: reader.page(queue, state, before, JOBS_AT_ONCE))

    async def _terminate(self, key: JobKey, reason: str) -> None:
        await self._writer.do(lambda group: group.terminate(key, reason), key)


class SettlementServicer(ResourceSettlementServiceServicer):
    """Lets the registry be sure that the store obeys a change."""

    def __init__(self, copies: ResourceCopies, definitions: Definitions, endings: QueueEndings) -> None:
        self._copies = copies
        self._definitions = definitions
        self._endings = endings

    async def SettleResources(  # noqa: N802  # the name of the RPC
        self, request: SettleResourcesRequest, context: object
    ) -> SettleResourcesResponse:
        """Take the changes in; first, if that is asked for, end the jobs of queues that go."""
        if request.end_jobs_reason:
            for change in request.changes:
                if change.job_queue.status == ResourceStatus.RESOURCE_STATUS_DELETING:
                    queue = QueueKey(change.namespace, change.job_queue.job_queue_name)
                    await self._endings.terminate_jobs(queue, request.end_jobs_reason)
        self._definitions.take(request.changes)
        await self._copies.take(request.changes)
        return SettleResourcesResponse()

    async def WithdrawJobDefinition(  # noqa: N802
        self, request: WithdrawJobDefinitionRequest, context: object
    ) -> WithdrawJobDefinitionResponse:
        """Ask again which revision of a definition is the newest."""
        self._definitions.withdraw(request.namespace, request.job_definition_name)
        return WithdrawJobDefinitionResponse()
