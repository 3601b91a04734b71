"""The logs service on real files, through its channel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from batchyard.api.agent.v1 import log_ingest_service_pb2 as ingest_pb
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceStub
from batchyard.api.operations.v1 import logs_service_pb2 as pb
from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub, add_LogsServiceServicer_to_server
from batchyard.domain.errors import InvalidRequestError, NotFoundError, UnavailableError
from batchyard.domain.names import DEFAULT_NAMESPACE, Caller
from batchyard.logs import arrivals
from batchyard.logs.app import open_logs
from batchyard.logs.arrivals import Arrivals
from batchyard.logs.service import LogsServicer
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.errors import error_from
from batchyard.rpc.identity import metadata_for
from batchyard.rpc.server import InProcessEndpoint
from batchyard.storage.log_cuts import Cut
from batchyard.storage.log_files import LogFolder, LogMovedError
from support.contexts import held_open, stopped
from support.rpc import failure_of
from support.waiting import eventually

STREAM = "definition/default/0123456789abcdef0123456789abcdef"
NAME = (DEFAULT_NAMESPACE, STREAM)
NOW_MS = 1_800_000_000_000
GRPC_DEFAULT_BYTES_MAX = 4 * 1024 * 1024
"""What a client receives unless it is told otherwise."""


class FixedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


class Service:
    """The service, and the folder it reads."""

    def __init__(self, endpoint: InProcessEndpoint, folder: Path) -> None:
        self.files = LogFolder(folder)
        self.logs: Any = LogsServiceStub(endpoint.channel)
        self.ingest: Any = LogIngestServiceStub(endpoint.channel)

    def write(self, data: bytes, at_ms: int = 1000) -> None:
        """Have an agent print bytes and mark them."""
        path = self.files.create(*NAME)
        with open(path, "ab") as file:
            file.write(data)
        self.files.mark(*NAME, (path.stat().st_size, at_ms))

    async def page(self, **members: Any) -> pb.GetLogEventsResponse:
        answer = await self.logs.GetLogEvents(pb.GetLogEventsRequest(log_stream_name=STREAM, **members))
        assert isinstance(answer, pb.GetLogEventsResponse)
        return answer

    async def ship(self, *segments: ingest_pb.LogSegment) -> list[ingest_pb.LogPosition]:
        """Ship segments in a message and return the answer."""
        requests = iter([ingest_pb.ShipLogsRequest(segments=segments)])
        [answer] = [answer async for answer in self.ingest.ShipLogs(requests)]
        return list(answer.positions)


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    # No agent is about to connect.
    monkeypatch.setattr(arrivals, "RECONNECT_S", 0.0)
    folder = tmp_path / "logs"
    endpoint = InProcessEndpoint()
    async with held_open(_serving(folder, endpoint)):
        yield Service(endpoint, folder)


@asynccontextmanager
async def _serving(folder: Path, endpoint: InProcessEndpoint) -> AsyncIterator[None]:
    opening = open_logs(folder=folder, clock=FixedClock(), job_store=endpoint.channel)
    async with opening as services, endpoint.serve(services):
        yield


def segment(
    offset: int, data: bytes, *, final: bool = False, stream: str = STREAM, read_at_ms: int = 5000
) -> ingest_pb.LogSegment:
    return ingest_pb.LogSegment(
        namespace=DEFAULT_NAMESPACE,
        log_stream_name=stream,
        offset=offset,
        data=data,
        read_at_ms=read_at_ms,
        final=final,
    )


def position(offset: int, *, final: bool = False, stream: str = STREAM) -> ingest_pb.LogPosition:
    return ingest_pb.LogPosition(namespace=DEFAULT_NAMESPACE, log_stream_name=stream, offset=offset, final=final)


def messages(answer: pb.GetLogEventsResponse | pb.FollowLogEventsResponse) -> list[str]:
    return [event.message for event in answer.events]


# GetLogEvents


async def test_events_carry_the_time_of_their_mark(service: Service) -> None:
    service.write(b"one\n", at_ms=1000)
    service.write(b"two\nthree\n", at_ms=2000)
    answer = await service.page(log_group_name="/aws/batch/job")
    assert [(event.timestamp, event.message, event.ingestion_time) for event in answer.events] == [
        (1000, "one", 1000),
        (2000, "two", 2000),
        (2000, "three", 2000),
    ]


async def test_times_and_limits_reach_the_page(service: Service) -> None:
    for number in range(6):
        service.write(b"%d\n" % number, at_ms=1000 * number)
    assert messages(await service.page(start_time=1000, end_time=4000, limit=2)) == ["2", "3"]
    head = await service.page(start_time=1000, end_time=4000, limit=2, start_from_head=True)
    assert messages(head) == ["1", "2"]
    rest = await service.page(start_time=1000, end_time=4000, next_token=head.next_forward_token)
    assert messages(rest) == ["3"]
    over = await service.page(start_time=1000, end_time=4000, next_token=rest.next_forward_token)
    assert over.next_forward_token == rest.next_forward_token
    assert list(over.events) == []


async def test_a_page_of_garbage_fits_into_a_message(service: Service) -> None:
    service.write(b"\xff" * 2 * 1024 * 1024)
    service.files.finish(*NAME)
    answer = await service.page()
    assert answer.events
    assert answer.ByteSize() < GRPC_DEFAULT_BYTES_MAX


@pytest.mark.parametrize("stream", ["other", "../../etc/passwd", "a//b", "definition/default"])
async def test_an_unknown_stream_is_not_found(service: Service, stream: str) -> None:
    service.write(b"one\n")
    for call in (
        service.logs.GetLogEvents(pb.GetLogEventsRequest(log_stream_name=stream)),
        service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=stream)).read(),
    ):
        error = error_from(await failure_of(call))
        assert (type(error), error.message) == (NotFoundError, "The specified log stream does not exist.")


async def test_an_unknown_group_is_not_found(service: Service) -> None:
    service.write(b"one\n")
    error = error_from(await failure_of(service.page(log_group_name="/aws/lambda/f")))
    assert (type(error), error.message) == (NotFoundError, "The specified log group does not exist.")


async def test_a_group_is_named_by_its_arn_too(service: Service) -> None:
    service.write(b"one\n")
    arn = f"arn:aws:logs:us-east-1:{DEFAULT_NAMESPACE}:log-group:/aws/batch/job"
    for identifier in ("/aws/batch/job", arn, f"{arn}:*"):
        assert messages(await service.page(log_group_identifier=identifier)) == ["one"]
    error = error_from(await failure_of(service.page(log_group_identifier=f"{arn}s")))
    assert (type(error), error.message) == (NotFoundError, "The specified log group does not exist.")


async def test_a_log_is_seen_by_its_own_account_alone(service: Service) -> None:
    service.write(b"secret\n")
    request = pb.GetLogEventsRequest(log_stream_name=STREAM)
    for account in ("210987654321", "..", ""):
        call = service.logs.GetLogEvents(request, metadata=tuple(metadata_for(Caller(account))))
        assert type(error_from(await failure_of(call))) is NotFoundError


@pytest.mark.parametrize(
    ("members", "field"), [({"limit": 0}, "limit"), ({"limit": 10_001}, "limit"), ({"next_token": "x"}, "nextToken")]
)
async def test_members_out_of_bounds_are_refused_by_name(service: Service, members: dict[str, Any], field: str) -> None:
    service.write(b"one\n")
    error = error_from(await failure_of(service.page(**members)))
    assert (type(error), error.field) == (InvalidRequestError, field)


# FollowLogEvents


async def test_following_gives_a_finished_log_whole(service: Service) -> None:
    lines = [f"line {number}" for number in range(2500)]
    service.write("\n".join(lines).encode())
    service.files.finish(*NAME)
    call = service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM))
    assert [message async for answer in call for message in messages(answer)] == lines


async def test_following_gives_what_comes_until_the_end(service: Service) -> None:
    service.write(b"one\ntw")
    call = service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM))
    assert messages(await call.read()) == ["one"]
    service.write(b"o\n")
    assert messages(await call.read()) == ["two"]
    service.write(b"end")
    service.files.finish(*NAME)
    assert messages(await call.read()) == ["end"]
    assert await call.read() is grpc.aio.EOF


async def test_following_goes_on_after_a_token_or_from_a_time(service: Service) -> None:
    for number in range(4):
        service.write(b"%d\n" % number, at_ms=1000 * number)
    service.files.finish(*NAME)
    head = await service.page(limit=2, start_from_head=True)
    for members, expected in (
        ({"next_token": head.next_forward_token}, ["2", "3"]),
        ({"start_time": 3000}, ["3"]),
        ({"start_time": 1000, "next_token": head.next_forward_token}, ["2", "3"]),
    ):
        call = service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM, **members))
        answers = [answer async for answer in call]
        assert [message for answer in answers for message in messages(answer)] == expected
        rest = await service.page(next_token=answers[-1].next_forward_token)
        assert list(rest.events) == []
    wrong = service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM, next_token="x"))
    error = error_from(await failure_of(wrong.read()))
    assert (type(error), error.field) == (InvalidRequestError, "nextToken")


async def test_a_follower_is_told_of_what_was_cut_before_it_came_there(service: Service) -> None:
    service.write(b"one\ntwo\nthree\n")
    call = service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM))
    assert messages(await call.read()) == ["one", "two", "three"]
    with service.files.path(*NAME).open("ab") as file:
        file.write(b"four\nfive\n")
    service.files.cut(*NAME, Cut(4, 19))
    service.files.mark(*NAME, (24, 2000))
    note = "[batchyard] 15 bytes of this log were cut out here: it grew too long"
    assert messages(await call.read()) == [note, "five"]
    service.files.finish(*NAME)
    assert await call.read() is grpc.aio.EOF


def test_what_is_cut_while_it_is_read_is_not_taken_for_what_was_printed(tmp_path: Path) -> None:
    files = LogFolder(tmp_path)
    files.append(*NAME, 0, b"one\ntwo\nthree\n", 1000)
    with files.open(*NAME) as log:
        files.cut(*NAME, Cut(4, 8))
        assert log.read(0, 4) == b"one\n"
        assert log.read(8, 14) == b"three\n"
        with pytest.raises(LogMovedError):
            log.read(0, 14)


async def test_what_is_shipped_wakes_its_followers(tmp_path: Path) -> None:
    files, coming = LogFolder(tmp_path), Arrivals()
    server = InProcessServer()
    # Polls too rarely to be of help here.
    add_LogsServiceServicer_to_server(LogsServicer(files, coming, poll_interval_s=3600), server)
    await server.start()
    stub: Any = LogsServiceStub(InProcessChannel(server))
    files.append(*NAME, 0, b"one\n", 1000)
    call = stub.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM))
    assert messages(await call.read()) == ["one"]
    reading = asyncio.ensure_future(call.read())
    files.append(*NAME, 4, b"two\n", 2000)
    coming.announce(NAME)
    assert messages(await reading) == ["two"]
    call.cancel()
    await stopped(server)


# ShipLogs


async def test_a_log_is_waited_for_whose_agent_is_about_to_connect(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "RECONNECT_S", 3600.0)
    awaited = Mock(side_effect=Arrivals.next)
    monkeypatch.setattr(Arrivals, "next", lambda *arguments: awaited(*arguments))
    reading = asyncio.ensure_future(service.page())
    await eventually(lambda: awaited.called or reading.done(), "the log is waited for")
    await service.ship(segment(0, b"one\n", final=True))
    assert messages(await reading) == ["one"]


async def test_a_log_that_a_connected_agent_has_yet_to_ship_is_waited_for(service: Service) -> None:
    shipping = service.ingest.ShipLogs()
    await shipping.write(ingest_pb.ShipLogsRequest())
    await shipping.read()
    follow = service.logs.FollowLogEvents(pb.FollowLogEventsRequest(log_stream_name=STREAM))
    reading = [asyncio.ensure_future(follow.read()), asyncio.ensure_future(service.page())]
    await shipping.write(ingest_pb.ShipLogsRequest(segments=[segment(0, b"one\n", final=True)]))
    assert [messages(answer) for answer in await asyncio.gather(*reading)] == [["one"], ["one"]]
    shipping.cancel()


async def test_shipped_segments_are_held_and_can_be_read(service: Service) -> None:
    assert await service.ship(segment(0, b"one\n"), segment(4, b"two")) == [position(7)]
    assert messages(await service.page()) == ["one"]
    assert await service.ship(segment(7, b"", final=True)) == [position(7, final=True)]
    answer = await service.page()
    assert [(event.message, event.timestamp) for event in answer.events] == [("one", 5000), ("two", 5000)]


async def test_segments_sent_again_are_skipped(service: Service) -> None:
    await service.ship(segment(0, b"one\n"))
    assert await service.ship(segment(0, b"one\n"), segment(2, b"e\ntwo\n", final=True)) == [position(8, final=True)]
    assert await service.ship(segment(0, b"one\n"), segment(4, b"two\n", final=True)) == [position(8, final=True)]
    assert service.files.path(*NAME).read_bytes() == b"one\ntwo\n"


async def test_a_gap_is_answered_with_what_is_held(service: Service) -> None:
    await service.ship(segment(0, b"one\n"))
    assert await service.ship(segment(8, b"three\n", final=True)) == [position(4)]
    assert await service.ship(segment(4, b"two\nthree\n", final=True)) == [position(14, final=True)]


async def test_an_empty_log_is_shipped_too(service: Service) -> None:
    assert await service.ship(segment(0, b"", final=True)) == [position(0, final=True)]
    assert messages(await service.page()) == []


async def test_a_message_may_hold_segments_of_many_logs(service: Service) -> None:
    positions = await service.ship(*(segment(0, b"x\n", stream=f"d/default/{number}") for number in range(3)))
    assert positions == [position(2, stream=f"d/default/{number}") for number in range(3)]


async def test_an_agents_clock_cannot_stamp_the_future(service: Service) -> None:
    await service.ship(segment(0, b"one\n", read_at_ms=NOW_MS + 1))
    assert [event.timestamp for event in (await service.page()).events] == [NOW_MS]


async def test_what_is_acknowledged_was_brought_to_the_disk(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, str]] = []
    monkeypatch.setattr(LogFolder, "sync", lambda _, *name: synced.append(name))
    await service.ship(segment(0, b"one\n"), segment(4, b"two\n"))
    assert synced == [NAME]


async def test_a_name_that_leads_elsewhere_is_refused(service: Service) -> None:
    error = error_from(await failure_of(service.ship(segment(0, b"x", stream="../x"))))
    assert type(error) is InvalidRequestError


async def test_a_full_disk_makes_the_service_unavailable(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LogFolder, "append", no_space)
    error = error_from(await failure_of(service.ship(segment(0, b"x"))))
    assert type(error) is UnavailableError
    assert "No space left" in error.message
