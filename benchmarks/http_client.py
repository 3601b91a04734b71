"""A plain HTTP client: persistent connections, one request at a time on each, nothing of an SDK."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

AUTHORIZATION: Final = (
    "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/batch/aws4_request, SignedHeaders=host, Signature=00"
)
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Connection:
    """A connection that takes one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def post(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer; raise RuntimeError if it is not 200."""
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: {AUTHORIZATION}\r\n"
        self._writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(body), body))
        answer_head = await self._reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(answer_head)
        assert length, answer_head
        answer = await self._reader.readexactly(int(length[1]))
        if not answer_head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"refused: {answer_head.decode()}{answer.decode()}")
        return answer


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Connect to a server for the length of the context."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield Connection(reader, writer, address.netloc)
    finally:
        writer.close()
        await writer.wait_closed()


async def post_all(
    url: str, path: str, bodies: Sequence[bytes], *, connections: int, persistent: bool = True
) -> list[bytes]:
    """Post every body once, so many at a time; return the bodies of the answers, in the order they came.

    Not `persistent`: each over a connection of its own, for servers that close them.
    """
    waiting = iter(bodies)
    answers: list[bytes] = []
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task((_post_each if persistent else _post_apart)(url, path, waiting, answers))
    return answers


async def _post_each(url: str, path: str, waiting: Iterator[bytes], answers: list[bytes]) -> None:
    async with connected(url) as connection:
        for body in waiting:
            answers.append(await connection.post(path, body))  # noqa: PERF401 - in the order in which they come


async def _post_apart(url: str, path: str, waiting: Iterator[bytes], answers: list[bytes]) -> None:
    for body in waiting:
        async with connected(url) as connection:
            answers.append(await connection.post(path, body))
