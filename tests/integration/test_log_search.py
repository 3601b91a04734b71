"""Describing and searching logs, on real files through the service's channel."""

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.api.operations.v1 import logs_service_pb2 as pb
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.names import DEFAULT_NAMESPACE, LOG_GROUP, Caller
from batchyard.logs import merging
from batchyard.logs.app import open_logs
from batchyard.logs.filtering import filter_events
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.errors import error_from
from batchyard.rpc.server import InProcessEndpoint
from batchyard.storage.log_files import LogFolder
from support.contexts import held_open
from support.rpc import failure_of

GROUP_ARN = f"arn:aws:logs:us-east-1:{DEFAULT_NAMESPACE}:log-group:"


class Service:
    """The service, and the folder it reads."""

    def __init__(self, endpoint: InProcessEndpoint, folder: Path) -> None:
        self.files = LogFolder(folder)
        self.stub: Any = LogsServiceStub(endpoint.channel)

    def write(self, stream: str, *events: tuple[int, str], group: str = LOG_GROUP, finished: bool = True) -> None:
        """Have a job print lines, each at its time."""
        self.files.set_group(DEFAULT_NAMESPACE, stream, group)
        path = self.files.create(DEFAULT_NAMESPACE, stream)
        for time_ms, text in events:
            with path.open("a") as file:
                file.write(f"{text}\n")
            self.files.mark(DEFAULT_NAMESPACE, stream, (path.stat().st_size, time_ms))
        if finished:
            self.files.finish(DEFAULT_NAMESPACE, stream)

    async def filter(self, **members: Any) -> list[tuple[int, str, str]]:
        """Return all events that match: time, stream and message, page by page."""
        found: list[tuple[int, str, str]] = []
        request = pb.FilterLogEventsRequest(**{"log_group_name": LOG_GROUP, **members})
        while True:
            page = await self.stub.FilterLogEvents(request)
            found += [(event.timestamp, event.log_stream_name, event.message) for event in page.events]
            if not page.HasField("next_token"):
                return found
            request.next_token = page.next_token

    async def streams(self, **members: Any) -> list[list[str]]:
        """Return the names of all streams, page by page."""
        found: list[list[str]] = []
        request = pb.DescribeLogStreamsRequest(**{"log_group_name": LOG_GROUP, **members})
        while True:
            page = await self.stub.DescribeLogStreams(request)
            found.append([stream.log_stream_name for stream in page.log_streams])
            if not page.HasField("next_token"):
                return found
            request.next_token = page.next_token

    async def refusal(self, method: str, request: Any) -> tuple[type, str | None, str]:
        """Return the error, the member and the text with which a call is refused."""
        error = error_from(await failure_of(getattr(self.stub, method)(request)))
        return type(error), error.field, error.message


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    endpoint = InProcessEndpoint()
    async with held_open(_serving(tmp_path, endpoint)):
        yield Service(endpoint, tmp_path)


@asynccontextmanager
async def _serving(folder: Path, endpoint: InProcessEndpoint) -> AsyncIterator[None]:
    opening = open_logs(folder=folder, clock=SystemClock(), job_store=endpoint.channel)
    async with opening as services, endpoint.serve(services):
        yield


# DescribeLogGroups


async def test_the_usual_group_is_there_before_any_log(service: Service) -> None:
    answer = await service.stub.DescribeLogGroups(pb.DescribeLogGroupsRequest())
    (group,) = answer.log_groups
    assert (group.log_group_name, group.stored_bytes) == (LOG_GROUP, 0)
    assert (group.arn, group.log_group_arn) == (f"{GROUP_ARN}{LOG_GROUP}:*", f"{GROUP_ARN}{LOG_GROUP}")


async def test_groups_are_listed_by_name_with_the_size_of_their_streams(service: Service) -> None:
    service.write("d/default/1", (1000, "one"))
    service.write("d/default/2", (1000, "two"), group="/team/b")
    service.write("d/default/3", (1000, "three"), group="/team/b")
    service.write("d/default/4", (1000, "four"), group="/team/a")
    seen, token = [], ""
    for _ in range(3):
        answer = await service.stub.DescribeLogGroups(pb.DescribeLogGroupsRequest(limit=1, next_token=token))
        seen += [(group.log_group_name, group.stored_bytes) for group in answer.log_groups]
        token = answer.next_token
    assert seen == [("/aws/batch/job", 4), ("/team/a", 5), ("/team/b", 10)]
    assert token == ""


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"log_group_name_prefix": "/team/"}, ["/team/a", "/team/b"]),
        ({"log_group_name_pattern": "m/b"}, ["/team/b"]),
        ({"log_group_identifiers": [f"{GROUP_ARN}/team/a:*", LOG_GROUP]}, [LOG_GROUP, "/team/a"]),
        ({"log_group_class": "INFREQUENT_ACCESS"}, []),
    ],
)
async def test_groups_are_chosen(service: Service, members: dict[str, Any], expected: list[str]) -> None:
    for name in ("a", "b"):
        service.write(f"d/default/{name}", (1000, "one"), group=f"/team/{name}")
    answer = await service.stub.DescribeLogGroups(pb.DescribeLogGroupsRequest(**members))
    assert [group.log_group_name for group in answer.log_groups] == expected


