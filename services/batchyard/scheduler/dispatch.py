"""The scheduler's end of the dispatch stream: what the job store says goes in, what the outbox holds goes out."""

import contextlib
import math
from typing import TYPE_CHECKING, Final

import anyio
import grpc.aio
from anyio.abc import TaskGroup

from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from batchyard.domain.clock import Clock
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.outbox import StoreOutbox

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceAsyncStub


RESIGN_PATIENCE_S: Final = 0.5
HEARTBEATS_A_LEASE: Final = 4

_Call = grpc.aio.StreamStreamCall[wire.DispatchRequest, wire.DispatchResponse]


class StoreConnection:
    """Follows the job store, one stream at a time, and keeps the leadership that the store grants."""

    def __init__(self, job_store: grpc.aio.Channel, scheduler: Scheduler, *, scheduler_id: str, clock: Clock) -> None:
        self._stub: DispatchServiceAsyncStub = DispatchServiceStub(job_store)
        self._scheduler = scheduler
        self._clock = clock
        self._hello: Final = wire.DispatchRequest(
            hello=wire.SchedulerHello(scheduler_id=scheduler_id, jobs_a_line=scheduler.jobs_a_line)
        )
        self._sent_at: dict[int, float] = {}
        self._heartbeat = 0
        self._resigns = False

    async def follow(self) -> None:
        """Open a stream and follow it until it ends, which is an AioRpcError unless it ended in order."""
        call = self._stub.Dispatch()
        outbox = StoreOutbox()
        self._sent_at.clear()
        try:
            await call.write(self._hello)
            self._scheduler.store_opened(outbox)
            async with anyio.create_task_group() as tasks:
                ended = anyio.Event()
                tasks.start_soon(_send, call, outbox)
                tasks.start_soon(self._read, call, outbox, tasks, ended)
                try:
                    await ended.wait()
                finally:
                    if not ended.is_set():
                        self._resigns = True
                        await _resign(call, ended)
                    call.cancel()
                    tasks.cancel_scope.cancel()
        finally:
            self._scheduler.store_closed(outbox)
            call.cancel()

    async def _read(self, call: _Call, outbox: StoreOutbox, tasks: TaskGroup, ended: anyio.Event) -> None:
        """Take in what the store says until the stream ends, or the call is cancelled.

        gRPC cancels a call of which a read is cancelled, and then nothing can be said on it any more: not even that
        this scheduler resigns.
        """
        lease_s = 0.0
        try:
            with anyio.CancelScope(shield=True):
                while isinstance(response := await call.read(), wire.DispatchResponse):
                    if response.HasField("welcome"):
                        lease_s = response.welcome.lease_ms / 1000
                        self._welcomed(lease_s, outbox, tasks)
                    if (sent_at := self._sent_at.pop(response.heartbeat, None)) is not None:
                        self._scheduler.leadership_renewed(sent_at + lease_s)
                    self._scheduler.store_said(response)
        except grpc.aio.AioRpcError:
            # The store ends the stream of a scheduler that resigns.
            if not self._resigns:
                raise
        finally:
            ended.set()

    def _welcomed(self, lease_s: float, outbox: StoreOutbox, tasks: TaskGroup) -> None:
        if lease_s:
            tasks.start_soon(self._keep_leading, lease_s, outbox)
        else:
            self._scheduler.leadership_renewed(math.inf)

    async def _keep_leading(self, lease_s: float, outbox: StoreOutbox) -> None:
        while True:
            self._heartbeat += 1
            # Before it is sent: so this end of the lease always comes before the store's.
            self._sent_at[self._heartbeat] = self._clock.monotonic_s()
            outbox.beat(self._heartbeat)
            await anyio.sleep(lease_s / HEARTBEATS_A_LEASE)


async def _send(call: _Call, outbox: StoreOutbox) -> None:
    while True:
        request = await outbox.take()
        # For the same reason as a read.
        with anyio.CancelScope(shield=True):
            await call.write(request)


async def _resign(call: _Call, ended: anyio.Event) -> None:
    """Let another scheduler lead at once, if the store can still be told."""
    with anyio.move_on_after(RESIGN_PATIENCE_S, shield=True), contextlib.suppress(Exception):
        await call.write(wire.DispatchRequest(resign=True))
        await call.done_writing()
        await ended.wait()
