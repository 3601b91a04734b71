"""An agent's work with one open runtime: follows it, keeps the session, begins incarnations, and ends in order."""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from batchyard.agent.convert import fence_message
from batchyard.agent.host import IdentityKeeper
from batchyard.agent.launcher import wire
from batchyard.agent.launcher.ledger import Fence, Need
from batchyard.agent.logs import LogTracker
from batchyard.agent.reconcile import Reconciler
from batchyard.agent.runtimes import Runtime, RuntimeLostError
from batchyard.agent.session import GivenUpError, Session
from batchyard.agent.state import Orders
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.domain.clock import Clock
from batchyard.rpc.log_context import job_fields

if TYPE_CHECKING:
    from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceAsyncStub

STOP_GRACE_S: Final = 1.0
STOP_PATIENCE_S: Final = 2.0
"""When jobs end with the agent: how long they have after SIGTERM, and how long all of it may take."""

COALESCE_S: Final = 0.002
"""After news were passed on at once, what comes within this time shares the next message."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the agent says of its host."""

    runtime: str
    capacity: Need
    compute_environments: tuple[str, ...]


class Shift:
    """The time from the opening of a runtime until it is lost or the agent stops."""

    def __init__(
        self,
        runtime: Runtime,
        stub: "AgentSessionServiceAsyncStub",
        host: HostFacts,
        *,
        identity: IdentityKeeper,
        tracker: LogTracker,
        clock: Clock,
        welcomed: Callable[[], None],
        stop_timeout_s: float | None = None,
    ) -> None:
        self._runtime = runtime
        self._host = host
        self._identity = identity
        self._tracker = tracker
        self._reconciler = Reconciler(stop_timeout_s)
        self._claimed_before: list[Fence] = list(runtime.claimed_before)
        self._news = anyio.Event()
        self._session = Session(
            stub,
            self._registration,
            identity.follow,
            reconciler=self._reconciler,
            runtime=runtime,
            clock=clock,
            welcomed=welcomed,
            heard=self._notify,
            unshipped=tracker.unshipped,
        )
        if tracker.unshipped is not None:
            tracker.unshipped.changed = self._session.wake

    async def run(self, stopping: anyio.Event, *, stop_jobs: bool) -> None:
        """Work until the runtime is lost, or until told to stop; then, if asked to, end all jobs first."""
        try:
            await self._take_news()
            self._begin_incarnation()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tracker.run)
                tasks.start_soon(self._follow)
                tasks.start_soon(self._keep_session)
                await stopping.wait()
                if stop_jobs:
                    await self._stop_jobs()
                tasks.cancel_scope.cancel()
        except* RuntimeLostError as lost:
            _log.warning("the runtime is lost: %s", lost.exceptions[0])

    def _begin_incarnation(self) -> None:
        """Begin a new incarnation, unless what holds the runs still is what held them before."""
        if self._identity.identity.instance != self._runtime.instance:
            self._identity.begin_incarnation(self._host.runtime, self._runtime.instance)

    async def _follow(self) -> None:
        while True:
            await self._take_news()
            await anyio.sleep(COALESCE_S)

    async def _take_news(self) -> None:
        records = await self._runtime.changes()
        if _log.isEnabledFor(logging.DEBUG):
            for record in records:
                _log.debug("the run is %s", record.state.name, extra=job_fields(record.job_id))
        # Before the end of a run is reported: whoever sees the end finds the log complete.
        await self._tracker.observe(records)
        orders = self._reconciler.observe(records)
        if orders:
            await self._runtime.carry_out(orders)
        self._session.wake()
        self._notify()

    async def _keep_session(self) -> None:
        while True:
            try:
                await self._session.keep()
            except GivenUpError as error:
                _log.warning("given up by the scheduler, ending all jobs: %s", error)
                await self._runtime.carry_out(self._reconciler.end_all(grace_s=0))
                await self._until(self._reconciler.is_quiet)
                self._identity.begin_incarnation(self._host.runtime, self._runtime.instance)

    async def _stop_jobs(self) -> None:
        self._reconciler.close()
        await self._runtime.carry_out(self._reconciler.end_all(STOP_GRACE_S))
        with anyio.move_on_after(STOP_PATIENCE_S):
            await self._until(self._reconciler.is_quiet)
            await self._until(self._reconciler.is_empty)
        await self._runtime.release()

    def _notify(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    def _registration(self) -> session_pb2.Registration:
        identity = self._identity.identity
        vcpus_milli, memory_mib, gpus = self._host.capacity
        return session_pb2.Registration(
            agent_id=identity.agent_id,
            incarnation=identity.incarnation,
            boot_id=wire.boot_id(),
            hostname=socket.gethostname(),
            runtime=self._host.runtime,
            capacity=session_pb2.Capacity(vcpus_milli=vcpus_milli, memory_mib=memory_mib, gpus=gpus),
            compute_environments=self._host.compute_environments,
            claimed_before=[fence_message(fence) for fence in self._claimed_before],
        )


async def end_everything(runtime: Runtime) -> None:
    """Kill all that a runtime runs, wait until it is dead, and release it."""
    reconciler = Reconciler()
    reconciler.observe(await runtime.changes())
    orders: Orders = reconciler.end_all(grace_s=0)
    await runtime.carry_out(orders)
    while not reconciler.is_quiet():
        reconciler.observe(await runtime.changes())
    await runtime.release()
