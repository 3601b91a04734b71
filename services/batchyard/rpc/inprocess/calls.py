"""The client's half of a call, in the shape that `grpc.aio` gives it."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from enum import Enum
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio
from grpc.aio import AioRpcError, Metadata, UsageError

from batchyard.rpc.inprocess.exchange import Exchange

_LOG: Final = logging.getLogger(__name__)

_FINISHED: Final = "RPC already finished."
_HALF_CLOSED: Final = 'RPC is half closed after calling "done_writing".'
_MIXED_STYLES: Final = "The iterator and read/write APIs may not be mixed on a single RPC."
_CANCELLED: Final = "Locally cancelled by application!"
_COLLECTED: Final = "Cancelled upon garbage collection!"

Req = TypeVar("Req")
Res = TypeVar("Res")
Serializer: TypeAlias = Callable[[Any], bytes]
Deserializer: TypeAlias = Callable[[bytes], Any]


class _Style(Enum):
    ITERATOR = "iterator"
    READ_WRITE = "read/write"


class _Call(grpc.aio.Call):
    def __init__(self, exchange: Exchange, serialize: Serializer, deserialize: Deserializer) -> None:
        self._exchange = exchange
        self._serialize = serialize
        self._deserialize = deserialize

    def __del__(self) -> None:
        if self._exchange.outcome is None:
            self._exchange.cancel_from_anywhere(_COLLECTED)

    def cancel(self) -> bool:
        return self._exchange.cancel(_CANCELLED)

    def cancelled(self) -> bool:
        outcome = self._exchange.outcome
        return outcome is not None and outcome.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._exchange.outcome is not None

    def time_remaining(self) -> float | None:
        return self._exchange.time_remaining_s

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.add_done_callback(partial(callback, self))

    async def initial_metadata(self) -> Metadata:
        return Metadata(*await self._exchange.receive_initial_metadata())

    async def trailing_metadata(self) -> Metadata:
        return Metadata(*(await self._exchange.wait_for_outcome()).trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        return (await self._exchange.wait_for_outcome()).code

    async def details(self) -> str:
        return (await self._exchange.wait_for_outcome()).details

    async def debug_error_string(self) -> str:
        outcome = await self._exchange.wait_for_outcome()
        return f"{outcome.code.name}:{outcome.details}"

    async def wait_for_connection(self) -> None:
        if self.done():
            self._raise_unless_ok()

    def _raise_unless_ok(self) -> None:
        """Raise what the outcome, which there must be, calls for."""
        outcome = self._exchange.outcome
        assert outcome is not None
        if outcome.cancelled_by_client:
            raise asyncio.CancelledError
        if outcome.code is not grpc.StatusCode.OK:
            raise AioRpcError(
                outcome.code,
                Metadata(*(self._exchange.initial_metadata or ())),
                Metadata(*outcome.trailing_metadata),
                outcome.details,
                f"{outcome.code.name}:{outcome.details}",
            )


class _UnaryResponse(_Call):
    _response: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        exchange = self._exchange
        if exchange.outcome is None:
            try:
                yield from exchange.wait_for_outcome().__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise
        self._raise_unless_ok()
        if self._response is None:
            message = exchange.responses.take()
            if message is None:
                raise AioRpcError(grpc.StatusCode.INTERNAL, Metadata(), Metadata(), "no response message")
            self._response = self._deserialize(message)
        return self._response


class _StreamResponse(_Call):
    _responses: AsyncIterator[Any] | None = None
    _response_style: _Style | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        self._use_response_style(_Style.ITERATOR)
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def read(self) -> Any:
        self._use_response_style(_Style.READ_WRITE)
        return await self._read()

    async def _iterate(self) -> AsyncIterator[Any]:
        while (response := await self._read()) is not grpc.aio.EOF:
            yield response

    async def _read(self) -> Any:
        try:
            message = await self._exchange.responses.read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is None:
            self._raise_unless_ok()
            return grpc.aio.EOF
        return self._deserialize(message)

    def _use_response_style(self, style: _Style) -> None:
        if self._response_style is None:
            self._response_style = style
        elif self._response_style is not style:
            raise UsageError(_MIXED_STYLES)


class _StreamRequest(_Call):
    _half_closed = False

    def __init__(self, exchange: Exchange, serialize: Serializer, deserialize: Deserializer, requests: Any) -> None:
        super().__init__(exchange, serialize, deserialize)
        self._request_style = _Style.READ_WRITE if requests is None else _Style.ITERATOR
        if requests is not None:
            feeder = asyncio.get_running_loop().create_task(_feed(exchange, serialize, requests))
            exchange.add_done_callback(feeder.cancel)

    async def write(self, request: Any) -> None:
        self._check_request_style()
        if self.done():
            raise asyncio.InvalidStateError(_FINISHED)
        if self._half_closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        try:
            await self._exchange.send_request(self._serialize(request))
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.done():
            self._raise_unless_ok()

    async def done_writing(self) -> None:
        self._check_request_style()
        self._half_closed = True
        self._exchange.requests.close()

    def _check_request_style(self) -> None:
        if self._request_style is not _Style.READ_WRITE:
            raise UsageError(_MIXED_STYLES)


async def _feed(exchange: Exchange, serialize: Serializer, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
    """Send what an iterator gives; an iterator that fails cancels the call, as `grpc.aio` does."""
    try:
        async for request in requests if isinstance(requests, AsyncIterable) else _asynchronously(requests):
            await exchange.send_request(serialize(request))
            if exchange.outcome is not None:
                return
        exchange.requests.close()
    except Exception:
        _LOG.warning("the request iterator of %s failed", exchange.method, exc_info=True)
        exchange.cancel(_CANCELLED)


async def _asynchronously(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Req, Res]):
    """A call with one request and one response."""


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Req, Res]):
    """A call with one request and a stream of responses."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Req, Res]):
    """A call with a stream of requests and one response."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Req, Res]):
    """A call with streams both ways."""
