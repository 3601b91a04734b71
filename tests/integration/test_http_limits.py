"""What a client may send at all, on real sockets: heads of bounded size and in time, and bytes that mean nothing."""

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.api.registry.v1 import registry_service_pb2 as registry_pb2
from batchyard.gateway.app import GatewayAddresses
from batchyard.gateway.config import GatewayConfig
from batchyard.rpc import http_entrance, http_protocol
from batchyard.rpc.http_protocol import HEADERS_MAX, OVERHEAD_BYTES_MAX, LimitedProtocol
from batchyard.rpc.peers import Role
from support.certificates import Certificates
from support.gateway import FakeServices, a_gateway, authorization
from support.waiting import PATIENCE_S, eventually

FLOOD_BYTES = 32 * 1024 * 1024
ANSWER_BYTES = 18 * 1024 * 1024
"""More than kernels keep; of a message of a sixth of that."""


async def connected(gateway: GatewayAddresses) -> SocketStream:
    parts = urlsplit(gateway.http)
    return await anyio.connect_tcp(parts.hostname or "", parts.port or 0)


async def answer_to(gateway: GatewayAddresses, data: bytes, patience_s: float = PATIENCE_S) -> bytes:
    """Send bytes on a connection of their own; return all that comes back until the server closes it, or in a time."""
    received = b""
    with anyio.move_on_after(patience_s):
        async with await connected(gateway) as stream:
            try:
                await stream.send(data)
                async for chunk in stream:
                    received += chunk
            except (anyio.BrokenResourceError, OSError):
                pass
    return received


def a_request(*headers: str, path: str = "/v1/describejobqueues", body: str = "{}", length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: {authorization()}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "Connection: close", "", body]).encode()


def error_in(answer: bytes) -> tuple[int, str, str]:
    """Return the status, the type and the message of an error."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers["x-amzn-errortype"], json.loads(body)["message"]


async def is_served(gateway: GatewayAddresses) -> bool:
    return (await answer_to(gateway, a_request())).startswith(b"HTTP/1.1 200 ")


async def test_headers_are_counted(gateway: GatewayAddresses, services: FakeServices) -> None:
    own = a_request().count(b": ")
    few = [f"x-{number}: a" for number in range(HEADERS_MAX - own)]
    assert (await answer_to(gateway, a_request(*few))).startswith(b"HTTP/1.1 200 ")
    refusal = error_in(await answer_to(gateway, a_request(*few, "x-more: a")))
    message = "The request has more than 100 headers, or a head of more than 65536 bytes."
    assert refusal == (431, "RequestEntityTooLargeException", message)
    assert len(services.received) == 1


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"", b"x-number: value\r\n" * 1000),
        (b"x-long: ", b"a" * 16_000),
        (b"", b"a" * 16_000),
    ],
    ids=["many headers", "a long value", "a long name"],
)
async def test_a_head_without_end_is_refused(
    gateway: GatewayAddresses, services: FakeServices, head: bytes, more: bytes
) -> None:
    first = b"POST /v1/describejobs HTTP/1.1\r\nHost: localhost\r\n"
    assert await _sent_before_the_end(gateway, first + head, more) < FLOOD_BYTES
    assert services.received == []
    assert await is_served(gateway)


async def test_a_path_without_end_is_refused(gateway: GatewayAddresses, services: FakeServices) -> None:
    assert await _sent_before_the_end(gateway, b"POST /", b"a" * 16_000) < FLOOD_BYTES
    assert services.received == []


async def test_trailers_without_end_are_refused(gateway: GatewayAddresses, services: FakeServices) -> None:
    head = a_request("Transfer-Encoding: chunked", body="", length=False)
    assert await _sent_before_the_end(gateway, head + b"2\r\n{}\r\n0\r\n", b"x: y" + b"y" * 16_000) < FLOOD_BYTES
    assert services.received == []


async def test_a_body_in_small_chunks_is_taken(gateway: GatewayAddresses, services: FakeServices) -> None:
    text = '{"jobQueues":["' + "x" * 100_000 + '"]}'
    chunks = "".join(f"1\r\n{character}\r\n" for character in text)
    data = a_request("Transfer-Encoding: chunked", body=f"{chunks}0\r\n\r\n", length=False)
    assert (await answer_to(gateway, data)).startswith(b"HTTP/1.1 200 ")
    assert len(services.received) == 1


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server look often at who is too slow, and wait for no handshake."""
    monkeypatch.setattr(http_entrance, "SWEEP_INTERVAL_S", 0.02)
    monkeypatch.setattr(http_entrance, "HANDSHAKE_DEADLINE_S", 0.05)


