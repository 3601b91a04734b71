"""Services behind a gateway that note what reaches them and answer as told, and a client of the gateway's ASGI side."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias, cast

import anyio
import grpc
import grpc.aio
import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.scheduler.v1.submissions_service_pb2 import (
    SubmitJobCall,
    SubmitJobOutcome,
    SubmitTogetherRequest,
    SubmitTogetherResponse,
)
from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import (
    SubmissionsServiceServicer,
    add_SubmissionsServiceServicer_to_server,
)
from batchyard.gateway.app import GatewayAddresses, open_gateway
from batchyard.gateway.aws_errors import STATUS_DETAILS_KEY
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.http_app import HttpApp
from batchyard.gateway.submissions import SUBMIT_JOB
from batchyard.gateway.upstreams import PUBLIC_SERVICES, Upstreams, path_of
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.health import Health, HealthServicer
from batchyard.rpc.http_server import Receive, Scope, Send
from batchyard.rpc.server import Service, serve_grpc
from support.contexts import held_open, stopped

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Behavior: TypeAlias = Callable[[Any, Context], Any]
"""What a method does: a coroutine function, or an async generator function for a stream of responses."""

ACCOUNT: Final = "210987654321"
ANY_PORT: Final = GatewayConfig(port=0, grpc_port=0)


@dataclass(frozen=True, slots=True)
class Received:
    """A call that reached a service."""

    method: str
    request: Any
    metadata: Mapping[str, str]
    time_remaining_s: float | None


@dataclass(slots=True)
class FakeServices:
    """All public services: each method gives an empty response until it is told otherwise."""

    received: list[Received] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    """How many submissions came in each call that was made for several."""
    disk: anyio.Lock = field(default_factory=anyio.Lock)
    """Who holds it keeps such calls from being answered."""
    health: dict[str, Health] = field(
        default_factory=lambda: {descriptor.name: Health() for descriptor in PUBLIC_SERVICES}
    )
    _behaviors: dict[str, Behavior] = field(default_factory=dict)

    def answer(self, method: str, answer: Message | Behavior) -> None:
        """Make a method give this response, or behave like this."""
        self._behaviors[method] = answer if not isinstance(answer, Message) else _giving(answer)

    def services(self) -> list[Service]:
        """Return the services, ready to be registered with a server."""
        together = Service.of(add_SubmissionsServiceServicer_to_server, _Together(self))
        return [*(self._service(descriptor) for descriptor in PUBLIC_SERVICES), together]

    def _service(self, descriptor: ServiceDescriptor) -> Service:
        handlers = {method.name: self._handler(method) for method in descriptor.methods}
        generic = grpc.method_handlers_generic_handler(descriptor.full_name, handlers)
        return Service(descriptor, lambda server: server.add_generic_rpc_handlers((generic,)))

    def _handler(self, method: MethodDescriptor) -> Any:
        codecs = (GetMessageClass(method.input_type).FromString, GetMessageClass(method.output_type).SerializeToString)

        async def unary(request: Any, context: Context) -> Any:
            return await self.call(method, request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            self._note(method, request, context)
            async for response in self._behaviors[method.name](request, context):
                yield response

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, *codecs)
        return grpc.unary_unary_rpc_method_handler(unary, *codecs)

    async def call(self, method: MethodDescriptor, request: Any, context: Context) -> Any:
        """Note a call of a method with one response; do as told."""
        self._note(method, request, context)
        default = _giving(GetMessageClass(method.output_type)())
        return await self._behaviors.get(method.name, default)(request, context)

    def _note(self, method: MethodDescriptor, request: Any, context: Context) -> None:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        self.received.append(Received(method.name, request, metadata, context.time_remaining()))


class _Together(SubmissionsServiceServicer):
    """Submissions that come together, as calls of SubmitJob."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services

    async def SubmitTogether(  # noqa: N802  # the name of the RPC
        self, request: SubmitTogetherRequest, context: Context
    ) -> AsyncIterator[SubmitTogetherResponse]:
        self._services.together.append(len(request.calls))
        calls = enumerate(request.calls)
        async with self._services.disk:
            yield SubmitTogetherResponse()
        for outcome in asyncio.as_completed([self._outcome(index, call, context) for index, call in calls]):
            yield SubmitTogetherResponse(outcomes=[await outcome])

    async def _outcome(self, index: int, call: SubmitJobCall, context: Context) -> SubmitJobOutcome:
        one = _OneOfThem(call.metadata, context)
        try:
            answer = await self._services.call(SUBMIT_JOB, SubmitJobRequest.FromString(call.request), cast("Any", one))
        except grpc.aio.AbortError:
            return SubmitJobOutcome(call=index, status=one.status.SerializeToString())
        return SubmitJobOutcome(call=index, response=answer.SerializeToString())


