"""DescribeLogGroups and DescribeLogStreams."""

from collections.abc import Callable
from typing import Final

from batchyard.api.operations.v1 import logs_service_pb2 as pb
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import Caller
from batchyard.domain.pagination import decode_token, encode_token
from batchyard.logs.bounds import checked_limit, listing_key
from batchyard.logs.groups import group_arn, group_in, requested_group, require_group, stream_arn
from batchyard.logs.listing import LISTED_MAX, Group, Stream, StreamOrder, groups_of, with_times
from batchyard.storage.log_files import LogFolder

IDENTIFIERS_MAX: Final = 50
_STANDARD: Final = "STANDARD"
_ORDERS: Final = {"": False, "LogStreamName": False, "LastEventTime": True}


def describe_groups(
    folder: LogFolder, request: pb.DescribeLogGroupsRequest, caller: Caller
) -> pb.DescribeLogGroupsResponse:
    """Return a page of log groups."""
    limit = checked_limit(request.limit if request.HasField("limit") else None, LISTED_MAX)
    is_wanted = _group_choice(request, caller)
    listing = listing_key(request, caller.namespace)
    after = decode_token(request.next_token, listing)[0] if request.next_token else ""
    groups = [group for group in groups_of(folder, caller.namespace) if group.name > str(after) and is_wanted(group)]
    page = groups[:limit]
    answer = pb.DescribeLogGroupsResponse(log_groups=[_group_message(group, caller) for group in page])
    if len(groups) > limit:
        answer.next_token = encode_token(listing, [page[-1].name])
    return answer


def describe_streams(
    folder: LogFolder, request: pb.DescribeLogStreamsRequest, caller: Caller
) -> pb.DescribeLogStreamsResponse:
    """Return a page of a group's log streams."""
    limit = checked_limit(request.limit if request.HasField("limit") else None, LISTED_MAX)
    group = requested_group(request.log_group_name, request.log_group_identifier, caller)
    if request.order_by not in _ORDERS:
        raise InvalidRequestError("orderBy must be LogStreamName or LastEventTime.", field="orderBy")
    order = StreamOrder(_ORDERS[request.order_by], request.descending)
    if order.by_time and request.log_stream_name_prefix:
        raise InvalidRequestError("Cannot order by LastEventTime with a logStreamNamePrefix.", field="orderBy")
    listing = listing_key(request, caller.namespace)
    after = None
    if request.next_token:
        time_ms, name = decode_token(request.next_token, listing)
        after = (int(time_ms), str(name))
    entries = folder.entries(caller.namespace, request.log_stream_name_prefix)
    in_group = [entry for entry in entries if entry.group == group]
    if not in_group:
        require_group(folder, caller.namespace, group)
    page, has_more = order.page(in_group, after, limit)
    streams = with_times(folder, caller.namespace, page)
    answer = pb.DescribeLogStreamsResponse(log_streams=[_stream_message(stream, group, caller) for stream in streams])
    if has_more:
        answer.next_token = encode_token(listing, order.key(page[-1]))
    return answer


def _group_choice(request: pb.DescribeLogGroupsRequest, caller: Caller) -> Callable[[Group], bool]:
    prefix, pattern = request.log_group_name_prefix, request.log_group_name_pattern
    identifiers = request.log_group_identifiers
    if sum(map(bool, (prefix, pattern, identifiers))) > 1:
        raise InvalidRequestError(
            "Only one of logGroupNamePrefix, logGroupNamePattern and logGroupIdentifiers may be given.",
            field="logGroupNamePrefix",
        )
    if len(identifiers) > IDENTIFIERS_MAX:
        raise InvalidRequestError(
            f"logGroupIdentifiers may have {IDENTIFIERS_MAX} entries.", field="logGroupIdentifiers"
        )
    if request.log_group_class not in ("", _STANDARD):
        return lambda _: False
    if identifiers:
        names = {group_in(identifier, caller) for identifier in identifiers}
        return lambda group: group.name in names
    return lambda group: group.name.startswith(prefix) and pattern in group.name


def _group_message(group: Group, caller: Caller) -> pb.LogGroup:
    arn = group_arn(caller, group.name)
    return pb.LogGroup(
        log_group_name=group.name,
        creation_time=group.created_ms or 0,
        metric_filter_count=0,
        arn=f"{arn}:*",
        stored_bytes=group.stored_bytes,
        log_group_class=_STANDARD,
        log_group_arn=arn,
    )


def _stream_message(stream: Stream, group: str, caller: Caller) -> pb.LogStream:
    return pb.LogStream(
        log_stream_name=stream.name,
        creation_time=stream.created_ms,
        first_event_timestamp=stream.first_ms,
        last_event_timestamp=stream.last_ms,
        last_ingestion_time=stream.last_ms,
        arn=stream_arn(caller, group, stream.name),
        stored_bytes=0,
    )
