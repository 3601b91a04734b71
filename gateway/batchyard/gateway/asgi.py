"""Requests and answers, between the HTTP server's ASGI messages and the rest of the gateway."""

import asyncio
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from batchyard.domain.values import value_class
from batchyard.gateway.aws_errors import AwsError
from batchyard.rpc.http_server import Receive, Scope, Send

DISCARDED_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest refused body that is read to its end, and thrown away, so that its sender sees the answer."""


class DisconnectedError(Exception):
    """The client has gone before its request was complete."""


@value_class(frozen=True, slots=True)
class Request:
    """The head of an HTTP request."""

    verb: str
    path: str
    """As it was sent, percent signs and all, without the query."""
    headers: Mapping[str, str]
    """By lower-case name; one that was sent more than once has its values joined by commas, as they are signed."""
    query: str = ""
    """As it was sent, without the question mark."""

    @classmethod
    def from_scope(cls, scope: Scope) -> "Request":
        """Return the head of the request of an ASGI scope."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        return cls(
            verb=scope["method"],
            path=scope["raw_path"].decode("latin-1"),
            headers=headers,
            query=scope["query_string"].decode("latin-1"),
        )


@value_class(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


async def read_body(request: Request, receive: Receive, *, bytes_max: int, deadline_s: float) -> bytes:
    """Return the body of a request.

    Of a body that is too large no more is read than it takes to know that. Raises AwsError when it is too large or too
    slow, DisconnectedError when it breaks off.
    """
    declared = _declared_length(request)
    if declared is not None and declared > bytes_max:
        raise _too_large(bytes_max, declared)
    body = bytearray()
    try:
        # A third of the cost of anyio's, which counts here: every request comes by.
        async with asyncio.timeout(deadline_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectedError
                body += message.get("body", b"")
                if len(body) > bytes_max:
                    raise _too_large(bytes_max, declared)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise AwsError(
            408, "RequestTimeoutException", "The request did not arrive in time.", {"connection": "close"}
        ) from None


async def send_answer(send: Send, answer: Answer, request_id: str) -> None:
    """Send a whole answer, with the id by which a client may ask about its request."""
    headers = {
        "content-type": answer.content_type,
        "content-length": str(len(answer.body)),
        "x-amzn-requestid": request_id,
        **answer.headers,
    }
    raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw_headers})
    await send({"type": "http.response.body", "body": answer.body})


def _declared_length(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _too_large(bytes_max: int, declared: int | None) -> AwsError:
    # Closing a connection on which a client still sends makes it see a reset in place of the answer. So the HTTP
    # server is left to skip the rest of a body whose end is known and near.
    skippable = declared is not None and declared <= DISCARDED_BYTES_MAX
    headers = {} if skippable else {"connection": "close"}
    message = f"The request body is larger than {bytes_max} bytes."
    return AwsError(413, "RequestEntityTooLargeException", message, headers)
