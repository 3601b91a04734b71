"""Server-sent events: a page hears that something of it has changed and fetches itself anew; a log grows by lines."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
import grpc
import grpc.aio
import msgspec

from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange
from batchyard.domain.names import Caller
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.console.api import Api
from batchyard.gateway.console.watches import Watches
from batchyard.rpc.http_server import Receive, Send

CHANGES_EVERY_S: Final = 1.0
"""A page is told of changes no more often."""
GATHERED_S: Final = 0.05
"""Within this time a change is told of by all who tell of it: the end of a job changes the job and its agent."""
KEEP_ALIVE_S: Final = 30.0
STREAMS_MAX: Final = 500
"""Streams that a server has open at the same time; pages that nobody looks at have none."""
_REFUSALS: Final = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT})
"""What is no better when the browser asks once more."""
_ENCODE: Final = msgspec.json.Encoder().encode

Watch: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
IsAllowed: TypeAlias = Callable[[], bool]
"""Tells whether who opened a stream may still see what is on it."""

logger = logging.getLogger(__name__)


class Streams:
    """The open streams of a server: a limited number, which end when it stops."""

    def __init__(self) -> None:
        self._open: set[anyio.CancelScope] = set()
        self._is_closed = False

    def close(self) -> None:
        """End all streams, and open none any more: their browsers are to ask the next server."""
        self._is_closed = True
        for scope in self._open:
            scope.cancel()

    async def serve(
        self,
        events: AsyncIterator[bytes],
        receive: Receive,
        send: Send,
        is_allowed: IsAllowed,
        watches: Sequence[Watch] = (),
    ) -> None:
        """Send events until they end, the client goes or may see no more, or the server stops.

        Raises AwsError when there are too many streams.
        """
        if self._is_closed or len(self._open) >= STREAMS_MAX:
            raise AwsError(503, "", "Too many pages are open, or the server is being stopped.")
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await _send_events(events, receive, send, is_allowed, watches)
            finally:
                self._open.discard(scope)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def changes(watches: Watches, caller: Caller, query: Mapping[str, str]) -> tuple[AsyncIterator[bytes], list[Watch]]:
    """Return the events that say `changed` whenever jobs have changed that a page shows, and what watches for them.

    The query names the jobs: those of a queue, a job with its array, or all; and whether the page shows agents.
    """
    queue, job_id = query.get("queue", ""), query.get("job", "")
    array = job_id.partition(":")[0]
    changed = asyncio.Event()

    def heard(changes: Sequence[JobChange]) -> None:
        # What has changed since the page was made is not told: it is to fetch itself once when the watch begins.
        if not changes or any(
            (not queue or change.job_queue.endswith(f":job-queue/{queue}"))
            and (not job_id or change.job_id.partition(":")[0] == array)
            for change in changes
        ):
            changed.set()

    async def events() -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await changed.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            await anyio.sleep(GATHERED_S)
            changed.clear()
            yield b"event: changed\ndata: {}\n\n"
            await anyio.sleep(CHANGES_EVERY_S)

    wanted: list[Watch] = [partial(watches.jobs, caller, heard)]
    if "agents" in query:
        wanted.append(partial(watches.agents, heard))
    return events(), wanted


async def log_lines(api: Api, caller: Caller, log_stream_name: str, after: str) -> AsyncIterator[bytes]:
    """Yield the lines of a log as they come, some hundreds an event; `end` when it is complete.

    Each event's id is the token `after` which a connection that comes back goes on; empty: from the first line.
    """
    async for response in api.follow(caller, log_stream_name, after):
        lines = [[event.timestamp, event.message] for event in response.events]
        if lines:
            token = response.next_forward_token.encode()
            yield b"id: " + token + b"\nevent: lines\ndata: " + _ENCODE(lines) + b"\n\n"
    yield b"event: end\ndata: {}\n\n"


async def _send_events(
    events: AsyncIterator[bytes], receive: Receive, send: Send, is_allowed: IsAllowed, watches: Sequence[Watch]
) -> None:
    try:
        async with anyio.create_task_group() as tasks:
            for watch in watches:
                tasks.start_soon(watch)
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            async for event in events:
                if not is_allowed():
                    break
                await send({"type": "http.response.body", "body": event, "more_body": True})
            tasks.cancel_scope.cancel()
    except* grpc.aio.AioRpcError as group:
        refusal = next((error for error in _leaves(group) if error.code() in _REFUSALS), None)
        if refusal is not None:
            event = b"event: refused\ndata: " + _ENCODE(refusal.details()) + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        # Else a service is being started anew; the browser connects again by itself.
    except* Exception:
        logger.exception("a stream broke")


def _leaves(group: BaseExceptionGroup[Any]) -> list[Any]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
