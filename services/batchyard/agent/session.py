"""The agent's session with the scheduler: one stream, opened again whenever it breaks.

A heartbeat that is answered allows the runtime to run jobs until the lease is over, counted from before the heartbeat
was sent: so the agent's deadline is always the earlier one, however long the answer took.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

import anyio
import grpc.aio

from batchyard.agent.convert import demands_of, report_of
from batchyard.agent.host import Epochs, OutdatedSchedulerError
from batchyard.agent.lease import Heartbeats
from batchyard.agent.logs import UnshippedLogs
from batchyard.agent.reconcile import Reconciler
from batchyard.agent.runtimes import Runtime
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.domain.clock import Clock
from batchyard.domain.errors import StaleIncarnationError, UnavailableError
from batchyard.rpc.errors import domain_errors
from batchyard.rpc.reconnect import reconnecting

if TYPE_CHECKING:
    from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceAsyncStub

WELCOME_PATIENCE_S: Final = 30.0
SILENCE_HEARTBEATS: Final = 3
"""After so many heartbeat intervals without a word the stream counts as dead."""
REPORTS_PER_MESSAGE_MAX: Final = 5000


_log = logging.getLogger(__name__)


class GivenUpError(Exception):
    """The scheduler does not accept this incarnation any more: its jobs may run elsewhere by now."""


class Session:
    """Keeps an incarnation's session."""

    def __init__(
        self,
        stub: "AgentSessionServiceAsyncStub",
        register: Callable[[], session_pb2.Registration],
        follow: Callable[[Epochs], None],
        *,
        reconciler: Reconciler,
        runtime: Runtime,
        clock: Clock,
        welcomed: Callable[[], None],
        heard: Callable[[], None],
        unshipped: UnshippedLogs | None,
    ) -> None:
        """`register` makes a registration that lacks the runs; `follow` is IdentityKeeper's.

        `welcomed` is called at every welcome, `heard` after every message that was dealt with. How many logs are
        `unshipped` is told; None: the logs stay here.
        """
        self._stub = stub
        self._register = register
        self._follow = follow
        self._reconciler = reconciler
        self._runtime = runtime
        self._clock = clock
        self._welcomed = welcomed
        self._heard = heard
        self._something_to_send = asyncio.Event()
        self._heartbeats = Heartbeats()
        self._refusal = ""
        self._unshipped = unshipped or UnshippedLogs()
        self._unshipped_told = 0

    def wake(self) -> None:
        """Have new reports sent."""
        self._something_to_send.set()

    async def keep(self) -> NoReturn:
        """Connect again and again until cancelled.

        Raises GivenUpError when the scheduler refuses this incarnation, RuntimeLostError when the runtime is lost.
        """
        await reconnecting(self._attempt, name="the session with the scheduler")

    async def _attempt(self) -> None:
        try:
            with domain_errors():
                await self._converse()
        except StaleIncarnationError as error:
            raise GivenUpError(error.message) from error
        except OutdatedSchedulerError as error:
            # Said once, also when the outage began with something else.
            if self._refusal != error.message:
                self._refusal = error.message
                _log.warning("no session: %s", error.message)
            raise

    async def _converse(self) -> None:
        """Register and exchange messages until the stream ends, with an exception."""
        call = self._stub.Connect()
        try:
            self._heartbeats.begin_session()
            now = self._clock.monotonic_s()
            first = session_pb2.ConnectRequest(registration=self._register(), heartbeat=self._heartbeats.next(now))
            first.unshipped_logs = self._unshipped_told = len(self._unshipped)
            first.registration.runs.extend(report_of(run, now) for run in self._reconciler.everything())
            await call.write(first)
            with anyio.fail_after(WELCOME_PATIENCE_S):
                response = await _read(call)
                while not response.HasField("welcome"):
                    response = await _read(call)
            welcome = response.welcome
            await self._handle(response, welcome)
            self._welcomed()
            await self._exchange(call, welcome)
        finally:
            call.cancel()

    async def _exchange(self, call: "_Call", welcome: session_pb2.Welcome) -> None:
        interval_s = welcome.heartbeat_interval_ms / 1000
        failures: list[Exception] = []

        async def speak() -> None:
            try:
                await self._send(call, interval_s)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The stream has ended: the reader learns why.
                return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speak)
            try:
                while True:
                    with anyio.fail_after(SILENCE_HEARTBEATS * interval_s):
                        response = await _read(call)
                    await self._handle(response, welcome)
            except Exception as error:
                failures.append(error)
            tasks.cancel_scope.cancel()
        for failure in failures:
            raise failure

    async def _send(self, call: "_Call", interval_s: float) -> None:
        loop = asyncio.get_running_loop()
        next_heartbeat = loop.time()
        while True:
            timer = loop.call_at(next_heartbeat, self._something_to_send.set)
            try:
                await self._something_to_send.wait()
            finally:
                timer.cancel()
            self._something_to_send.clear()
            request = session_pb2.ConnectRequest()
            if (time := loop.time()) >= next_heartbeat:
                next_heartbeat = time + interval_s
                self._reconciler.next_round()
                request.heartbeat = self._heartbeats.next(self._clock.monotonic_s())
            reports = self._reconciler.take_reports(REPORTS_PER_MESSAGE_MAX)
            now = self._clock.monotonic_s()
            request.reports.extend(report_of(record, now) for record in reports)
            if self._reconciler.has_reports():
                self.wake()
            request.unshipped_logs = len(self._unshipped)
            if request.heartbeat or reports or request.unshipped_logs != self._unshipped_told:
                self._unshipped_told = request.unshipped_logs
                await call.write(request)

    async def _handle(self, response: session_pb2.ConnectResponse, welcome: session_pb2.Welcome) -> None:
        if response.HasField("welcome"):  # the first, or that of the same scheduler when it leads anew
            self._follow((response.welcome.store_epoch, response.welcome.leader_epoch))
            self._reconciler.follow(response.welcome.store_epoch)
        if response.heartbeat:
            term = self._heartbeats.answered(response.heartbeat, welcome.lease_ms / 1000)
            if term is not None:
                await self._runtime.renew_lease(*term)
        orders = self._reconciler.demand(demands_of(response))
        if orders:
            await self._runtime.carry_out(orders)
        if self._reconciler.has_reports():
            self.wake()
        self._heard()


_Call = grpc.aio.StreamStreamCall[session_pb2.ConnectRequest, session_pb2.ConnectResponse]


async def _read(call: _Call) -> session_pb2.ConnectResponse:
    """Return the next message; raise UnavailableError at the proper end of the stream, AioRpcError at any other."""
    response = await call.read()
    if isinstance(response, session_pb2.ConnectResponse):
        return response
    raise UnavailableError("the scheduler has ended the stream")