# DescribeLogStreams


async def test_a_stream_tells_its_times(service: Service) -> None:
    service.write("d/default/1", (1000, "one"), (2000, "two"), finished=False)
    service.write("d/default/2", finished=False)
    answer = await service.stub.DescribeLogStreams(pb.DescribeLogStreamsRequest(log_group_identifier=LOG_GROUP))
    full, empty = answer.log_streams
    assert (full.creation_time, full.first_event_timestamp, full.last_event_timestamp) == (1000, 1000, 2000)
    assert full.arn == f"{GROUP_ARN}{LOG_GROUP}:log-stream:d/default/1"
    assert empty.creation_time > 2000
    assert not empty.HasField("first_event_timestamp")


async def test_streams_are_listed_by_name_in_pages_either_way(service: Service) -> None:
    for number in (3, 1, 2):
        service.write(f"d{number}/default/x", (1000, "one"))
    assert await service.streams(limit=2) == [["d1/default/x", "d2/default/x"], ["d3/default/x"]]
    assert await service.streams(limit=2, descending=True) == [["d3/default/x", "d2/default/x"], ["d1/default/x"]]
    assert await service.streams(log_stream_name_prefix="d2/def") == [["d2/default/x"]]
    assert await service.streams(log_stream_name_prefix="d2/other") == [[]]


async def test_streams_are_listed_by_the_time_of_their_last_event(service: Service) -> None:
    for name, written_s in (("a", 30), ("b", 10), ("c", 20)):
        service.write(name, (1000, "one"))
        os.utime(service.files.path(DEFAULT_NAMESPACE, name), (written_s, written_s))
    assert await service.streams(order_by="LastEventTime", limit=1) == [["b"], ["c"], ["a"]]
    assert await service.streams(order_by="LastEventTime", descending=True) == [["a", "c", "b"]]


async def test_only_the_streams_of_the_group_are_listed(service: Service) -> None:
    service.write("d/default/1", (1000, "one"))
    service.write("d/default/2", (1000, "two"), group="/team/a")
    assert await service.streams() == [["d/default/1"]]
    assert await service.streams(log_group_name="/team/a") == [["d/default/2"]]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"log_group_name": "/other"}, (NotFoundError, None)),
        ({"log_group_identifier": GROUP_ARN.replace(DEFAULT_NAMESPACE, "210987654321") + "/x"}, (NotFoundError, None)),
        ({}, (InvalidRequestError, "logGroupName")),
        ({"log_group_name": "no spaces"}, (InvalidRequestError, "logGroupName")),
        ({"log_group_identifier": "arn:aws:s3:::x"}, (InvalidRequestError, "logGroupIdentifier")),
        ({"log_group_name": LOG_GROUP, "log_group_identifier": LOG_GROUP}, (InvalidRequestError, "logGroupName")),
        ({"log_group_name": LOG_GROUP, "order_by": "Name"}, (InvalidRequestError, "orderBy")),
        (
            {"log_group_name": LOG_GROUP, "order_by": "LastEventTime", "log_stream_name_prefix": "d"},
            (InvalidRequestError, "orderBy"),
        ),
        ({"log_group_name": LOG_GROUP, "limit": 51}, (InvalidRequestError, "limit")),
        ({"log_group_name": LOG_GROUP, "next_token": "x"}, (InvalidRequestError, "nextToken")),
    ],
)
async def test_listings_that_cannot_be_are_refused(
    service: Service, members: dict[str, Any], expected: tuple[type, str | None]
) -> None:
    error, field, _ = await service.refusal("DescribeLogStreams", pb.DescribeLogStreamsRequest(**members))
    assert (error, field) == expected


# FilterLogEvents


async def test_streams_are_merged_by_time(service: Service) -> None:
    service.write("a", (1000, "one"), (3000, "three"))
    service.write("b", (2000, "two"), (3000, "three too"), (4000, "four"), finished=False)
    expected = [
        (1000, "a", "one"),
        (2000, "b", "two"),
        (3000, "a", "three"),
        (3000, "b", "three too"),
        (4000, "b", "four"),
    ]
    assert await service.filter() == expected
    assert await service.filter(limit=1) == expected
    assert await service.filter(start_time=2000, end_time=3000) == expected[1:4]
    assert await service.filter(filter_pattern="three") == expected[2:4]
    assert await service.filter(log_stream_names=["a"]) == [expected[0], expected[2]]
    assert await service.filter(log_stream_name_prefix="b") == [expected[1], *expected[3:]]


