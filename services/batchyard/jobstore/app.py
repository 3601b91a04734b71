"""The job store, put together."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import grpc.aio

from batchyard.api.jobs.v1.jobs_service_pb2_grpc import add_JobsServiceServicer_to_server
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import add_JobOperationsServiceServicer_to_server
from batchyard.api.operations.v1.overview_service_pb2_grpc import add_OverviewServiceServicer_to_server
from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import add_DispatchServiceServicer_to_server
from batchyard.api.scheduler.v1.job_tags_service_pb2_grpc import add_JobTagsServiceServicer_to_server
from batchyard.api.scheduler.v1.log_retention_service_pb2_grpc import add_LogRetentionServiceServicer_to_server
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import add_ResourceSettlementServiceServicer_to_server
from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import add_SubmissionsServiceServicer_to_server
from batchyard.domain.clock import Clock
from batchyard.domain.compat import Compat
from batchyard.domain.jobs import job_ids
from batchyard.jobstore.blocked import BlockedQueues
from batchyard.jobstore.counts import JobCounts
from batchyard.jobstore.definitions import Definitions
from batchyard.jobstore.dispatch import DispatchServicer
from batchyard.jobstore.effects import Committed
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.fronts import Fronts
from batchyard.jobstore.leadership import Leadership, holder_of
from batchyard.jobstore.metrics import count_changes
from batchyard.jobstore.operations import JobOperationsServicer
from batchyard.jobstore.overview import EndedJobs, OverviewServicer
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.reasons import WaitReasons
from batchyard.jobstore.resources import ResourceCopies
from batchyard.jobstore.retention import RETENTION_S, LogRetentionServicer, Retention
from batchyard.jobstore.service import JobsServicer
from batchyard.jobstore.settlement import QueueEndings, SettlementServicer
from batchyard.jobstore.submissions import SubmissionsServicer
from batchyard.jobstore.submitter import Submitter
from batchyard.jobstore.tags import JobTagsServicer
from batchyard.jobstore.timelimits import TimeLimits
from batchyard.jobstore.trace import trace_changes
from batchyard.jobstore.writer import Writer
from batchyard.rpc.health import Health
from batchyard.rpc.reconnect import reconnecting
from batchyard.rpc.server import Service
from batchyard.storage.jobs import Counters
from batchyard.storage.sqlite.database import open_database

LEADER_LEASE_S: Final = 10.0


class _Numbers:
    """What the newest opening of the store said."""

    counters: Counters


@asynccontextmanager
async def open_job_store(
    *,
    database: Path,
    registry: grpc.aio.Channel,
    clock: Clock,
    durable: bool = True,
    compat: Compat = Compat.SEED,
    leader_lease_s: float | None = LEADER_LEASE_S,
    faults: bool = False,
    retention_s: float = RETENTION_S,
) -> AsyncIterator[Sequence[Service]]:
    """Open the job store on a SQLite file for the length of the context; yield what it serves.

    With `durable` false an acknowledged job may be lost at a power cut (never at a mere crash). `leader_lease_s` is how
    long a scheduler may lead without hearing from the store; None if the only scheduler is in this very process.
    Finished jobs are kept for `retention_s`. With `faults`, jobs may ask for attempts that fail without running. While
    it cannot write, the health of its services says so.
    """
    feed, numbers, health, reasons = Feed(), _Numbers(), Health(), WaitReasons()
    ended, fronts = EndedJobs(), Fronts()

    def opened(counters: Counters) -> None:
        numbers.counters = counters
        feed.opened(counters)

    def committed(commit: Committed, more: bool) -> None:
        feed.committed(commit, more=more)
        count_changes(commit.changes)
        trace_changes(commit.changes)
        ended.take(commit.changes)

    writer = Writer(database, clock=clock, durable=durable, health=health, opened=opened, committed=committed)
    async with anyio.create_task_group() as tasks:
        await tasks.start(writer.run)
        async with open_database(database, read_only=True) as readable:
            reading = Reading(readable)
            copies = ResourceCopies(writer, registry)
            copies.load(*await reading.ask(lambda reader: (reader.queues(), reader.environments())))
            definitions = Definitions(registry, clock)
            submitter = Submitter(
                writer=writer,
                copies=copies,
                definitions=definitions,
                reading=reading,
                next_job_id=job_ids(numbers.counters.job_id, clock.now_ms, random.SystemRandom().getrandbits),
                compat=compat,
                faults=faults,
            )
            jobs = JobsServicer(
                writer=writer,
                feed=feed,
                reading=reading,
                copies=copies,
                submitter=submitter,
                reasons=reasons,
                fronts=fronts,
                clock=clock,
            )
            dispatch = DispatchServicer(
                writer=writer,
                feed=feed,
                database=database,
                epoch=lambda: numbers.counters.epoch,
                leadership=Leadership(leader_lease_s, holder=holder_of(numbers.counters), now=clock.monotonic_s()),
                reasons=reasons,
                fronts=fronts,
                clock=clock,
                tasks=tasks,
            )
            operations = JobOperationsServicer(feed=feed, reading=reading, submitter=submitter)
            overview = OverviewServicer(reading=reading, feed=feed, ended=ended, clock=clock)
            settlement = SettlementServicer(copies, definitions, QueueEndings(writer=writer, reading=reading))
            tags = JobTagsServicer(writer=writer, reading=reading)
            time_limits = TimeLimits(
                writer=writer, reading=reading, reasons=reasons, limits_of=copies.time_limits, clock=clock
            )
            blocked = BlockedQueues(writer=writer, reading=reading, reasons=reasons)
            counts = JobCounts(reading=reading, revision=lambda: feed.revision, clock=clock)
            retention = Retention(writer, clock, retention_s)
            following = partial(reconnecting, copies.follow, name="registry")
            for run in (following, time_limits.run, blocked.run, counts.run, retention.run):
                tasks.start_soon(run)
            yield [
                Service.of(add_JobsServiceServicer_to_server, jobs, health),
                Service.of(add_JobOperationsServiceServicer_to_server, operations, health),
                Service.of(add_OverviewServiceServicer_to_server, overview, health),
                Service.of(add_DispatchServiceServicer_to_server, dispatch, health),
                Service.of(add_ResourceSettlementServiceServicer_to_server, settlement, health),
                Service.of(add_LogRetentionServiceServicer_to_server, LogRetentionServicer(retention, reading), health),
                Service.of(add_JobTagsServiceServicer_to_server, tags, health),
                Service.of(add_SubmissionsServiceServicer_to_server, SubmissionsServicer(submitter), health),
            ]
            tasks.cancel_scope.cancel()
