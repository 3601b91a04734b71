"""Logs of running and ended jobs: marked, completed, shipped, and deleted only when they are held elsewhere."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import grpc.aio
import pytest

from batchyard.agent.launcher.ledger import RunState
from batchyard.agent.logs import LogTracker, UnshippedLogs, finished_logs
from batchyard.agent.shipping import REQUEST_BYTES_MAX, SEGMENT_BYTES_MAX, LogReel, expire_shipped, ship_logs
from batchyard.agent.state import RunRecord
from batchyard.api.agent.v1 import log_ingest_service_pb2 as ingest_pb2
from batchyard.api.agent.v1 import log_ingest_service_pb2_grpc as ingest_grpc
from batchyard.logs.lines import lines_from
from batchyard.rpc.clock import SystemClock
from batchyard.storage import log_files
from batchyard.storage.log_cuts import Cut, NoHolesError
from batchyard.storage.log_files import LogFolder
from support.agent import NAMESPACE
from support.contexts import stopped
from support.waiting import eventually

STREAM = "definition/default/1"


@pytest.fixture
def folder(tmp_path: Path) -> LogFolder:
    return LogFolder(tmp_path / "logs")


def a_record(state: RunState, stream: str = STREAM) -> RunRecord:
    return RunRecord((1, 1), state, NAMESPACE, "job", stream)


def shows(folder: LogFolder, content: bytes) -> bool:
    return shown(folder) == content


def shown(folder: LogFolder) -> bytes:
    with folder.open(NAMESPACE, STREAM) as log:
        return log.read(0, 1 << 20)


async def test_what_a_running_job_prints_shows_soon(folder: LogFolder) -> None:
    path = folder.create(NAMESPACE, STREAM)
    tracker = LogTracker(folder, SystemClock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.run)
        await tracker.observe([a_record(RunState.STARTED)])
        for expected in (b"one\n", b"one\ntwo\n"):
            with path.open("ab") as file:
                file.write(expected[-4:])
            await eventually(partial(shows, folder, expected))
        tasks.cancel_scope.cancel()
    assert len(folder.marks(NAMESPACE, STREAM)) == 2


async def test_marks_are_made_up_for_when_the_disk_can_be_written_again(
    folder: LogFolder, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder.create(NAMESPACE, STREAM)
    path.write_bytes(b"one\n")
    marks = path.with_suffix(".marks")
    marks.symlink_to("/dev/full")
    tracker = LogTracker(folder, SystemClock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.run)
        await tracker.observe([a_record(RunState.STARTED)])
        await eventually(lambda: "No space left on device" in caplog.text)
        marks.unlink()
        await eventually(partial(shows, folder, b"one\n"))
        tasks.cancel_scope.cancel()


async def test_the_log_of_an_ended_run_is_complete_at_once(folder: LogFolder) -> None:
    folder.create(NAMESPACE, STREAM).write_bytes(b"all\n")
    tracker = LogTracker(folder, SystemClock())
    await tracker.observe([a_record(RunState.DONE)])
    assert folder.is_finished(NAMESPACE, STREAM)
    assert shown(folder) == b"all\n"


async def test_a_run_without_a_log_is_no_trouble(folder: LogFolder) -> None:
    await LogTracker(folder, SystemClock()).observe([a_record(RunState.REVOKED), a_record(RunState.DONE, "")])
    assert list(folder.names()) == []


def segments_of(reel: LogReel) -> list[tuple[int, bytes, bool]]:
    return [(segment.offset, segment.data, segment.final) for segment in reel.next_segments()]


def held(offset: int, *, final: bool = False) -> ingest_pb2.ShipLogsResponse:
    position = ingest_pb2.LogPosition(namespace=NAMESPACE, log_stream_name=STREAM, offset=offset, final=final)
    return ingest_pb2.ShipLogsResponse(positions=[position])


def test_a_log_that_is_refused_stays_and_does_not_hold_up_the_others(folder: LogFolder) -> None:
    for stream in (STREAM, "definition/default/2"):
        folder.create(NAMESPACE, stream).write_bytes(b"text")
        folder.mark(NAMESPACE, stream, (4, 1000))
        folder.finish(NAMESPACE, stream)
    reel = LogReel(folder, UnshippedLogs())
    assert len(reel.next_segments()) == 2
    refused = ingest_pb2.LogName(namespace=NAMESPACE, log_stream_name=STREAM)
    reel.acknowledge(ingest_pb2.ShipLogsResponse(refused=[refused]))
    assert [segment.log_stream_name for segment in reel.next_segments()] == ["definition/default/2"]
    assert folder.path(NAMESPACE, STREAM).exists()
    assert len(LogReel(folder, UnshippedLogs()).next_segments()) == 2


def test_only_what_shows_and_is_not_held_is_shipped(folder: LogFolder) -> None:
    folder.create(NAMESPACE, STREAM).write_bytes(b"0123456789")
    folder.mark(NAMESPACE, STREAM, (6, 1000))
    reel = LogReel(folder, UnshippedLogs())
    assert segments_of(reel) == [(0, b"012345", False)]
    reel.acknowledge(held(4))
    assert segments_of(reel) == [(4, b"45", False)]
    reel.acknowledge(held(6))
    assert segments_of(reel) == []


def test_a_log_that_is_as_it_was_is_not_read_again(folder: LogFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.create(NAMESPACE, STREAM)
    path.write_bytes(b"one\n")
    folder.mark(NAMESPACE, STREAM, (4, 1000))
    reel = LogReel(folder, UnshippedLogs())
    assert segments_of(reel) == [(0, b"one\n", False)]
    reel.acknowledge(held(4))
    assert segments_of(reel) == []
    with monkeypatch.context() as patch:
        patch.setattr(LogFolder, "open", None)
        assert segments_of(reel) == []
    path.write_bytes(b"one\ntwo\n")
    folder.mark(NAMESPACE, STREAM, (8, 2000))
    assert segments_of(reel) == [(4, b"two\n", False)]
    reel.acknowledge(held(2))
    assert segments_of(reel) == [(2, b"e\ntwo\n", False)]


def test_a_log_that_the_service_refuses_is_no_reason_to_wait(folder: LogFolder) -> None:
    folder.create(NAMESPACE, STREAM).write_bytes(b"one\n")
    folder.finish(NAMESPACE, STREAM)
    unshipped = UnshippedLogs(finished_logs(folder))
    reel = LogReel(folder, unshipped)
    assert segments_of(reel) == [(0, b"one\n", True)]
    refused = ingest_pb2.LogName(namespace=NAMESPACE, log_stream_name=STREAM)
    reel.acknowledge(ingest_pb2.ShipLogsResponse(refused=[refused]))
    assert len(unshipped) == 0
    assert segments_of(reel) == []


def test_a_complete_log_ends_with_a_final_segment_and_is_deleted_once_that_is_held(folder: LogFolder) -> None:
    folder.create(NAMESPACE, STREAM).write_bytes(b"0123456789")
    folder.mark(NAMESPACE, STREAM, (10, 1000))
    folder.finish(NAMESPACE, STREAM)
    reel = LogReel(folder, UnshippedLogs())
    reel.acknowledge(held(10))
    assert segments_of(reel) == [(10, b"", True)]
    assert folder.path(NAMESPACE, STREAM).exists()
    reel.acknowledge(held(10, final=True))
    assert list(folder.names()) == []
    assert not folder.path(NAMESPACE, STREAM).with_suffix(".marks").exists()


def test_a_long_log_is_shipped_in_pieces(folder: LogFolder) -> None:
    content = bytes(2 * REQUEST_BYTES_MAX)
    folder.create(NAMESPACE, STREAM).write_bytes(content)
    folder.finish(NAMESPACE, STREAM)
    segments = LogReel(folder, UnshippedLogs()).next_segments()
    assert max(len(segment.data) for segment in segments) == SEGMENT_BYTES_MAX
    assert sum(len(segment.data) for segment in segments) <= REQUEST_BYTES_MAX
    assert not any(segment.final for segment in segments)


@dataclass
class FakeLogs(ingest_grpc.LogIngestServiceServicer):
    """A logs service that keeps what comes, and ends its first streams as told."""

    failures: int = 0
    content: dict[str, bytes] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()
    """Streams of which it says that no job names them."""

    async def ShipLogs(self, request_iterator: Any, context: Any) -> AsyncIterator[ingest_pb2.ShipLogsResponse]:  # noqa: N802
        async for request in request_iterator:
            if self.failures:
                self.failures -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            response = ingest_pb2.ShipLogsResponse()
            for segment in request.segments:
                have = self.content.get(segment.log_stream_name, b"")
                assert segment.offset <= len(have)
                have += segment.data[len(have) - segment.offset :]
                self.content[segment.log_stream_name] = have
                response.positions.add(
                    namespace=segment.namespace,
                    log_stream_name=segment.log_stream_name,
                    offset=len(have),
                    final=segment.final,
                )
            yield response

    async def FindForgottenLogs(  # noqa: N802  # the name of the RPC
        self, request: ingest_pb2.FindForgottenLogsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ingest_pb2.FindForgottenLogsResponse:
        return ingest_pb2.FindForgottenLogsResponse(
            forgotten=[log for log in request.logs if log.log_stream_name in self.forgotten],
            retention_ms=200,
            retained_since_ms=5000,
        )


@asynccontextmanager
async def shipping(folder: LogFolder, logs: FakeLogs, unshipped: UnshippedLogs | None = None) -> AsyncIterator[None]:
    """Ship a folder to a service."""
    unshipped = unshipped or UnshippedLogs()
    server = grpc.aio.server()
    ingest_grpc.add_LogIngestServiceServicer_to_server(logs, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, anyio.create_task_group() as tasks:
        stub = ingest_grpc.LogIngestServiceStub(channel)
        tasks.start_soon(lambda: ship_logs(stub, folder, unshipped, interval_s=0.01))
        tasks.start_soon(expire_shipped, stub, folder, SystemClock())
        yield
        tasks.cancel_scope.cancel()
    await stopped(server)


async def test_a_log_is_shipped_whole_and_then_deleted_here(folder: LogFolder) -> None:
    logs = FakeLogs(failures=2)
    content = b"line\n" * 300_000
    folder.create(NAMESPACE, STREAM).write_bytes(content)
    async with shipping(folder, logs):
        folder.mark(NAMESPACE, STREAM, (5, 1000))
        await eventually(lambda: logs.content.get(STREAM) == b"line\n")
        folder.finish(NAMESPACE, STREAM)
        await eventually(lambda: not list(folder.names()))
    assert logs.content[STREAM] == content


async def test_a_log_that_is_never_finished_is_deleted_here_once_no_job_names_it(folder: LogFolder) -> None:
    orphan, known, fresh = (f"definition/default/{name}" for name in ("orphan", "known", "fresh"))
    for stream in (orphan, known, fresh):
        path = folder.create(NAMESPACE, stream)
        path.write_bytes(b"line\n")
        if stream != fresh:
            os.utime(path, (1, 1))
    async with shipping(folder, FakeLogs(forgotten=(orphan, fresh))):
        await eventually(lambda: (NAMESPACE, orphan) not in set(folder.names()))
        assert list(folder.names()) == [(NAMESPACE, fresh), (NAMESPACE, known)]


async def test_lines_that_come_apart_have_times_of_their_own(folder: LogFolder) -> None:
    path = folder.create(NAMESPACE, STREAM)
    tracker = LogTracker(folder, SystemClock())
    written: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.run)
        await tracker.observe([a_record(RunState.STARTED)])
        for number in range(4):
            with path.open("ab") as file:
                file.write(b"line\n")
            written.append(path.stat().st_mtime_ns // 1_000_000)
            await eventually(partial(shows, folder, b"line\n" * (number + 1)))
        tasks.cancel_scope.cancel()
    with folder.open(NAMESPACE, STREAM) as log:
        assert [log.time_of(5 * (number + 1)) for number in range(4)] == written


def lines_of(folder: LogFolder) -> list[bytes]:
    with folder.open(NAMESPACE, STREAM) as log:
        return [line.text for line in lines_from(log, 0)]


async def test_a_log_that_becomes_too_long_keeps_its_ends_and_gives_back_the_rest(folder: LogFolder) -> None:
    limit = 1 << 20
    path = folder.create(NAMESPACE, STREAM)
    tracker = LogTracker(folder, SystemClock(), bytes_max=limit)
    written = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.run)
        await tracker.observe([a_record(RunState.STARTED)])
        with path.open("ab") as file:
            for _ in range(8):
                file.write(b"".join(b"line %06d\n" % number for number in range(written, written + 50_000)))
                file.flush()
                written += 50_000
                await eventually(lambda: folder.marks(NAMESPACE, STREAM).end == path.stat().st_size)
        tasks.cancel_scope.cancel()
    await tracker.observe([a_record(RunState.DONE)])
    assert path.stat().st_blocks * 512 <= limit + 16 * 4096
    found = lines_of(folder)
    (note,) = [number for number, line in enumerate(found) if line.startswith(b"[batchyard] ")]
    assert found[:note] == [b"line %06d" % number for number in range(note)]
    tail = len(found) - note - 1
    assert found[note + 1 :] == [b"line %06d" % number for number in range(written - tail, written)]
    assert note * 12 >= limit // 2 - 12
    assert tail * 12 >= limit // 4 - 12


async def test_a_short_and_loud_job_is_cut_at_its_end(folder: LogFolder) -> None:
    path = folder.create(NAMESPACE, STREAM)
    path.write_bytes(b"0123456789\n" * 100_000)
    await LogTracker(folder, SystemClock(), bytes_max=64 * 1024).observe([a_record(RunState.DONE)])
    assert path.stat().st_blocks * 512 <= 64 * 1024 + 4 * 4096
    assert set(lines_of(folder)) == {
        b"0123456789",
        next(line for line in lines_of(folder) if line.startswith(b"[batchyard] ")),
    }


async def test_a_log_is_left_whole_where_the_file_system_cannot_cut(
    folder: LogFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(path: Path, start: int, end: int) -> None:
        raise NoHolesError(errno.EOPNOTSUPP, "Operation not supported", str(path))

    monkeypatch.setattr(log_files, "punch", cannot)
    folder.create(NAMESPACE, STREAM).write_bytes(b"0123456789\n" * 100_000)
    await LogTracker(folder, SystemClock(), bytes_max=64 * 1024).observe([a_record(RunState.DONE)])
    assert lines_of(folder) == [b"0123456789"] * 100_000
    assert "logs can grow without bound" in caplog.text


def test_what_was_cut_is_not_shipped_and_the_service_cuts_it_too(folder: LogFolder, tmp_path: Path) -> None:
    held_there = LogFolder(tmp_path / "service")
    path = folder.create(NAMESPACE, STREAM)
    reel = LogReel(folder, UnshippedLogs())

    def ship() -> None:
        for segment in reel.next_segments():
            cut = Cut(segment.cut_start, segment.cut_end) if segment.cut_end else None
            marks = zip(segment.mark_offsets, segment.mark_times_ms, strict=True)
            offset = held_there.append(
                NAMESPACE, STREAM, segment.offset, segment.data, segment.read_at_ms, marks=marks, cut=cut
            )
            if segment.final:
                held_there.finish(NAMESPACE, STREAM)
            reel.acknowledge(held(offset, final=segment.final))

    path.write_bytes(b"one\ntwo\n")
    folder.mark(NAMESPACE, STREAM, (4, 1000), (8, 2000))
    ship()
    with path.open("ab") as file:
        file.write(b"three\nfour\nfive\n")
    folder.mark(NAMESPACE, STREAM, (24, 3000))
    folder.cut(NAMESPACE, STREAM, Cut(4, 14))
    ship()
    with path.open("ab") as file:
        file.write(b"six\n")
    folder.cut(NAMESPACE, STREAM, Cut(4, 19))
    folder.finish(NAMESPACE, STREAM)
    while list(folder.names()):
        ship()
    with held_there.open(NAMESPACE, STREAM) as log:
        shown_there = [(log.time_of(line.next), line.text) for line in lines_from(log, 0)]
    assert shown_there[0] == (1000, b"one")
    assert shown_there[1][1].startswith(b"[batchyard] 15 bytes")
    assert [text for _, text in shown_there[2:]] == [b"five", b"six"]
    assert shown_there[2][0] == 3000


def test_what_lies_before_a_cut_arrives_also_if_it_was_cut_before_it_was_shipped(
    folder: LogFolder, tmp_path: Path
) -> None:
    held_there = LogFolder(tmp_path / "service")
    folder.create(NAMESPACE, STREAM).write_bytes(b"one\ntwo\nthree\nfour\n")
    folder.mark(NAMESPACE, STREAM, (19, 1000))
    cut = Cut(8, 14)
    folder.cut(NAMESPACE, STREAM, cut)
    for offset, data in ((0, b"on"), (2, b"e\ntwo\n"), (14, b"four\n")):
        held_there.append(NAMESPACE, STREAM, offset, data, 1000, cut=cut)
    with held_there.open(NAMESPACE, STREAM) as log:
        texts = [line.text for line in lines_from(log, 0)]
    assert [texts[0], texts[1], texts[3]] == [b"one", b"two", b"four"]
    assert texts[2].startswith(b"[batchyard] 6 bytes")


def test_a_long_log_does_not_keep_back_the_others(folder: LogFolder) -> None:
    for stream, size in (("a/loud", 5 * REQUEST_BYTES_MAX), ("b/quiet", 10), ("c/quiet", 10)):
        path = folder.create(NAMESPACE, stream)
        path.write_bytes(bytes(size))
        folder.finish(NAMESPACE, stream)
    reel = LogReel(folder, UnshippedLogs())
    first, second = ({segment.log_stream_name for segment in reel.next_segments()} for _ in range(2))
    assert first == {"a/loud"}
    assert second == {"a/loud", "b/quiet", "c/quiet"}


async def test_the_logs_of_ended_runs_count_until_the_service_holds_them(folder: LogFolder) -> None:
    folder.create(NAMESPACE, "d/default/growing")
    folder.create(NAMESPACE, STREAM).write_bytes(b"all\n")
    unshipped = UnshippedLogs(finished_logs(folder))
    assert len(unshipped) == 0
    await LogTracker(folder, SystemClock(), unshipped=unshipped).observe([a_record(RunState.DONE)])
    assert len(unshipped) == len(finished_logs(folder)) == 1
    changes: list[int] = []
    unshipped.changed = lambda: changes.append(len(unshipped))
    async with shipping(folder, FakeLogs(), unshipped):
        await eventually(lambda: changes == [0])
    assert list(folder.names()) == [(NAMESPACE, "d/default/growing")]
