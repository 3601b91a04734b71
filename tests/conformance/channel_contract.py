"""What a channel promises, whatever carries the calls."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from batchyard.rpc.channel import MESSAGE_BYTES_MAX
from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method
from support.rpc import Transport, failure_of, text

LONG = 30.0
"""A deadline that only a call that hangs reaches, in seconds."""

ERROR_CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


async def echo(request: Any, context: Any) -> Any:
    return request


async def echo_each(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for request in requests:
        yield request


async def join(requests: AsyncIterator[Any], context: Any) -> Any:
    return text("".join([request.value async for request in requests]))


async def spell(request: Any, context: Any) -> AsyncIterator[Any]:
    for letter in request.value:
        yield text(letter)


@asynccontextmanager
async def held_open(*values: str) -> AsyncIterator[AsyncIterator[Any]]:
    """Be a client that says no more until it has seen the end.

    What is said to a call that has ended meanwhile can make gRPC report that as the call's failure.
    """
    seen = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        for value in values:
            yield text(value)
        await seen.wait()

    try:
        yield requests()
    finally:
        seen.set()


async def all_of(call: Any) -> list[str]:
    """Return what a stream brings, to its end."""
    return [message.value async for message in call]


class Hanging:
    """A handler that waits for ever and tells how it fares."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def unary(self, request: Any, context: Any) -> Any:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield text("first")
        await self.unary(request, context)