@pytest.fixture
def lose_patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What lets the server wait for nobody from now on: not before it has what a test needs it to have."""

    def lose() -> None:
        monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.05)
        monkeypatch.setattr(http_protocol, "KEPT_OPEN_S", 0.05)

    return lose


async def rest_of(stream: SocketStream) -> bytes:
    """Return what comes until the server closes the connection."""
    received = b""
    with anyio.fail_after(PATIENCE_S):
        try:
            async for chunk in stream:
                received += chunk
        except (anyio.BrokenResourceError, OSError):
            pass
    return received


async def test_a_connection_must_begin_in_time(gateway: GatewayAddresses, lose_patience: Callable[[], None]) -> None:
    async with await connected(gateway) as stream:
        lose_patience()
        assert await rest_of(stream) == b""


async def test_a_head_must_arrive_in_time(
    gateway: GatewayAddresses, lose_patience: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = LimitedProtocol.on_message_begin

    def begin_to_wait(connection: LimitedProtocol) -> None:
        begin(connection)
        lose_patience()

    monkeypatch.setattr(LimitedProtocol, "on_message_begin", begin_to_wait)
    async with await connected(gateway) as stream:
        await stream.send(b"POST /v1/describejobs HTTP/1.1\r\nHost: loc")
        message = "The head of the request did not arrive in time."
        assert error_in(await rest_of(stream)) == (408, "RequestTimeoutException", message)


async def test_a_connection_that_has_been_used_is_not_kept_open_by_next_to_nothing(
    gateway: GatewayAddresses, lose_patience: Callable[[], None]
) -> None:
    async with await connected(gateway) as stream:
        await stream.send(a_request().replace(b"Connection: close\r\n", b"") + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        lose_patience()
        await rest_of(stream)


async def test_a_connection_may_rest_longer_than_a_head_may_take_and_then_has_all_the_time_for_the_next(
    gateway: GatewayAddresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, is_answered, looks = LimitedProtocol.check, False, 0

    def look(connection: LimitedProtocol, now: float) -> None:
        nonlocal looks
        if is_answered and connection.waiting_since is not None:
            if not looks:
                connection.waiting_since -= http_protocol.HEAD_DEADLINE_S + 1
            looks += 1
        check(connection, now)

    monkeypatch.setattr(LimitedProtocol, "check", look)
    request = a_request().replace(b"Connection: close\r\n", b"")
    async with await connected(gateway) as stream:
        await stream.send(request)
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        is_answered = True
        await eventually(lambda: looks > 1, "it has been looked at after so long a rest")
        await stream.send(request[:30])
        before = looks
        await eventually(lambda: looks > before + 1, "it has been looked at in the midst of a head")
        await stream.send(request[30:])
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_what_nobody_reads_of_a_refused_body_must_end_in_time(
    gateway: GatewayAddresses, lose_patience: Callable[[], None]
) -> None:
    head = a_request("Content-Length: 60000000", body="", length=False).replace(b"Connection: close\r\n", b"")
    async with await connected(gateway) as stream:
        await stream.send(head + b"{")
        answer = await stream.receive()
        lose_patience()
        answer += await rest_of(stream)
    message = "The request body is larger than 1048576 bytes."
    assert error_in(answer) == (413, "RequestEntityTooLargeException", message)


async def test_an_answer_that_nobody_reads_is_given_up(
    gateway: GatewayAddresses, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose, lost = LimitedProtocol.connection_lost, anyio.Event()

    def note(connection: LimitedProtocol, error: Exception | None) -> None:
        lose(connection, error)
        lost.set()

    monkeypatch.setattr(LimitedProtocol, "connection_lost", note)
    monkeypatch.setattr(http_protocol, "READ_DEADLINE_S", 0.05)
    token = "\x01" * (ANSWER_BYTES // 6)
    services.answer("DescribeJobQueues", registry_pb2.DescribeJobQueuesResponse(next_token=token))
    with anyio.fail_after(PATIENCE_S):
        async with await connected(gateway) as stream:
            await stream.send(a_request())
            await lost.wait()
            received = await rest_of(stream)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert len(received) < ANSWER_BYTES


async def test_who_sends_nothing_keeps_nobody_out(services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_entrance, "CONNECTIONS_MAX", 3)
    async with a_gateway(services) as addresses, AsyncExitStack() as idle:
        streams = []
        for begin in (b"", b"POST /v1/describejobs HTTP/1.1\r\n", a_request(body="", length=False) + b"{"):
            stream = await idle.enter_async_context(await connected(addresses))
            await stream.send(begin)
            streams.append(stream)
        for _ in range(5):
            assert await is_served(addresses)
        # The one that waits for the longest made room.
        with anyio.fail_after(PATIENCE_S), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await streams[0].receive()


async def test_when_all_connections_are_in_use_a_new_one_is_told_to_try_again(
    services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_entrance, "CONNECTIONS_MAX", 2)
    go_on, here = anyio.Event(), anyio.Semaphore(0)

    async def wait(request: object, context: object) -> registry_pb2.DescribeJobQueuesResponse:
        here.release()
        await go_on.wait()
        return registry_pb2.DescribeJobQueuesResponse()

    services.answer("DescribeJobQueues", wait)
    answers: list[bytes] = []

    async def ask(addresses: GatewayAddresses) -> None:
        answers.append(await answer_to(addresses, a_request()))

    async with a_gateway(services) as addresses, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(ask, addresses)
            await here.acquire()
        async with await connected(addresses) as third:
            assert error_in(await third.receive())[:2] == (503, "ServiceUnavailableException")
        go_on.set()
    assert [answer[:13] for answer in answers] == [b"HTTP/1.1 200 "] * 2


async def test_who_does_not_shake_hands_is_shown_out(services: FakeServices, tmp_path: Path) -> None:
    tls = Certificates(tmp_path).tls(Role.SERVICE, "gateway")
    async with a_gateway(services, GatewayConfig(port=0, grpc_port=0, tls=tls)) as addresses:
        for begin in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            assert b"HTTP" not in await answer_to(addresses, begin)


async def test_what_is_no_http_is_told_so(gateway: GatewayAddresses) -> None:
    answer = await answer_to(gateway, b"EHLO mail.example\r\n\r\n")
    assert error_in(answer) == (400, "MalformedHttpRequestException", "This is no HTTP request.")


async def test_one_connection_has_many_heads_in_turn(gateway: GatewayAddresses, services: FakeServices) -> None:
    padding = f"x-padding: {'a' * (OVERHEAD_BYTES_MAX // 4)}"
    keeping = a_request(padding).replace(b"Connection: close\r\n", b"")
    data = keeping * 6 + a_request()
    assert (await answer_to(gateway, data)).count(b"HTTP/1.1 200 ") == 7
    assert len(services.received) == 7


async def _sent_before_the_end(gateway: GatewayAddresses, first: bytes, more: bytes) -> int:
    """Send without end, until the server closes the connection; return how much that was."""
    sent = 0
    with anyio.fail_after(PATIENCE_S):
        async with await connected(gateway) as stream:
            try:
                await stream.send(first)
                while sent < FLOOD_BYTES:
                    await stream.send(more)
                    sent += len(more)
            except (anyio.BrokenResourceError, OSError):
                pass
    return sent


_GOOD = a_request()
_EDITS = st.lists(
    st.tuples(st.integers(0, len(_GOOD)), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4
)


@given(_EDITS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_comes_in_place_of_a_request_is_no_fault_of_the_server(
    gateway: GatewayAddresses, edits: list[tuple[int, int, bytes]]
) -> None:
    data = _GOOD
    for place, length, text in edits:
        data = data[:place] + text + data[place + length :]
    # What is not complete has no answer for a long time.
    assert not (await answer_to(gateway, data, patience_s=0.05)).startswith(b"HTTP/1.1 5")