@dataclass(slots=True)
class _OneOfThem:
    """The context of one of several calls that came together."""

    metadata: Mapping[str, str]
    whole: Context
    status: status_pb2.Status = field(default_factory=status_pb2.Status)

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return tuple(self.metadata.items())

    def time_remaining(self) -> float | None:
        return self.whole.time_remaining()

    async def abort(self, code: grpc.StatusCode, text: str, details: Sequence[tuple[str, bytes]] = ()) -> NoReturn:
        self.status = status_pb2.Status(code=code.value[0], message=text)
        for _, raw in details:
            self.status.MergeFromString(raw)
        raise grpc.aio.AbortError


@asynccontextmanager
async def in_process(services: FakeServices) -> AsyncIterator[Upstreams]:
    """Offer the services through channels without sockets."""
    server = InProcessServer()
    for service in services.services():
        service.register(server)
    health = HealthServicer()
    for descriptor in PUBLIC_SERVICES:
        health.add(descriptor.full_name, services.health[descriptor.name])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await server.start()
    channel = InProcessChannel(server)
    try:
        yield Upstreams(registry=channel, jobs=channel, scheduler=channel, logs=channel)
    finally:
        await channel.close()
        await stopped(server)


def an_app(upstreams: Upstreams, config: GatewayConfig = ANY_PORT) -> HttpApp:
    """Return a gateway's HTTP side by itself, which submits each job in a call of its own."""
    return HttpApp(config, upstreams, upstreams.jobs.unary_unary(path_of(SUBMIT_JOB)))


@asynccontextmanager
async def over_sockets(services: FakeServices) -> AsyncIterator[Upstreams]:
    """Offer the services on a real gRPC server."""
    async with (
        serve_grpc(services.services(), address="127.0.0.1:0") as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Upstreams(registry=channel, jobs=channel, scheduler=channel, logs=channel)


def a_gateway(
    services: FakeServices, config: GatewayConfig = ANY_PORT
) -> AbstractAsyncContextManager[GatewayAddresses]:
    """Run a gateway in front of the services."""

    @asynccontextmanager
    async def both() -> AsyncIterator[GatewayAddresses]:
        async with over_sockets(services) as upstreams, open_gateway(config=config, upstreams=upstreams) as addresses:
            yield addresses

    return held_open(both())


def refusing(code: grpc.StatusCode, text: str, *, reason: str | None = None) -> Behavior:
    """Return the behaviour of a service that refuses; with a reason, in the way of ours, with details."""

    async def refuse(request: Any, context: Context) -> None:
        await context.abort(code, text, () if reason is None else status_details(code, text, reason))

    return refuse


def status_details(code: grpc.StatusCode, text: str, reason: str) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata of an error with an ErrorInfo."""
    status = status_pb2.Status(code=code.value[0], message=text)
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="batchyard"))
    status.details.append(detail)
    return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


def authorization(access_key: str = ACCOUNT, region: str = "eu-west-1", service: str = "batch") -> str:
    """Return an Authorization header as AWS clients send it."""
    scope = f"{access_key}/20300101/{region}/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"


@dataclass(frozen=True, slots=True)
class Response:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def members(self) -> dict[str, Any]:
        """The body's JSON object."""
        return msgspec.json.decode(self.body, type=dict[str, Any])

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, error type and message."""
        return self.status, self.headers["x-amzn-errortype"], self.members["message"]


CLIENT_HEADERS: Final[Mapping[str, str | None]] = {"host": "127.0.0.1:8080", "authorization": authorization()}
"""What every AWS client sends."""


async def ask(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    verb: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    headers: Mapping[str, str | None] | None = None,
) -> Response:
    """Send an application a request like those of AWS clients.

    A header of None is left out; a body may come in pieces.
    """
    pieces = [body] if isinstance(body, bytes) else list(body)
    all_headers = {**CLIENT_HEADERS, **(headers or {})}

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    sent = await exchange(app, scope_of(verb, path, all_headers), receive)
    start, content = sent
    return Response(
        start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, content["body"]
    )


def scope_of(verb: str, path: str, headers: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
    path, _, query = path.partition("?")
    return {"type": "http", "method": verb, "raw_path": path.encode(), "query_string": query.encode(), "headers": raw}


async def exchange(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], scope: dict[str, Any], receive: Receive
) -> list[Any]:
    """Run an application on a request; return the ASGI messages that it sent."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def _giving(response: Message) -> Behavior:
    async def give(request: Any, context: Context) -> Message:
        return response

    return give
