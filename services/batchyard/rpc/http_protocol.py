"""Limits on what a client may send beside the bodies of its requests, which the applications limit themselves."""

from asyncio import TimerHandle, Transport
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEADERS_MAX: Final = 100
OVERHEAD_BYTES_MAX: Final = 64 * 1024
"""Of a request's first line and headers, and of what stands between the chunks of its body and behind them. What comes
in one piece with the head may be more."""
CHUNK_OVERHEAD: Final = 8
"""So many bytes may stand around each byte of a chunked body."""
HEAD_DEADLINE_S: Final = 60.0
"""How long the head of a request may take to arrive, and the first one of a connection to begin."""


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which by itself collects headers without end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._overhead_bytes = 0
        self._deadline: TimerHandle | None = None
        self._is_too_large = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._have_head()
        super().connection_lost(exc)

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
        self._expect_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, unless there are too many."""
        super().on_header(name, value)
        if len(self.headers) > HEADERS_MAX:
            self._is_too_large = True
            raise _HeadTooLargeError

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        self._have_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._overhead_bytes = max(0, self._overhead_bytes - CHUNK_OVERHEAD * len(body))
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is none, or whose head is too large, and close the connection."""
        if not self._is_too_large:
            super().send_400_response(msg)
            return
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def _expect_head(self) -> None:
        self._have_head()
        self._deadline = self.loop.call_later(HEAD_DEADLINE_S, self.transport.close)

    def _have_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