async def test_a_group_is_searched_by_its_arn_too(service: Service) -> None:
    service.write("a", (1000, "one"), group="/team/a")
    request = pb.FilterLogEventsRequest(log_group_identifier=f"{GROUP_ARN}/team/a:*")
    (event,) = (await service.stub.FilterLogEvents(request)).events
    assert (event.log_stream_name, event.message, event.ingestion_time) == ("a", "one", 1000)


async def test_events_have_names_of_their_own_that_stay(service: Service) -> None:
    service.write("a", (1000, "one"), (1000, "two"))
    service.write("b", (1000, "one"))
    request = pb.FilterLogEventsRequest(log_group_name=LOG_GROUP)
    first, second = [await service.stub.FilterLogEvents(request) for _ in range(2)]
    names = [event.event_id for event in first.events]
    assert len(set(names)) == 3
    assert {len(name) for name in names} == {56}
    assert names == [event.event_id for event in second.events]


async def test_a_search_ends_early_and_goes_on(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SEARCHED_BYTES_MAX", 100)
    service.write("a", *((1000 + number, "straw") for number in range(50)), (2000, "needle"))
    page = await service.stub.FilterLogEvents(
        pb.FilterLogEventsRequest(log_group_name=LOG_GROUP, filter_pattern="needle")
    )
    assert (list(page.events), bool(page.next_token)) == ([], True)
    assert await service.filter(filter_pattern="needle") == [(2000, "a", "needle")]


async def test_what_comes_later_is_found_from_the_last_time_on(service: Service) -> None:
    service.write("a", (1000, "one"), finished=False)
    assert await service.filter(start_time=1000) == [(1000, "a", "one")]
    service.write("a", (2000, "two"), finished=False)
    assert await service.filter(start_time=1001) == [(2000, "a", "two")]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"log_group_name": "/other"}, (NotFoundError, None)),
        ({"log_stream_names": ["a", "missing"]}, (NotFoundError, None)),
        ({"log_stream_names": ["../a"]}, (NotFoundError, None)),
        ({"log_stream_names": ["grouped"]}, (NotFoundError, None)),
        ({"log_stream_names": ["a"], "log_stream_name_prefix": "a"}, (InvalidRequestError, "logStreamNames")),
        ({"log_stream_names": ["a"] * 101}, (InvalidRequestError, "logStreamNames")),
        ({"filter_pattern": "{ $.x = 1 }"}, (InvalidRequestError, "filterPattern")),
        ({"start_from_head": False}, (InvalidRequestError, "startFromHead")),
        ({"limit": 10_001}, (InvalidRequestError, "limit")),
        ({"next_token": "x"}, (InvalidRequestError, "nextToken")),
    ],
)
async def test_searches_that_cannot_be_are_refused(
    service: Service, members: dict[str, Any], expected: tuple[type, str | None]
) -> None:
    service.write("a", (1000, "one"))
    service.write("grouped", (1000, "one"), group="/team/a")
    request = pb.FilterLogEventsRequest(**{"log_group_name": LOG_GROUP, **members})
    error, field, _ = await service.refusal("FilterLogEvents", request)
    assert (error, field) == expected


LOGS = st.dictionaries(
    st.sampled_from(["a", "b", "c/x", "c/y", "d"]),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "x", "line", "a long line " * 3])), max_size=12),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs=LOGS, limit=st.integers(1, 7), merged=st.integers(1, 3), searched=st.sampled_from([60, 10_000]))
def test_pages_hold_every_event_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
    logs: dict[str, Sequence[tuple[int, str]]],
    limit: int,
    merged: int,
    searched: int,
) -> None:
    monkeypatch.setattr(merging, "STREAMS_MERGED_MAX", merged)
    monkeypatch.setattr(merging, "SEARCHED_BYTES_MAX", searched)
    monkeypatch.setattr(merging, "WINDOW_BYTES", 20)
    expected: dict[str, list[tuple[int, str]]] = {}
    with TemporaryDirectory() as name:
        folder = LogFolder(Path(name))
        for stream, lines in logs.items():
            path = folder.create(DEFAULT_NAMESPACE, stream)
            times = list(accumulate((step for step, _ in lines), initial=1000))[1:]
            expected[stream] = [(at, text) for at, (_, text) in zip(times, lines, strict=True)]
            for at, text in expected[stream]:
                with path.open("a") as file:
                    file.write(f"{text}\n")
                folder.mark(DEFAULT_NAMESPACE, stream, (path.stat().st_size, at))
        found: list[pb.FilteredLogEvent] = []
        request = pb.FilterLogEventsRequest(log_group_name=LOG_GROUP, limit=limit)
        while True:
            page = filter_events(folder, request, Caller())
            assert len(page.events) <= limit
            found += page.events
            if not page.next_token:
                break
            request.next_token = page.next_token
    seen: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for event in found:
        seen[event.log_stream_name].append((event.timestamp, event.message))
    assert seen == {stream: events for stream, events in expected.items() if events}
    names = sorted(expected)
    order = [(names.index(event.log_stream_name) // merged, event.timestamp) for event in found]
    assert order == sorted(order)
