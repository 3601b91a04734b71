"""Methods made of functions, served over either transport."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceServicer
from batchyard.rpc.channel import MESSAGE_BYTES_MAX, InProcessChannel, InProcessServer
from support.contexts import stopped

SERVICE = "batchyard.test.Methods"

Function = Callable[[Any, Any], Any]


@dataclass
class Stub:
    """One method of each shape, from StringValue to StringValue."""

    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        codecs = (StringValue.SerializeToString, StringValue.FromString)
        self.unary_unary: Any = self.channel.unary_unary(f"/{SERVICE}/UnaryUnary", *codecs)
        self.unary_stream: Any = self.channel.unary_stream(f"/{SERVICE}/UnaryStream", *codecs)
        self.stream_unary: Any = self.channel.stream_unary(f"/{SERVICE}/StreamUnary", *codecs)
        self.stream_stream: Any = self.channel.stream_stream(f"/{SERVICE}/StreamStream", *codecs)


class Transport(Protocol):
    """A way to serve functions and to call them."""

    def __call__(
        self, *, interceptors: Sequence[grpc.aio.ServerInterceptor] = (), **functions: Function
    ) -> AbstractAsyncContextManager[Stub]: ...


_MAKERS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


def register(server: grpc.aio.Server, functions: dict[str, Function]) -> None:
    """Add functions, named by their shape, as methods of `SERVICE`."""
    handlers = {
        shape.title().replace("_", ""): _MAKERS[shape](function, StringValue.FromString, StringValue.SerializeToString)
        for shape, function in functions.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@asynccontextmanager
async def in_process(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor] = (), **functions: Function
) -> AsyncIterator[Stub]:
    server = InProcessServer(interceptors)
    register(server, functions)
    await server.start()
    try:
        async with InProcessChannel(server) as channel:
            yield Stub(channel)
    finally:
        await stopped(server)


@asynccontextmanager
async def over_a_socket(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor] = (), **functions: Function
) -> AsyncIterator[Stub]:
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    server = grpc.aio.server(interceptors=interceptors, options=options)
    register(server, functions)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield Stub(channel)
    finally:
        await stopped(server)


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def failure_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Return the error that a call must end with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


async def _unimplemented(_servicer: LogsServiceServicer, request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test has no such method")


class PartialLogs(LogsServiceServicer):
    """A logs service of which tests write the methods that they call."""

    DescribeLogGroups = DescribeLogStreams = FilterLogEvents = _unimplemented
