"""Limits on what a client may send beside the bodies of its requests, and on how slow it may be.

Applications limit the bodies. What is refused here is answered as AWS answers it: a JSON body with a message, and the
type of the error in a header.
"""

import json
from asyncio import Transport
from email.utils import formatdate
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEADERS_MAX: Final = 100
OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Of a request's first line and headers, and of what stands between the chunks of its body and behind them. What comes
in one piece with the head may be more."""
CHUNK_OVERHEAD: Final = 8
"""So many bytes may stand around each byte of a chunked body."""
HEAD_DEADLINE_S: Final = 20.0
"""How long the head of a request may take to arrive, the first one of a connection to begin, and what nobody reads of
the body of one that was answered to end."""
KEPT_OPEN_S: Final = 75
"""How long a connection may rest between two requests. SDKs like to use one again, which fails while it is closed."""
READ_DEADLINE_S: Final = 60.0
"""How long a client may leave an answer unread."""


def answer_bytes(status: int, error_type: str, message: str) -> bytes:
    """Return an error's answer after which the connection is closed."""
    body = json.dumps({"message": message}).encode()
    headers = {
        "date": formatdate(usegmt=True),
        "content-type": "application/json",
        "x-amzn-errortype": error_type,
        "content-length": str(len(body)),
        "connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[status] + head.encode() + b"\r\n" + body


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself collects headers without end, and waits for its clients without end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._overhead_bytes = 0
        self._is_too_large = False
        self._has_begun = False
        self.waiting_since: float | None = None
        """Since when the next request, or the rest of one, has been the client's to send; None while it is answered."""
        self._unread_since: float | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Take data, until it is too much that is no body."""
        self._overhead_bytes += len(data)
        super().data_received(data)
        if self._overhead_bytes > OVERHEAD_BYTES_MAX and not self.transport.is_closing():
            self._is_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._overhead_bytes = 0
        self._has_begun = True
        if self.waiting_since is not None:
            # The connection may have rested for long.
            self.waiting_since = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, unless there are too many."""
        super().on_header(name, value)
        if len(self.headers) > HEADERS_MAX:
            self._is_too_large = True
            raise _HeadTooLargeError

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        self._has_begun = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._overhead_bytes = max(0, self._overhead_bytes - CHUNK_OVERHEAD * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing but the answer."""
        super().on_message_complete()
        if self._is_answering:
            self.waiting_since = None

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is here."""
        has_next = bool(self.pipeline)
        super().on_response_complete()
        self.waiting_since = None if has_next else self.loop.time()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """Wait no more."""
        super().resume_writing()
        self._unread_since = None

    def check(self, now: float) -> None:
        """End the connection if its client is too slow; `now` is the time of the loop."""
        if self.transport.is_closing() and self._unread_since is None:
            # It closes when all is written, if that is ever read.
            self._unread_since = now
        if self._unread_since is not None and now - self._unread_since > READ_DEADLINE_S:
            self.transport.abort()
        elif (
            self.waiting_since is not None
            and now - self.waiting_since > (KEPT_OPEN_S if self._rests else HEAD_DEADLINE_S)
            and not self._is_answering
            and not self.transport.is_closing()
        ):
            if self._has_begun:
                self._refuse(408, "RequestTimeoutException", "The head of the request did not arrive in time.")
            else:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is none, or whose head is too large, and close the connection."""
        if self._is_too_large:
            message = (
                f"The request has more than {HEADERS_MAX} headers, or a head of more than {OVERHEAD_BYTES_MAX} bytes."
            )
            self._refuse(431, "RequestEntityTooLargeException", message)
        else:
            self._refuse(400, "MalformedHttpRequestException", "This is no HTTP request.")

    @property
    def _rests(self) -> bool:
        """Whether a request was answered, and the next one has not begun."""
        return self.cycle is not None and not self._has_begun

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, error_type: str, message: str) -> None:
        self.transport.write(answer_bytes(status, error_type, message))
        self.transport.close()
