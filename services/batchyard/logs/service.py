"""Serves logs: page by page as CloudWatch does, and as a stream that follows a job."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import anyio
import grpc.aio
from anyio import to_thread

from batchyard.api.operations.v1 import logs_service_pb2 as pb
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceServicer
from batchyard.domain.names import job_of_log
from batchyard.logs.arrivals import Arrivals, LogName
from batchyard.logs.bounds import checked_limit
from batchyard.logs.describing import describe_groups, describe_streams
from batchyard.logs.filtering import filter_events
from batchyard.logs.groups import requested_group, require_group, stream_not_found
from batchyard.logs.pages import EVENTS_MAX, Direction, Event, Page, PageRequest, Token, parse_token, read_page
from batchyard.rpc.identity import caller_of
from batchyard.storage.log_files import LogFolder, LogMovedError, LogNameError, LogState

POLL_INTERVAL_S: Final = 0.02
POLL_INTERVAL_S_MAX: Final = 0.25
"""How often a followed log is looked at that other processes may write: after something came, and then ever less."""
ARRIVAL_PATIENCE_S: Final = 5.0
"""How long a log that agents ship may take to arrive: a job may name it, and even have ended, before that."""
FOLLOWED_EVENTS_MAX: Final = 1000
"""The most events that a message of a followed log carries."""


class LogsServicer(LogsServiceServicer):
    """Reads the logs in a folder, which agents of this host may be writing to."""

    def __init__(self, folder: LogFolder, arrivals: Arrivals, *, poll_interval_s: float = POLL_INTERVAL_S) -> None:
        self._folder = folder
        self._arrivals = arrivals
        self._poll_interval_s = poll_interval_s

    async def DescribeLogGroups(  # noqa: N802 - the name of the RPC
        self, request: pb.DescribeLogGroupsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeLogGroupsResponse:
        """List log groups."""
        return await to_thread.run_sync(describe_groups, self._folder, request, caller_of(context))

    async def DescribeLogStreams(  # noqa: N802 - the name of the RPC
        self, request: pb.DescribeLogStreamsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeLogStreamsResponse:
        """List the log streams of a group."""
        return await to_thread.run_sync(describe_streams, self._folder, request, caller_of(context))

    async def FilterLogEvents(  # noqa: N802 - the name of the RPC
        self, request: pb.FilterLogEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FilterLogEventsResponse:
        """Read a page of many log streams."""
        return await to_thread.run_sync(filter_events, self._folder, request, caller_of(context))

    async def GetLogEvents(  # noqa: N802 - the name of the RPC
        self, request: pb.GetLogEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetLogEventsResponse:
        """Read a page of a log stream."""
        caller = caller_of(context)
        name = (caller.namespace, request.log_stream_name)
        wanted = _page_request(request)
        await self._await_first(name)
        if request.log_group_name or request.log_group_identifier:
            group = requested_group(request.log_group_name, request.log_group_identifier, caller)
            await to_thread.run_sync(self._check_group, name, group)
        page, _ = await to_thread.run_sync(self._read, name, wanted)
        return pb.GetLogEventsResponse(
            events=[_message(event) for event in page.events],
            next_forward_token=str(page.forward_token),
            next_backward_token=str(page.backward_token),
        )

    async def FollowLogEvents(  # noqa: N802 - the name of the RPC
        self, request: pb.FollowLogEventsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.FollowLogEventsResponse]:
        """Send a log stream until it has ended."""
        name = (caller_of(context).namespace, request.log_stream_name)
        position = parse_token(request.next_token).offset if request.next_token else 0
        start_ms = request.start_time if request.HasField("start_time") else None
        await self._await_first(name)
        while True:
            arrival = self._arrivals.next(name)
            seen = await to_thread.run_sync(self._state, name)
            wanted = PageRequest(token=Token(Direction.FORWARD, position), start_ms=start_ms, limit=FOLLOWED_EVENTS_MAX)
            page, is_all = await to_thread.run_sync(self._read, name, wanted)
            if page.events:
                yield pb.FollowLogEventsResponse(
                    events=[_message(event) for event in page.events], next_forward_token=str(page.forward_token)
                )
                position = page.end
            if is_all:
                return
            if not page.events:
                await self._wait_for_more(name, seen, arrival)

    async def _await_first(self, name: LogName) -> None:
        """Give a log that is not here the time to arrive, if it may be on its way."""
        if not self._arrivals.expected or job_of_log(name[1]) is None:
            return
        with anyio.move_on_after(ARRIVAL_PATIENCE_S):
            while True:
                arrival = self._arrivals.next(name)
                if await to_thread.run_sync(self._is_here, name):
                    return
                await arrival.wait()

    async def _wait_for_more(self, name: LogName, seen: LogState, arrival: asyncio.Event) -> None:
        """Wait until a log grows: this process tells of what it writes itself, and looks for what others write."""
        interval_s = self._poll_interval_s
        while not arrival.is_set() and await to_thread.run_sync(self._state, name) == seen:
            with anyio.move_on_after(interval_s):
                await arrival.wait()
            interval_s = max(min(2 * interval_s, POLL_INTERVAL_S_MAX), self._poll_interval_s)

    def _is_here(self, name: LogName) -> bool:
        try:
            return self._folder.path(*name).exists()
        except LogNameError:
            # Reading it says so; there is nothing to wait for.
            return True

    def _check_group(self, name: LogName, group: str) -> None:
        with suppress(FileNotFoundError, LogNameError):
            if self._folder.entry(*name).group == group:
                return
        require_group(self._folder, name[0], group)
        raise stream_not_found()

    def _state(self, name: LogName) -> LogState:
        with _stream_is_known():
            return self._folder.state(*name)

    def _read(self, name: LogName, request: PageRequest) -> tuple[Page, bool]:
        """Read a page, and tell whether it is the end of a finished log."""
        while True:
            with suppress(LogMovedError), _stream_is_known(), self._folder.open(*name) as log:
                page = read_page(log, request)
                return page, log.is_finished and page.end >= log.end


@contextmanager
def _stream_is_known() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, LogNameError):
        raise stream_not_found() from None


def _page_request(request: pb.GetLogEventsRequest) -> PageRequest:
    return PageRequest(
        token=parse_token(request.next_token) if request.next_token else None,
        from_head=request.start_from_head,
        start_ms=request.start_time if request.HasField("start_time") else None,
        end_ms=request.end_time if request.HasField("end_time") else None,
        limit=checked_limit(request.limit if request.HasField("limit") else None, EVENTS_MAX),
    )


def _message(event: Event) -> pb.LogEvent:
    return pb.LogEvent(timestamp=event.time_ms, message=event.message, ingestion_time=event.time_ms)
