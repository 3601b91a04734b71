"""What a client may send at all, on real sockets: heads of bounded size and in time, and bytes that mean nothing."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import SocketStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.gateway.app import GatewayAddresses
from batchyard.rpc import http_protocol
from batchyard.rpc.http_protocol import HEADERS_MAX, OVERHEAD_BYTES_MAX
from support.gateway import FakeServices, a_gateway, authorization
from support.waiting import PATIENCE_S

FLOOD_BYTES = 32 * 1024 * 1024


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
async def gateway(services: FakeServices) -> AsyncIterator[GatewayAddresses]:
    async with a_gateway(services) as addresses:
        yield addresses


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


async def is_served(gateway: GatewayAddresses) -> bool:
    return (await answer_to(gateway, a_request())).startswith(b"HTTP/1.1 200 ")


async def test_headers_are_counted(gateway: GatewayAddresses, services: FakeServices) -> None:
    own = a_request().count(b": ")
    few = [f"x-{number}: a" for number in range(HEADERS_MAX - own)]
    assert (await answer_to(gateway, a_request(*few))).startswith(b"HTTP/1.1 200 ")
    assert (await answer_to(gateway, a_request(*few, "x-more: a"))).startswith(b"HTTP/1.1 431 ")
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


async def test_a_head_must_arrive_in_time(gateway: GatewayAddresses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.05)
    for begin in (b"", b"POST /v1/describejobs HTTP/1.1\r\nHost: loc"):
        assert await _is_closed_after(gateway, begin)


async def test_one_connection_has_many_heads_in_turn(gateway: GatewayAddresses, services: FakeServices) -> None:
    padding = f"x-padding: {'a' * (OVERHEAD_BYTES_MAX // 4)}"
    keeping = a_request(padding).replace(b"Connection: close\r\n", b"")
    data = keeping * 6 + a_request()
    assert (await answer_to(gateway, data)).count(b"HTTP/1.1 200 ") == 7
    assert len(services.received) == 7


async def _is_closed_after(gateway: GatewayAddresses, begin: bytes) -> bool:
    """Send the begin of a request, and wait until the server closes the connection without an answer."""
    with anyio.fail_after(PATIENCE_S):
        async with await connected(gateway) as stream:
            try:
                await stream.send(begin)
                await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return True
    return False


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
