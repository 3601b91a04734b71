"""The scheduler's end of the dispatch stream: what the job store says goes in, what the outbox holds goes out."""

from typing import TYPE_CHECKING, Final

import anyio
import grpc.aio

from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.outbox import StoreOutbox

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceAsyncStub


class StoreConnection:
    """Follows the job store, one stream at a time."""

    def __init__(self, job_store: grpc.aio.Channel, scheduler: Scheduler, *, scheduler_id: str) -> None:
        self._stub: DispatchServiceAsyncStub = DispatchServiceStub(job_store)
        self._scheduler = scheduler
        self._hello: Final = wire.DispatchRequest(hello=wire.SchedulerHello(scheduler_id=scheduler_id))

    async def follow(self) -> None:
        """Open a stream and follow it until it ends, which is an AioRpcError unless it ended in order."""
        call = self._stub.Dispatch()
        outbox = StoreOutbox()
        try:
            await call.write(self._hello)
            self._scheduler.store_opened(outbox)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_send, call, outbox)
                while isinstance(response := await call.read(), wire.DispatchResponse):
                    self._scheduler.store_said(response)
                tasks.cancel_scope.cancel()
        finally:
            self._scheduler.store_closed(outbox)
            call.cancel()


async def _send(
    call: grpc.aio.StreamStreamCall[wire.DispatchRequest, wire.DispatchResponse], outbox: StoreOutbox
) -> None:
    while True:
        await call.write(await outbox.take())
