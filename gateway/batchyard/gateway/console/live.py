"""Server-sent events: a page hears that something of it has changed and fetches itself anew; a log grows by lines."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import anyio
import grpc.aio
import msgspec

from batchyard.domain.names import Caller
from batchyard.gateway.console.api import Api
from batchyard.rpc.http_server import Receive, Send

CHANGES_EVERY_S: Final = 1.0
"""A page is told of changes no more often."""
AGENTS_EVERY_S: Final = 3.0
"""Pages that show agents have them looked at as often: agents send no changes of their own."""
KEEP_ALIVE_S: Final = 30.0
_ENCODE: Final = msgspec.json.Encoder().encode


async def send_changes(api: Api, caller: Caller, query: Mapping[str, str], receive: Receive, send: Send) -> None:
    """Say `changed` whenever jobs have changed that a page shows: those of a queue, a job with its array, or all."""
    queue, job_id = query.get("queue", ""), query.get("job", "")
    changed = asyncio.Event()

    async def watch_jobs() -> None:
        array = job_id.partition(":")[0]
        has_begun = False
        async for response in api.watch(caller, []):
            # What has changed since the page was made is not told: it is to fetch itself once when the watch begins.
            if not has_begun or any(
                (not queue or change.job_queue.endswith(f":job-queue/{queue}"))
                and (not job_id or change.job_id.partition(":")[0] == array)
                for change in response.changes
            ):
                changed.set()
            has_begun = True

    async def watch_agents() -> None:
        before: Any = None
        while True:
            agents = await api.call(caller, "ListAgents", {"includeJobs": True})
            for agent in agents["agents"]:
                agent.pop("leaseLeftMs", None)
            if before is not None and agents != before:
                changed.set()
            before = agents
            await anyio.sleep(AGENTS_EVERY_S)

    async def events() -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await changed.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            changed.clear()
            yield b"event: changed\ndata: {}\n\n"
            await anyio.sleep(CHANGES_EVERY_S)

    watches = [watch_jobs, *([watch_agents] if "agents" in query else [])]
    await _send_events(events(), receive, send, watches)


async def send_log(api: Api, caller: Caller, log_stream_name: str, receive: Receive, send: Send) -> None:
    """Send the lines of a log as they come, some hundreds an event; `end` when it is complete."""

    async def events() -> AsyncIterator[bytes]:
        async for response in api.follow(caller, log_stream_name):
            lines = [[event.timestamp, event.message] for event in response.events]
            if lines:
                yield b"event: lines\ndata: " + _ENCODE(lines) + b"\n\n"
        yield b"event: end\ndata: {}\n\n"

    await _send_events(events(), receive, send, [])


async def _send_events(events: AsyncIterator[bytes], receive: Receive, send: Send, watches: list[Any]) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        async with anyio.create_task_group() as tasks:
            for watch in watches:
                tasks.start_soon(watch)
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            tasks.cancel_scope.cancel()
    except* grpc.aio.AioRpcError:
        # A service is being started anew; the browser connects again by itself.
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