class ChannelContract(ABC):
    @pytest.fixture
    @abstractmethod
    def serving(self) -> Transport: ...

    # Calling shapes

    async def test_each_shape_carries_its_messages(self, serving: Transport) -> None:
        async with serving(unary_unary=echo, unary_stream=spell, stream_unary=join, stream_stream=echo_each) as stub:
            requests = [text("a"), text("b")]
            assert (await stub.unary_unary(text("hello"))).value == "hello"
            assert [letter.value async for letter in stub.unary_stream(text("abc"))] == ["a", "b", "c"]
            assert (await stub.stream_unary(iter(requests))).value == "ab"
            assert [answer.value async for answer in stub.stream_stream(iter(requests))] == ["a", "b"]

    async def test_requests_may_come_from_an_asynchronous_iterator(self, serving: Transport) -> None:
        async def requests() -> AsyncIterator[Any]:
            yield text("a")
            yield text("b")

        async with serving(stream_unary=join, stream_stream=echo_each) as stub:
            assert (await stub.stream_unary(requests())).value == "ab"
            assert [answer.value async for answer in stub.stream_stream(requests())] == ["a", "b"]

    async def test_streams_can_be_read_and_written_by_hand(self, serving: Transport) -> None:
        async with serving(stream_stream=echo_each, stream_unary=join, unary_stream=spell) as stub:
            call = stub.stream_stream()
            await call.write(text("ping"))
            assert (await call.read()).value == "ping"
            await call.done_writing()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

            call = stub.stream_unary()
            await call.write(text("a"))
            await call.done_writing()
            assert (await call).value == "a"

            call = stub.unary_stream(text("x"))
            assert (await call.read()).value == "x"
            assert await call.read() is grpc.aio.EOF

    async def test_a_handler_may_read_and_write_through_its_context(self, serving: Transport) -> None:
        async def handler(requests: Any, context: Any) -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(text(request.value.upper()))

        async with serving(stream_stream=handler) as stub:
            answers = [answer.value async for answer in stub.stream_stream(iter([text("a"), text("b")]))]
        assert answers == ["A", "B"]

    async def test_a_handler_may_answer_before_the_requests_end(self, serving: Transport) -> None:
        async def first(requests: AsyncIterator[Any], context: Any) -> Any:
            return await anext(aiter(requests))

        async with serving(stream_unary=first) as stub:
            call = stub.stream_unary()
            await call.write(text("enough"))
            assert (await call).value == "enough"
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(text("late"))

    async def test_a_call_may_be_awaited_more_than_once(self, serving: Transport) -> None:
        async with serving(unary_unary=echo) as stub:
            call = stub.unary_unary(text("x"))
            assert (await call).value == (await call).value == "x"
            assert call.done()
            assert not call.cancelled()
            assert not call.cancel()

    async def test_styles_of_reading_and_writing_do_not_mix(self, serving: Transport) -> None:
        async with serving(stream_stream=echo_each) as stub:
            call = stub.stream_stream(iter([text("a")]))
            with pytest.raises(grpc.aio.UsageError):
                await call.write(text("b"))
            await call.read()
            with pytest.raises(grpc.aio.UsageError):
                aiter(call)

    async def test_writing_after_half_closing_is_refused(self, serving: Transport) -> None:
        async with serving(stream_unary=Hanging().unary) as stub:
            call = stub.stream_unary()
            await call.done_writing()
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(text("late"))
            call.cancel()

    # Isolation and size

    async def test_a_response_changed_after_it_was_sent_arrives_as_it_was(self, serving: Transport) -> None:
        response = text("sent")

        async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
            yield response
            response.value = "changed"
            yield response

        async with serving(unary_stream=handler) as stub:
            assert [answer.value async for answer in stub.unary_stream(text(""))] == ["sent", "changed"]

    async def test_a_request_changed_after_it_was_sent_arrives_as_it_was(self, serving: Transport) -> None:
        received: list[Any] = []

        async def handler(requests: AsyncIterator[Any], context: Any) -> Any:
            received.extend([request async for request in requests])
            return text("")

        async with serving(stream_unary=handler) as stub:
            call = stub.stream_unary()
            request = text("sent")
            await call.write(request)
            request.value = "changed"
            await call.done_writing()
            await call
        assert received == [text("sent")]

    async def test_what_a_handler_keeps_is_its_own(self, serving: Transport) -> None:
        kept: list[Any] = []

        async def handler(request: Any, context: Any) -> Any:
            kept.append(request)
            return request

        async with serving(unary_unary=handler) as stub:
            request = text("original")
            response = await stub.unary_unary(request)
            request.value = response.value = "changed"
        assert kept == [text("original")]

    async def test_messages_up_to_the_limit_pass(self, serving: Transport) -> None:
        fitting = text("x" * (MESSAGE_BYTES_MAX - 5))  # its tag and length make it as large as may be
        assert fitting.ByteSize() == MESSAGE_BYTES_MAX
        async with serving(unary_unary=echo) as stub:
            assert await stub.unary_unary(fitting) == fitting

    @pytest.mark.parametrize("shape", ["unary_unary", "stream_stream"])
    async def test_a_request_over_the_limit_ends_the_call(self, serving: Transport, shape: str) -> None:
        async with serving(unary_unary=echo, stream_stream=echo_each) as stub:
            if shape == "unary_unary":
                error = await failure_of(stub.unary_unary(text("x" * MESSAGE_BYTES_MAX)))
            else:
                async with held_open("x" * MESSAGE_BYTES_MAX) as requests:
                    error = await failure_of(stub.stream_stream(requests).read())
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in (error.details() or "")

    @pytest.mark.parametrize("shape", ["unary_unary", "unary_stream"])
    async def test_a_response_over_the_limit_ends_the_call(self, serving: Transport, shape: str) -> None:
        async def unary(request: Any, context: Any) -> Any:
            return text("x" * MESSAGE_BYTES_MAX)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            yield text("x" * MESSAGE_BYTES_MAX)

        async with serving(unary_unary=unary, unary_stream=stream) as stub:
            call = stub.unary_unary(text("")) if shape == "unary_unary" else stub.unary_stream(text("")).read()
            error = await failure_of(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in (error.details() or "")

    async def test_a_slow_reader_holds_the_writer_back(self, serving: Transport) -> None:
        message = text("x" * 1024 * 1024)
        written = 0

        async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
            nonlocal written
            for _ in range(100):
                yield message
                written += 1

        async with serving(unary_stream=handler) as stub:
            call = stub.unary_stream(text(""))
            await call.read()
            assert written < 100
            received = 1
            while await call.read() is not grpc.aio.EOF:
                received += 1
        assert (written, received) == (100, 100)

    async def test_a_slow_handler_holds_the_client_back(self, serving: Transport) -> None:
        hanging = Hanging()
        async with serving(stream_unary=hanging.unary) as stub:
            written = 0

            async def requests() -> AsyncIterator[Any]:
                nonlocal written
                for _ in range(100):
                    yield text("x" * 1024 * 1024)
                    written += 1

            call = stub.stream_unary(requests())
            await hanging.started.wait()
            call.cancel()
            await hanging.cancelled.wait()
        assert written < 100

    # Errors

    @pytest.mark.parametrize("code", ERROR_CODES)
    async def test_every_code_arrives_with_details_and_metadata(
        self, serving: Transport, code: grpc.StatusCode
    ) -> None:
        async def handler(request: Any, context: Any) -> Any:
            await context.abort(code, "why", (("key", "value"), ("key-bin", b"\x00\xff")))

        async with serving(unary_unary=handler) as stub:
            error = await failure_of(stub.unary_unary(text("")))
            assert (error.code(), error.details()) == (code, "why")
            assert set(error.trailing_metadata()) == {("key", "value"), ("key-bin", b"\x00\xff")}

    async def test_a_rich_status_arrives_whole(self, serving: Transport) -> None:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="BECAUSE"))
        status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="why", details=[detail])

        async def handler(request: Any, context: Any) -> Any:
            await context.abort_with_status(rpc_status.to_status(status))

        async with serving(unary_unary=handler) as stub:
            call = stub.unary_unary(text(""))
            await failure_of(call)
            assert await rpc_status.aio.from_call(call) == status

    async def test_an_error_comes_after_the_responses_that_were_sent_before_it(self, serving: Transport) -> None:
        async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
            yield text("a")
            yield text("b")
            await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")

        async with serving(unary_stream=handler) as stub:
            call = stub.unary_stream(text(""))
            assert [(await call.read()).value, (await call.read()).value] == ["a", "b"]
            for _ in range(2):
                error = await failure_of(call.read())
                assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "the rest is gone")

    async def test_iteration_ends_in_the_error(self, serving: Transport) -> None:
        async def handler(requests: Any, context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                yield request
                await context.abort(grpc.StatusCode.ABORTED, "stop")

        async with serving(stream_stream=handler) as stub, held_open("a") as requests:
            answers = aiter(stub.stream_stream(requests))
            assert (await anext(answers)).value == "a"
            assert (await failure_of(anext(answers))).code() is grpc.StatusCode.ABORTED

    async def test_a_code_can_be_set_without_raising(self, serving: Transport) -> None:
        async def handler(request: Any, context: Any) -> Any:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("not here")
            context.set_trailing_metadata((("key", "value"),))
            return text("ignored")

        async with serving(unary_unary=handler) as stub:
            error = await failure_of(stub.unary_unary(text("")))
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "not here")
            assert tuple(error.trailing_metadata()) == (("key", "value"),)

    async def test_an_unexpected_exception_is_unknown(
        self, serving: Transport, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(request: Any, context: Any) -> Any:
            raise ValueError("surprise")

        async with serving(unary_unary=handler) as stub:
            error = await failure_of(stub.unary_unary(text("")))
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert "surprise" in (error.details() or "")
        assert "surprise" in caplog.text

    async def test_an_unknown_method_is_unimplemented(self, serving: Transport) -> None:
        async with serving(unary_unary=echo) as stub, held_open() as requests:
            for call in (stub.stream_unary(requests), stub.unary_stream(text("")).read()):
                assert (await failure_of(call)).code() is grpc.StatusCode.UNIMPLEMENTED

    # Metadata

    async def test_metadata_reaches_the_handler(self, serving: Transport) -> None:
        seen: list[Any] = []

        async def handler(request: Any, context: Any) -> Any:
            seen.extend(context.invocation_metadata())
            return request

        async with serving(unary_unary=handler) as stub:
            await stub.unary_unary(text(""), metadata=(("key", "value"), ("key-bin", b"\x00"), ("key", "again")))
        ours = [tuple(item) for item in seen if item[0].startswith("key")]
        assert sorted(ours, key=str) == sorted([("key", "value"), ("key", "again"), ("key-bin", b"\x00")], key=str)

    async def test_metadata_comes_back_before_and_after_the_responses(self, serving: Transport) -> None:
        may_end = asyncio.Event()

        async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
            await context.send_initial_metadata((("first", "1"),))
            await may_end.wait()
            yield request
            context.set_trailing_metadata((("last", "2"),))

        async with serving(unary_stream=handler) as stub:
            call = stub.unary_stream(text(""))
            assert (await call.initial_metadata())["first"] == "1"
            may_end.set()
            assert [answer.value async for answer in call] == [""]
            assert (await call.trailing_metadata())["last"] == "2"
            assert await call.details() == ""

    # Deadlines and cancellation

    @pytest.mark.parametrize("shape", ["unary", "stream"])
    async def test_a_deadline_ends_both_sides(self, serving: Transport, shape: str) -> None:
        hanging, deadline_s = Hanging(), 0.1
        async with serving(unary_unary=hanging.unary, unary_stream=hanging.stream) as stub:
            # On a busy machine a call may come to its end before the other side begins.
            while not hanging.started.is_set():
                deadline_s *= 2
                if shape == "unary":
                    error = await failure_of(stub.unary_unary(text(""), timeout=deadline_s))
                else:
                    call = stub.unary_stream(text(""), timeout=deadline_s)
                    error = await failure_of(all_of(call))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "Deadline Exceeded" in (error.details() or "")
            await hanging.cancelled.wait()

    async def test_a_deadline_that_is_past_ends_the_call(self, serving: Transport) -> None:
        async with serving(unary_unary=Hanging().unary) as stub:
            error = await failure_of(stub.unary_unary(text(""), timeout=0))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_both_sides_know_the_time_that_remains(self, serving: Transport) -> None:
        remaining: list[Any] = []

        async def handler(request: Any, context: Any) -> Any:
            remaining.append(context.time_remaining())
            return request

        async with serving(unary_unary=handler) as stub:
            call = stub.unary_unary(text(""), timeout=LONG)
            assert 0 < call.time_remaining() <= LONG
            await call
            await stub.unary_unary(text(""))
        assert 0 < remaining[0] <= LONG * 1.01
        assert remaining[1] is None

    @pytest.mark.parametrize("shape", ["unary", "stream"])
    async def test_cancelling_a_call_cancels_its_handler(self, serving: Transport, shape: str) -> None:
        hanging = Hanging()
        async with serving(unary_unary=hanging.unary, unary_stream=hanging.stream) as stub:
            call = stub.unary_unary(text("")) if shape == "unary" else stub.unary_stream(text(""))
            await hanging.started.wait()
            assert call.cancel()
            assert not call.cancel()
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED
            with pytest.raises(asyncio.CancelledError):
                await (call if shape == "unary" else call.read())
            await hanging.cancelled.wait()

    @pytest.mark.parametrize("shape", ["unary", "stream"])
    async def test_cancelling_the_caller_cancels_the_handler(self, serving: Transport, shape: str) -> None:
        hanging = Hanging()
        under_way = hanging.started if shape == "unary" else asyncio.Event()

        async def consume(stub: Any) -> None:
            if shape == "unary":
                await stub.unary_unary(text(""))
            else:
                async for _ in stub.unary_stream(text("")):
                    under_way.set()

        async with serving(unary_unary=hanging.unary, unary_stream=hanging.stream) as stub:
            caller = asyncio.create_task(consume(stub))
            await under_way.wait()
            await hanging.started.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await hanging.cancelled.wait()

    async def test_cancelling_a_stream_wakes_its_writer(self, serving: Transport) -> None:
        hanging = Hanging()

        async def write_for_ever(call: Any) -> None:
            while True:
                await call.write(text("x" * 1024 * 1024))

        async with serving(stream_stream=hanging.unary) as stub:
            call = stub.stream_stream()
            await call.write(text("the stream is open"))
            await hanging.started.wait()
            writer = asyncio.create_task(write_for_ever(call))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises((asyncio.CancelledError, asyncio.InvalidStateError)):
                await writer
            await hanging.cancelled.wait()

    async def test_a_failing_request_iterator_cancels_the_call(
        self, serving: Transport, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def requests() -> AsyncIterator[Any]:
            yield text("a")
            raise ValueError("no more")

        async with serving(stream_unary=join) as stub:
            call = stub.stream_unary(requests())
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.code() is grpc.StatusCode.CANCELLED

    async def test_closing_the_channel_cancels_its_calls(self, serving: Transport) -> None:
        hanging = Hanging()
        async with serving(unary_unary=hanging.unary) as stub:
            call = stub.unary_unary(text(""))
            await hanging.started.wait()
            await stub.channel.close()
            assert await call.code() is grpc.StatusCode.CANCELLED
            await hanging.cancelled.wait()
            with pytest.raises(grpc.aio.UsageError):
                await stub.unary_unary(text(""))

    # Callbacks and interceptors

    async def test_both_sides_are_told_when_a_call_is_done(self, serving: Transport) -> None:
        server_told, client_told = asyncio.Event(), asyncio.Event()

        async def handler(request: Any, context: Any) -> Any:
            context.add_done_callback(lambda _: server_told.set())
            return request

        async with serving(unary_unary=handler) as stub:
            call = stub.unary_unary(text(""))
            call.add_done_callback(lambda _: client_told.set())
            await call
            await server_told.wait()
            await client_told.wait()

    async def test_interceptors_wrap_each_shape_outermost_first(self, serving: Transport) -> None:
        seen: list[str] = []

        class Noting(CallInterceptor):
            def __init__(self, name: str) -> None:
                super().__init__()
                self._name = name

            def around(self, method: Method, behavior: Behavior) -> Behavior:
                async def noting(request: Any, context: Context) -> Any:
                    seen.append(f"{self._name} {method.path.rpartition('/')[2]}")
                    return await behavior(request, context)

                return noting

        interceptors = [Noting("outer"), Noting("inner")]
        async with serving(
            interceptors=interceptors,
            unary_unary=echo,
            unary_stream=spell,
            stream_unary=join,
            stream_stream=echo_each,
        ) as stub:
            assert (await stub.unary_unary(text("a"))).value == "a"
            assert [answer.value async for answer in stub.unary_stream(text("ab"))] == ["a", "b"]
            assert (await stub.stream_unary(iter([text("a")]))).value == "a"
            assert [answer.value async for answer in stub.stream_stream(iter([text("a")]))] == ["a"]
        shapes = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
        assert seen == [f"{name} {shape}" for shape in shapes for name in ("outer", "inner")]
