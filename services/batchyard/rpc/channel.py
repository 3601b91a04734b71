"""Calls between services of one process: the shape and the semantics of `grpc.aio`, without a socket.

Generated code registers servicers with an `InProcessServer` and makes stubs from an `InProcessChannel` as it does with
a real server and channel. `tests/conformance` runs one suite on both. Authentication and compression have no meaning
here and are ignored; handlers must be asynchronous.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeAlias

import grpc
import grpc.aio
from grpc.aio import UsageError

from batchyard.rpc.inprocess.calls import Deserializer, Serializer
from batchyard.rpc.inprocess.exchange import Exchange, MetadataItems, Outcome
from batchyard.rpc.inprocess.handling import handle
from batchyard.rpc.inprocess.multicallables import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from batchyard.rpc.interception import Handler

_LOG: Final = logging.getLogger(__name__)

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""The largest message that any server or client of ours receives: a hundred jobs, however large, can be described at
once. Clients made by others receive 4 MiB unless told otherwise; every stream's messages stay below that."""

_Lookup: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


@dataclass(slots=True)
class _CallDetails:
    method: str
    invocation_metadata: Any


class InProcessServer(grpc.aio.Server):
    """A server for the channels of its own process.

    It owns the tasks of the calls in progress, from `start` until `stop` has returned. Calls that come before or after
    fail with UNAVAILABLE or, before and with `wait_for_ready`, wait.
    """

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._interceptors = interceptors
        self._generic_handlers: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Handler] = {}
        """Those that have been asked for, by method: services do not change what they serve."""
        self._lookup: _Lookup = self._query_handlers
        self._calls: dict[asyncio.Task[None], Exchange] = {}
        self._state_changed = asyncio.Event()
        self.message_bytes_max: Final = message_bytes_max
        """The largest message that passes in either direction, in bytes."""
        self.state = grpc.ChannelConnectivity.CONNECTING
        """CONNECTING until `start`, READY until `stop`, then SHUTDOWN."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Register methods."""
        self._generic_handlers.extend(generic_rpc_handlers)
        self._handlers.clear()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Do nothing: generated code registers the same methods as generic handlers too."""

    def add_insecure_port(self, address: str) -> NoReturn:
        """Refuse: this server has no ports."""
        raise UsageError("an in-process server has no ports")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> NoReturn:
        """Refuse: this server has no ports."""
        raise UsageError("an in-process server has no ports")

    async def start(self) -> None:
        """Begin to serve."""
        for interceptor in reversed(self._interceptors):
            self._lookup = partial(interceptor.intercept_service, self._lookup)
        self._change_state(grpc.ChannelConnectivity.READY)

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, give those in progress `grace` seconds to finish, then cancel them."""
        self._change_state(grpc.ChannelConnectivity.SHUTDOWN)
        if self._calls and grace:
            await asyncio.wait(self._calls, timeout=grace)
        for exchange in list(self._calls.values()):
            exchange.break_off(Outcome(grpc.StatusCode.UNAVAILABLE, "the server has stopped"))
        while self._calls:
            await asyncio.wait(self._calls)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until the server is stopped; return whether the timeout came first."""
        try:
            async with asyncio.timeout(timeout):
                while self.state is not grpc.ChannelConnectivity.SHUTDOWN:
                    await self._state_changed.wait()
        except TimeoutError:
            return True
        return False

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another than `last`."""
        while self.state is last:
            await self._state_changed.wait()

    def accept(self, exchange: Exchange) -> None:
        """Begin to serve a call, in a task of its own and an empty context."""
        task = asyncio.get_running_loop().create_task(
            self._serve(exchange), name=exchange.method, context=contextvars.Context()
        )
        exchange.handler_task = task
        self._calls[task] = exchange
        task.add_done_callback(self._forget)

    async def _serve(self, exchange: Exchange) -> None:
        if exchange.wait_for_ready and self.state is grpc.ChannelConnectivity.CONNECTING:
            await self.wait_for_state_change(grpc.ChannelConnectivity.CONNECTING)
        if self.state is not grpc.ChannelConnectivity.READY:
            exchange.finish(Outcome(grpc.StatusCode.UNAVAILABLE, "the server is not running"))
            return
        try:
            handler = await self._lookup(_CallDetails(exchange.method, exchange.invocation_metadata))
            if handler is None:
                exchange.finish(Outcome(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
            else:
                await handle(handler, exchange)
        except Exception as error:
            _LOG.exception("%s cannot be handled", exchange.method)
            exchange.finish(Outcome(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"))

    async def _query_handlers(self, details: grpc.HandlerCallDetails) -> Handler | None:
        known = self._handlers.get(details.method)
        if known is not None:
            return known
        for generic_handler in self._generic_handlers:
            handler = generic_handler.service(details)
            if handler is not None:
                self._handlers[details.method] = handler
                return handler
        return None

    def _forget(self, task: asyncio.Task[None]) -> None:
        exchange = self._calls.pop(task)
        exchange.handler_task = None  # its context leads back to the call: the two would be a cycle
        exchange.finish(Outcome(grpc.StatusCode.CANCELLED, "the handler was cancelled"))

    def _change_state(self, state: grpc.ChannelConnectivity) -> None:
        self.state = state
        changed, self._state_changed = self._state_changed, asyncio.Event()
        changed.set()


class InProcessChannel(grpc.aio.Channel):
    """A channel to a server of this process. Closing it cancels its calls."""

    def __init__(self, server: InProcessServer) -> None:
        self._server = server
        self._open: set[Exchange] = set()
        self._closed = False

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool = False,
    ) -> UnaryUnary[Any, Any]:
        """Return a callable for a method with one request and one response."""
        return UnaryUnary(self._begin, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool = False,
    ) -> UnaryStream[Any, Any]:
        """Return a callable for a method with one request and a stream of responses."""
        return UnaryStream(self._begin, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool = False,
    ) -> StreamUnary[Any, Any]:
        """Return a callable for a method with a stream of requests and one response."""
        return StreamUnary(self._begin, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool = False,
    ) -> StreamStream[Any, Any]:
        """Return a callable for a method with streams both ways."""
        return StreamStream(self._begin, method, request_serializer, response_deserializer)

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls, give those in progress `grace` seconds to finish, then cancel them."""
        self._closed = True
        if self._open and grace:
            outcomes = [asyncio.ensure_future(exchange.wait_for_outcome()) for exchange in self._open]
            await asyncio.wait(outcomes, timeout=grace)
            for outcome in outcomes:
                outcome.cancel()
        for exchange in list(self._open):
            exchange.cancel("Channel closed.")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the server's state, or SHUTDOWN once closed."""
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else self._server.state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the server's state is another."""
        await self._server.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the server serves."""
        while self._server.state is not grpc.ChannelConnectivity.READY:
            await self._server.wait_for_state_change(self._server.state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def _begin(self, method: str, metadata: MetadataItems, timeout_s: float | None, wait_for_ready: bool) -> Exchange:
        if self._closed:
            raise UsageError("Channel is closed.")
        exchange = Exchange(
            method,
            metadata,
            timeout_s=timeout_s,
            wait_for_ready=wait_for_ready,
            message_bytes_max=self._server.message_bytes_max,
        )
        self._open.add(exchange)
        exchange.add_done_callback(partial(self._open.discard, exchange))
        self._server.accept(exchange)
        return exchange
