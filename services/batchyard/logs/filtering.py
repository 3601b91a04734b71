"""FilterLogEvents."""

from contextlib import suppress
from typing import Final

from batchyard.api.operations.v1 import logs_service_pb2 as pb
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import Caller
from batchyard.domain.pagination import decode_token, encode_token
from batchyard.logs.bounds import checked_limit, listing_key
from batchyard.logs.groups import requested_group, require_group, stream_not_found
from batchyard.logs.merging import MergedEvent, Place, Search, merge_page
from batchyard.logs.pages import EVENTS_MAX
from batchyard.logs.patterns import parse_pattern
from batchyard.storage.log_catalog import LogEntry
from batchyard.storage.log_files import LogFolder, LogNameError

NAMES_MAX: Final = 100


def filter_events(folder: LogFolder, request: pb.FilterLogEventsRequest, caller: Caller) -> pb.FilterLogEventsResponse:
    """Return a page of the events of many streams that match a pattern."""
    limit = checked_limit(request.limit if request.HasField("limit") else None, EVENTS_MAX)
    group = requested_group(request.log_group_name, request.log_group_identifier, caller)
    pattern = parse_pattern(request.filter_pattern)
    _check(request)
    listing = listing_key(request, caller.namespace)
    search = Search(
        _streams(folder, request, caller.namespace, group),
        pattern,
        start_ms=request.start_time,
        end_ms=request.end_time + 1 if request.HasField("end_time") else None,
        limit=limit,
    )
    page = merge_page(folder, caller.namespace, search, _place_in(request.next_token, listing))
    answer = pb.FilterLogEventsResponse(events=[_message(event) for event in page.events])
    if page.resume is not None:
        answer.next_token = encode_token(listing, page.resume)
    return answer


def _check(request: pb.FilterLogEventsRequest) -> None:
    if request.log_stream_names and request.log_stream_name_prefix:
        raise InvalidRequestError(
            "Only one of logStreamNames and logStreamNamePrefix may be given.", field="logStreamNames"
        )
    if len(request.log_stream_names) > NAMES_MAX:
        raise InvalidRequestError(f"logStreamNames may have {NAMES_MAX} entries.", field="logStreamNames")
    if request.HasField("start_from_head") and not request.start_from_head:
        raise InvalidRequestError(
            "startFromHead must be true or absent: this server gives the earliest events first.", field="startFromHead"
        )


def _streams(folder: LogFolder, request: pb.FilterLogEventsRequest, namespace: str, group: str) -> list[LogEntry]:
    """Return the streams in which there may be events that are asked for."""
    if request.log_stream_names:
        found = [_entry(folder, namespace, name) for name in sorted(set(request.log_stream_names))]
        if not all(entry is not None and entry.group == group for entry in found):
            require_group(folder, namespace, group)
            raise stream_not_found()
        return [entry for entry in found if entry is not None]
    entries = [entry for entry in folder.entries(namespace, request.log_stream_name_prefix) if entry.group == group]
    if not entries:
        require_group(folder, namespace, group)
    return [entry for entry in entries if entry.may_hold(request.start_time)]


def _entry(folder: LogFolder, namespace: str, stream: str) -> LogEntry | None:
    with suppress(FileNotFoundError, LogNameError):
        return folder.entry(namespace, stream)
    return None


def _place_in(token: str, listing: str) -> Place:
    if not token:
        return Place()
    block_after, block_last, time_ms, stream, offset = decode_token(token, listing)
    return Place(str(block_after), str(block_last), int(time_ms), str(stream), int(offset))


def _message(event: MergedEvent) -> pb.FilteredLogEvent:
    return pb.FilteredLogEvent(
        log_stream_name=event.stream,
        timestamp=event.time_ms,
        message=event.message,
        ingestion_time=event.time_ms,
        event_id=event.event_id,
    )
