"""The registry, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import grpc.aio

from batchyard.api.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from batchyard.api.scheduler.v1.job_tags_service_pb2_grpc import JobTagsServiceStub
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import (
    ResourceSettlementServiceStub,
    add_ResourceWatchServiceServicer_to_server,
)
from batchyard.domain.clock import Clock
from batchyard.domain.compat import Compat
from batchyard.domain.names import ResourceKind
from batchyard.registry.definitions import Definitions
from batchyard.registry.environments import Environments
from batchyard.registry.newest import NewestDefinitions
from batchyard.registry.policies import Policies
from batchyard.registry.queues import Queues
from batchyard.registry.records import open_records
from batchyard.registry.service import RegistryServicer
from batchyard.registry.settlement import Settlements, take_back_undecided
from batchyard.registry.tags import Tags
from batchyard.registry.watch import ResourceWatchServicer
from batchyard.rpc.server import Service

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.job_tags_service_pb2_grpc import JobTagsServiceAsyncStub
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceSettlementServiceAsyncStub


@asynccontextmanager
async def open_registry(
    *,
    database: Path,
    job_store: grpc.aio.Channel,
    clock: Clock,
    durable: bool = True,
    compat: Compat = Compat.SEED,
) -> AsyncIterator[Sequence[Service]]:
    """Open the registry on a database file, for the length of the context; yield its services.

    One registry at a time may have the file. `job_store` is called only for changes that it must settle, and for
    the tags of jobs.
    While it cannot write, its services' health says so. Raises MigrationError for a database of a newer version.
    """
    async with open_records(database, clock, durable=durable) as records, anyio.create_task_group() as tasks:
        taken_back = await records.write(take_back_undecided)
        settling: ResourceSettlementServiceAsyncStub = ResourceSettlementServiceStub(job_store)
        job_tags: JobTagsServiceAsyncStub = JobTagsServiceStub(job_store)
        settlements = Settlements(records, settling, tasks)
        newest = NewestDefinitions(records, settling, clock)
        for stored in taken_back:
            if stored.key.kind is ResourceKind.JOB_DEFINITION:
                await newest.withdraw(stored.key.namespace, stored.key.name)
        await settlements.resume_deletions()
        registry = RegistryServicer(
            Environments(records, compat),
            Queues(records, settlements, compat),
            Definitions(records, settlements, newest),
            Policies(records),
            Tags(records, newest, job_tags),
        )
        watch = ResourceWatchServicer(records, newest)
        yield [
            Service.of(add_RegistryServiceServicer_to_server, registry, records.health),
            Service.of(add_ResourceWatchServiceServicer_to_server, watch, records.health),
        ]
        tasks.cancel_scope.cancel()
