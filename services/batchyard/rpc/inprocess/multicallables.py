"""What stubs are made of: one callable for each method, in four shapes."""

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, Final, Generic, TypeAlias, TypeVar

import grpc
import grpc.aio

from batchyard.rpc.inprocess import calls
from batchyard.rpc.inprocess.exchange import Exchange, MetadataItems, checked_metadata

Req = TypeVar("Req")
Res = TypeVar("Res")
Requests: TypeAlias = AsyncIterable[Req] | Iterable[Req] | None
Metadata: TypeAlias = Any
OpenExchange: TypeAlias = Callable[[str, MetadataItems, float | None, bool], Exchange]
"""Begins a call of a method, with its metadata, timeout and whether it waits for the server."""


class _MultiCallable:
    def __init__(
        self,
        open_exchange: OpenExchange,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._open_exchange: Final = open_exchange
        self._method: Final = method
        self._serialize: Final = serialize or _unchanged
        self._deserialize: Final = deserialize or _unchanged

    def _begin(self, metadata: Metadata, timeout_s: float | None, wait_for_ready: bool | None) -> Exchange:
        return self._open_exchange(self._method, checked_metadata(metadata), timeout_s, bool(wait_for_ready))


def _unchanged(message: Any) -> Any:
    return message


class UnaryUnary(_MultiCallable, grpc.aio.UnaryUnaryMultiCallable[Req, Res], Generic[Req, Res]):
    """A method with one request and one response."""

    def __call__(
        self,
        request: Req,
        *,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryUnaryCall[Req, Res]:
        """Begin a call."""
        message = self._serialize(request)
        exchange = self._begin(metadata, timeout, wait_for_ready)
        exchange.put_request(message)
        return calls.UnaryUnaryCall(exchange, self._serialize, self._deserialize)


class UnaryStream(_MultiCallable, grpc.aio.UnaryStreamMultiCallable[Req, Res], Generic[Req, Res]):
    """A method with one request and a stream of responses."""

    def __call__(
        self,
        request: Req,
        *,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryStreamCall[Req, Res]:
        """Begin a call."""
        message = self._serialize(request)
        exchange = self._begin(metadata, timeout, wait_for_ready)
        exchange.put_request(message)
        return calls.UnaryStreamCall(exchange, self._serialize, self._deserialize)


class StreamUnary(_MultiCallable, grpc.aio.StreamUnaryMultiCallable[Req, Res], Generic[Req, Res]):
    """A method with a stream of requests and one response."""

    def __call__(
        self,
        request_iterator: Requests[Req] = None,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamUnaryCall[Req, Res]:
        """Begin a call."""
        exchange = self._begin(metadata, timeout, wait_for_ready)
        return calls.StreamUnaryCall(exchange, self._serialize, self._deserialize, request_iterator)


class StreamStream(_MultiCallable, grpc.aio.StreamStreamMultiCallable[Req, Res], Generic[Req, Res]):
    """A method with streams both ways."""

    def __call__(
        self,
        request_iterator: Requests[Req] = None,
        timeout: float | None = None,
        metadata: Metadata = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamStreamCall[Req, Res]:
        """Begin a call."""
        exchange = self._begin(metadata, timeout, wait_for_ready)
        return calls.StreamStreamCall(exchange, self._serialize, self._deserialize, request_iterator)
