"""A plain HTTP client: persistent connections, one request at a time on each, nothing of an SDK."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Final

AUTHORIZATION: Final = (
    "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/batch/aws4_request, SignedHeaders=host, Signature=00"
)
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


async def post_all(host: str, port: int, path: str, bodies: Sequence[bytes], *, connections: int) -> list[bytes]:
    """Post every body once, over so many connections; return the bodies of the answers, in the order they came."""
    waiting = iter(bodies)
    answers: list[bytes] = []
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {AUTHORIZATION}\r\n"
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_post_each(host, port, head.encode(), waiting, answers))
    return answers


async def _post_each(host: str, port: int, head: bytes, waiting: Iterator[bytes], answers: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for body in waiting:
            writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
            answers.append(await _read_answer(reader))
    finally:
        writer.close()
        await writer.wait_closed()


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(head)
    assert length, head
    body = await reader.readexactly(int(length[1]))
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"refused: {head.decode()}{body.decode()}")
    return body
