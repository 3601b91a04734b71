"""The scheduler, put together."""

import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import grpc.aio
from prometheus_client import REGISTRY

from batchyard.api.agent.v1.agent_session_service_pb2_grpc import add_AgentSessionServiceServicer_to_server
from batchyard.api.operations.v1.agents_service_pb2_grpc import add_AgentsServiceServicer_to_server
from batchyard.domain.clock import Clock
from batchyard.domain.compat import Compat
from batchyard.rpc.peers import Role
from batchyard.rpc.reconnect import reconnecting
from batchyard.rpc.server import Service
from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.dispatch import StoreConnection
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.metrics import AgentGauges
from batchyard.scheduler.resources import ResourceWatch
from batchyard.scheduler.service import AgentSessionServicer, AgentsServicer

__all__ = ["SchedulerConfig", "open_scheduler"]

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_scheduler(
    *, job_store: grpc.aio.Channel, registry: grpc.aio.Channel, clock: Clock, config: SchedulerConfig
) -> AsyncIterator[Sequence[Service]]:
    """Run the scheduler for the length of the context; yield what it serves.

    It connects to the job store and the registry by itself, and again whenever it loses them.
    """
    first = "lower" if config.compat is Compat.SEED else "higher"
    _log.info("among job queues the %s priority number is served first (compat %s)", first, config.compat)
    scheduler = Scheduler(config, clock)
    # The name of this very process: whoever has it leads without waiting for the lease of the one before.
    scheduler_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    store = StoreConnection(job_store, scheduler, scheduler_id=scheduler_id, clock=clock)
    watch = ResourceWatch(registry, scheduler)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run)
        tasks.start_soon(partial(reconnecting, store.follow, name="job store"))
        tasks.start_soon(partial(reconnecting, watch.follow, name="registry"))
        sessions = AgentSessionServicer(scheduler, clock, tasks)
        agents = AgentsServicer(scheduler, clock)
        gauges = AgentGauges(scheduler, clock)
        REGISTRY.register(gauges)
        try:
            yield [
                Service.of(
                    add_AgentSessionServiceServicer_to_server,
                    sessions,
                    callers=frozenset({Role.AGENT}),
                ),
                Service.of(add_AgentsServiceServicer_to_server, agents),
            ]
        finally:
            REGISTRY.unregister(gauges)
        tasks.cancel_scope.cancel()
