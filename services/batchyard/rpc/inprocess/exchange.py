"""One call, as both of its sides share it."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from batchyard.domain.values import value_class
from batchyard.rpc.inprocess.pipe import MessagePipe

MetadataItems: TypeAlias = tuple[tuple[str, str | bytes], ...]

_KEY_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


@lru_cache(maxsize=1024)
def _is_key(key: str) -> bool:
    return bool(key) and _KEY_CHARACTERS.issuperset(key)


def checked_metadata(metadata: Iterable[Any] | None) -> MetadataItems:
    """Copy metadata into a tuple. Raises InternalError, as gRPC does, for what HTTP/2 would not carry."""
    if not metadata:
        return ()
    items = tuple((key, value) for key, value in metadata)
    for key, value in items:
        if not _is_key(key):
            raise grpc.aio.InternalError(f"metadata was invalid: key {key!r}")
        is_text = isinstance(value, str) and value.isascii() and value.isprintable()
        if not (isinstance(value, bytes) if key.endswith("-bin") else is_text):
            raise grpc.aio.InternalError(f"metadata was invalid: value of {key!r}")
    return items


@value_class(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing_metadata: MetadataItems = ()
    cancelled_by_client: bool = False


class Exchange:
    """A call between a client and a server of one process: messages both ways, a deadline, one outcome.

    The first outcome stands: `finish` is the server's regular end, after which its messages can still be read;
    `break_off` ends both sides at once and cancels the handler.
    """

    __slots__ = (
        "_callbacks",
        "_initial_metadata_sent",
        "_loop",
        "_timer",
        "_waiters",
        "deadline",
        "handler_task",
        "initial_metadata",
        "invocation_metadata",
        "message_bytes_max",
        "method",
        "outcome",
        "requests",
        "responses",
        "wait_for_ready",
    )

    def __init__(
        self,
        method: str,
        invocation_metadata: MetadataItems,
        *,
        timeout_s: float | None,
        wait_for_ready: bool,
        message_bytes_max: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.method = method
        self.invocation_metadata = invocation_metadata
        self.wait_for_ready = wait_for_ready
        self.message_bytes_max = message_bytes_max
        self.requests = MessagePipe()
        self.responses = MessagePipe()
        self.initial_metadata: MetadataItems | None = None
        self.outcome: Outcome | None = None
        self.handler_task: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._waiters: list[asyncio.Future[None]] = []
        """For the outcome."""
        self._initial_metadata_sent: asyncio.Event | None = None
        self.deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self.deadline = self._loop.time() + timeout_s
            self._timer = self._loop.call_at(self.deadline, self._expire)

    @property
    def time_remaining_s(self) -> float | None:
        """Seconds until the deadline, 0 after it; None if there is no deadline."""
        if self.deadline is None:
            return None
        return max(self.deadline - self._loop.time(), 0.0)

    async def send_request(self, message: bytes) -> None:
        """Pass a message to the server, when there is room; one that is too large ends the call."""
        if self._is_receivable(message, "SERVER"):
            await self.requests.write(message)

    async def send_response(self, message: bytes) -> None:
        """Pass a message to the client, when there is room; one that is too large ends the call."""
        if self._is_receivable(message, "CLIENT"):
            await self.responses.write(message)

    def put_request(self, message: bytes) -> None:
        """Pass the only message of a unary request."""
        if self._is_receivable(message, "SERVER"):
            self.requests.put(message)
            self.requests.close()

    def put_response(self, message: bytes) -> None:
        """Pass the only message of a unary response."""
        if self._is_receivable(message, "CLIENT"):
            self.responses.put(message)

    def _is_receivable(self, message: bytes, receiver: str) -> bool:
        if len(message) <= self.message_bytes_max:
            return True
        details = f"{receiver}: Received message larger than max ({len(message)} vs. {self.message_bytes_max})"
        self.break_off(Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, details))
        return False

    def send_initial_metadata(self, metadata: MetadataItems) -> None:
        """Pass the initial metadata to the client, once."""
        self.initial_metadata = metadata
        if self._initial_metadata_sent is not None:
            self._initial_metadata_sent.set()

    async def receive_initial_metadata(self) -> MetadataItems:
        """Wait until the server has sent its initial metadata, or the call has ended without."""
        while self.initial_metadata is None and self.outcome is None:
            if self._initial_metadata_sent is None:
                self._initial_metadata_sent = asyncio.Event()
            await self._initial_metadata_sent.wait()
        return self.initial_metadata or ()

    async def wait_for_outcome(self) -> Outcome:
        """Wait until the call has ended."""
        while self.outcome is None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self.outcome

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the call ends; at once if it has ended."""
        if self.outcome is None:
            self._callbacks.append(callback)
        else:
            callback()

    def finish(self, outcome: Outcome) -> bool:
        """End the call from the server's side; return False if it has ended before."""
        if self.outcome is not None:
            return False
        self.responses.close()
        self.requests.discard()
        self._end(outcome)
        return True

    def break_off(self, outcome: Outcome) -> bool:
        """End the call from outside the handler, which is cancelled; return False if it has ended before."""
        if self.outcome is not None:
            return False
        self.responses.discard()
        self.requests.discard()
        self._end(outcome)
        if self.handler_task is not None:
            self.handler_task.cancel()
        return True

    def cancel(self, details: str) -> bool:
        """End the call as its client wishes; return False if it has ended before."""
        return self.break_off(Outcome(grpc.StatusCode.CANCELLED, details, cancelled_by_client=True))

    def cancel_from_anywhere(self, details: str) -> None:
        """Have the call cancelled soon, from whichever thread the garbage collector runs in."""
        with suppress(RuntimeError):  # the loop is closed: nothing of the call runs any more
            self._loop.call_soon_threadsafe(self.cancel, details)

    def _expire(self) -> None:
        self.break_off(Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._initial_metadata_sent is not None:
            self._initial_metadata_sent.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
