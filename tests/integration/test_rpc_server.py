"""What only a real socket shows: ports, health, reflection, and an orderly stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import anyio
import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from batchyard.api.operations.v1 import logs_service_pb2, logs_service_pb2_grpc
from batchyard.rpc.connection import open_channel
from batchyard.rpc.server import InProcessEndpoint, ServerOptions, Service, serve_grpc
from support.rpc import PartialLogs, failure_of

# One loop for all: what gRPC still has to say to the closed loop of an earlier test disturbs later ones.
pytestmark = pytest.mark.asyncio(loop_scope="session")

NAME = "batchyard.api.operations.v1.LogsService"
LOOPBACK = "127.0.0.1:0"
PATIENCE_S: Final = 60.0


class Logs(PartialLogs):
    """Answers when it is let, and follows for ever."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def GetLogEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.set()
        await self.may_answer.wait()
        return logs_service_pb2.GetLogEventsResponse(next_forward_token="f/1")

    async def FollowLogEvents(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield logs_service_pb2.FollowLogEventsResponse()
        await asyncio.Event().wait()


def service(servicer: Logs) -> Service:
    return Service.of(logs_service_pb2_grpc.add_LogsServiceServicer_to_server, servicer)


GET = logs_service_pb2.GetLogEventsRequest(log_stream_name="s")
FOLLOW = logs_service_pb2.FollowLogEventsRequest(log_stream_name="s")


async def test_health_knows_each_service_and_all_of_them() -> None:
    async with serve_grpc([service(Logs())], address=LOOPBACK) as port, open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        error = await failure_of(stub.Check(health_pb2.HealthCheckRequest(service="other")))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_the_services() -> None:
    async with serve_grpc([service(Logs())], address=LOOPBACK) as port, open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME),
        ]
        listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert {it.name for it in listed.list_services_response.service} == {
        NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    file = descriptor_pool.Default().FindFileContainingSymbol(NAME)
    assert file.serialized_pb in described.file_descriptor_response.file_descriptor_proto


async def test_the_common_interceptors_are_in_place() -> None:
    async with serve_grpc([service(Logs())], address=LOOPBACK) as port, open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = logs_service_pb2_grpc.LogsServiceStub(channel)
        error = await failure_of(stub.GetLogEvents(logs_service_pb2.GetLogEventsRequest()))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "logStreamName is required.")


async def test_a_port_that_is_taken_is_refused() -> None:
    async with serve_grpc([], address=LOOPBACK) as port:
        with pytest.raises(OSError, match=str(port)):
            async with serve_grpc([], address=f"127.0.0.1:{port}"):
                pass


async def test_calls_beyond_the_limit_are_refused() -> None:
    servicer, options = Logs(), ServerOptions(calls_max=2)
    serving = serve_grpc([service(servicer)], address=LOOPBACK, options=options)
    async with serving as port, open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = logs_service_pb2_grpc.LogsServiceStub(channel)
        follows = [stub.FollowLogEvents(FOLLOW) for _ in range(2)]
        for follow in follows:
            await follow.read()
        servicer.may_answer.set()
        assert (await failure_of(stub.GetLogEvents(GET))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for follow in follows:
            follow.cancel()


async def test_calls_of_one_connection_wait_for_each_other() -> None:
    servicer, options = Logs(), ServerOptions(streams_max=1)
    servicer.may_answer.set()
    serving = serve_grpc([service(servicer)], address=LOOPBACK, options=options)
    async with serving as port, open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = logs_service_pb2_grpc.LogsServiceStub(channel)
        follow = stub.FollowLogEvents(FOLLOW)
        await follow.read()
        get = stub.GetLogEvents(GET)
        done, _ = await asyncio.wait({asyncio.ensure_future(get.code())}, timeout=0.05)
        assert not done
        follow.cancel()
        assert (await get).next_forward_token == "f/1"


async def test_connections_beyond_the_limit_are_closed_and_so_are_those_that_say_nothing() -> None:
    options = ServerOptions(connections_max=2, handshake_deadline_s=0.2)
    async with serve_grpc([service(Logs())], address=LOOPBACK, options=options) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        with anyio.fail_after(PATIENCE_S):
            for reader, writer in opened:
                # Whatever a server says of itself to begin with, it comes to an end.
                with suppress(ConnectionError):
                    await reader.read()
                writer.close()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE_S)


async def test_metadata_without_end_is_refused() -> None:
    async with serve_grpc([service(Logs())], address=LOOPBACK) as port, open_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Check(health_pb2.HealthCheckRequest(), metadata=(("x-long", "a" * 100_000),))
        assert (await failure_of(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_stopping_ends_streams_and_lets_calls_finish() -> None:
    servicer = Logs()
    stop = asyncio.Event()
    serving: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with serve_grpc([service(servicer)], address=LOOPBACK, options=ServerOptions(drain_s=30)) as port:
            serving.set_result(port)
            await stop.wait()

    server = asyncio.create_task(serve())
    async with open_channel(f"127.0.0.1:{await serving}") as channel:
        stub: Any = logs_service_pb2_grpc.LogsServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await health.read()
        follow = stub.FollowLogEvents(FOLLOW)
        await follow.read()
        get = stub.GetLogEvents(GET)
        await servicer.asked.wait()
        stop.set()
        assert (await failure_of(follow.read())).code() is grpc.StatusCode.UNAVAILABLE
        servicer.may_answer.set()
        assert (await get).next_forward_token == "f/1"
        await server


async def test_stopping_cancels_calls_that_do_not_finish() -> None:
    servicer = Logs()
    async with AsyncExitStack() as clients:
        async with serve_grpc([service(servicer)], address=LOOPBACK, options=ServerOptions(drain_s=0.05)) as port:
            channel = await clients.enter_async_context(open_channel(f"127.0.0.1:{port}"))
            stub: Any = logs_service_pb2_grpc.LogsServiceStub(channel)
            get = stub.GetLogEvents(GET)
            await servicer.asked.wait()
        assert (await failure_of(get)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_an_endpoint_can_be_called_before_it_serves_and_stops_alike() -> None:
    servicer = Logs()
    servicer.may_answer.set()
    endpoint = InProcessEndpoint()
    stub: Any = logs_service_pb2_grpc.LogsServiceStub(endpoint.channel)
    assert (await failure_of(stub.GetLogEvents(GET))).code() is grpc.StatusCode.UNAVAILABLE
    waiting = stub.GetLogEvents(GET, wait_for_ready=True)
    async with endpoint.serve([service(servicer)]):
        assert (await waiting).next_forward_token == "f/1"
        follow = stub.FollowLogEvents(FOLLOW)
        await follow.read()
    assert (await failure_of(follow.read())).code() is grpc.StatusCode.UNAVAILABLE
    assert (await failure_of(stub.GetLogEvents(GET))).code() is grpc.StatusCode.UNAVAILABLE
