"""One way to wrap the methods of a server, whatever their call shape."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
import grpc.aio

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # generic in its stubs only
Behavior: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
"""A method as a coroutine function of the request (or an iterator of requests) and the context.

One whose responses are a stream writes them to the context and returns None.
"""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a server, as an interceptor sees it."""

    path: str
    """`/package.Service/Method`."""
    request_streaming: bool
    response_streaming: bool
    parses: bool = True
    """Whether requests reach the method as messages; else as the bytes that came, to be passed on."""


class CallInterceptor(grpc.aio.ServerInterceptor, ABC):
    """An interceptor that wraps each method once, not at each call, and sees one shape instead of four."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    @abstractmethod
    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Return what is to be called in place of `behavior`; `behavior` itself to leave the method alone."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's wrapped handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        known = self._wrapped.get(path)
        if known is None or known[0] is not handler:
            known = self._wrapped[path] = (handler, self.wrapped(path, handler))
        return known[1]

    def wrapped(self, path: str, handler: Handler) -> Handler:
        """Return what is to handle the calls of a method in place of its handler."""
        parses = cast("Any", handler).request_deserializer is not None
        method = Method(path, handler.request_streaming, handler.response_streaming, parses)
        inner = behavior_of(handler)
        outer = self.around(method, inner)
        return handler if outer is inner else _with_behavior(handler, outer)


class Layers(CallInterceptor):
    """Several interceptors as one, outermost first: a server goes through its interceptors at each call."""

    def __init__(self, *interceptors: CallInterceptor) -> None:
        super().__init__()
        self._interceptors = interceptors

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Wrap a method in all of them."""
        for interceptor in reversed(self._interceptors):
            behavior = interceptor.around(method, behavior)
        return behavior


class WrappedMethods(grpc.GenericRpcHandler):
    """The methods of a server, wrapped; stands in for the server where services are registered.

    The interceptors of `grpc.aio` cost more: they are gone through at each call, by way of functions that refer to
    themselves, which only the garbage collector gets rid of.
    """

    def __init__(self, interceptor: CallInterceptor) -> None:
        self._interceptor = interceptor
        self._services: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Handler] = {}
        """Of the methods that were called."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Register methods."""
        self._services.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Do nothing: generated code registers the same methods as generic handlers too."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the wrapped handler of a method, or None if there is no such method."""
        path = handler_call_details.method
        known = self._handlers.get(path)
        if known is None:
            found = next(filter(None, (service.service(handler_call_details) for service in self._services)), None)
            if found is None:
                return None
            known = self._handlers[path] = self._interceptor.wrapped(path, found)
        return known


def behavior_of(handler: Handler) -> Behavior:
    """Return a handler's method in the one shape that all interceptors see."""
    method = _method_of(handler)
    return partial(_write_all, method) if handler.response_streaming else method


def _method_of(handler: Handler) -> Any:
    shapes = cast("Any", handler)
    if handler.request_streaming:
        return shapes.stream_stream if handler.response_streaming else shapes.stream_unary
    return shapes.unary_stream if handler.response_streaming else shapes.unary_unary


async def _write_all(method: Callable[[Any, Context], Any], request: Any, context: Context) -> None:
    responses = method(request, context)
    if not hasattr(responses, "__aiter__"):
        await responses  # it writes to the context itself
        return
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


def _with_behavior(handler: Handler, behavior: Behavior) -> Handler:
    if handler.request_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
    codecs = cast("Any", handler)
    return make(behavior, codecs.request_deserializer, codecs.response_serializer)
