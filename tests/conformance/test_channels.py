import asyncio
import gc
from typing import Any

import grpc
import grpc.aio
import pytest

from batchyard.rpc.channel import InProcessChannel, InProcessServer
from support import rpc
from support.contexts import stopped
from support.rpc import Transport, failure_of, text

pytest.register_assert_rewrite("conformance.channel_contract")
from conformance.channel_contract import ChannelContract, Hanging, echo  # noqa: E402


class TestInProcessChannel(ChannelContract):
    @pytest.fixture
    def serving(self) -> Transport:
        return rpc.in_process

    async def test_calls_before_the_server_starts_find_it_unavailable(self) -> None:
        server, stub = self._server_and_stub()
        assert (await failure_of(stub.unary_unary(text("")))).code() is grpc.StatusCode.UNAVAILABLE
        assert stub.channel.get_state() is grpc.ChannelConnectivity.CONNECTING
        await stopped(server)

    async def test_calls_may_wait_for_the_server_to_start(self) -> None:
        server, stub = self._server_and_stub()
        call = stub.unary_unary(text("patient"), wait_for_ready=True)
        ready = asyncio.ensure_future(stub.channel.channel_ready())
        await server.start()
        assert (await call).value == "patient"
        await ready
        await stopped(server)

    async def test_stopping_ends_calls_with_unavailable_after_the_grace(self) -> None:
        hanging = Hanging()
        server, stub = self._server_and_stub(unary_stream=hanging.stream)
        await server.start()
        call = stub.unary_stream(text(""))
        await hanging.started.wait()
        await server.stop(0.01)
        assert hanging.cancelled.is_set()
        assert (await failure_of(call.read())).code() is grpc.StatusCode.UNAVAILABLE
        assert (await failure_of(stub.unary_stream(text("")).read())).code() is grpc.StatusCode.UNAVAILABLE

    async def test_stopping_lets_calls_finish_within_the_grace(self) -> None:
        may_finish = asyncio.Event()
        started = asyncio.Event()

        async def handler(request: Any, context: Any) -> Any:
            started.set()
            await may_finish.wait()
            return request

        server, stub = self._server_and_stub(unary_unary=handler)
        await server.start()
        call = stub.unary_unary(text("finished"))
        await started.wait()
        stopping = asyncio.ensure_future(server.stop(30))
        await stub.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        may_finish.set()
        assert (await call).value == "finished"
        await stopping
        assert not await server.wait_for_termination()

    async def test_a_handler_that_cancels_itself_ends_the_call(self) -> None:
        async def handler(request: Any, context: Any) -> Any:
            raise asyncio.CancelledError

        async with rpc.in_process(unary_unary=handler) as stub:
            assert (await failure_of(stub.unary_unary(text("")))).code() is grpc.StatusCode.CANCELLED

    async def test_a_call_that_nobody_holds_is_cancelled(self) -> None:
        hanging = Hanging()
        async with rpc.in_process(unary_stream=hanging.stream) as stub:
            call = stub.unary_stream(text(""))
            await call.read()
            del call
            gc.collect()
            await hanging.cancelled.wait()

    @pytest.mark.parametrize(
        "metadata", [(("Upper", "x"),), (("a b", "x"),), (("key", "line\nbreak"),), (("a-bin", "x"),)]
    )
    async def test_metadata_that_http2_does_not_carry_is_refused(self, metadata: Any) -> None:
        # Not in the contract: a real call that fails so leaves operations behind that disturb the calls after it.
        async with rpc.in_process(unary_unary=echo) as stub:
            with pytest.raises(grpc.aio.InternalError):
                await stub.unary_unary(text(""), metadata=metadata)

    async def test_an_in_process_server_has_no_ports(self) -> None:
        with pytest.raises(grpc.aio.UsageError):
            InProcessServer().add_insecure_port("127.0.0.1:0")

    def _server_and_stub(self, **functions: rpc.Function) -> tuple[InProcessServer, rpc.Stub]:
        server = InProcessServer()
        rpc.register(server, functions or {"unary_unary": echo})
        return server, rpc.Stub(InProcessChannel(server))


# One loop for all: what gRPC still has to say to the closed loop of an earlier test disturbs later ones.
@pytest.mark.asyncio(loop_scope="session")
class TestSocketChannel(ChannelContract):
    @pytest.fixture
    def serving(self) -> Transport:
        return rpc.over_a_socket
