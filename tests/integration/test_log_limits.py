"""What the logs service keeps of what is shipped to it: so much of each log and no more, also when its disk is full."""

import errno
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchyard.agent.logs import UnshippedLogs
from batchyard.agent.shipping import LogReel, ship_logs
from batchyard.api.agent.v1 import log_ingest_service_pb2 as pb
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceStub
from batchyard.domain.errors import InvalidRequestError
from batchyard.logs.app import open_logs
from batchyard.logs.intake import LOG_BYTES_MIN, LogIntake
from batchyard.logs.lines import lines_from
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.server import InProcessEndpoint
from batchyard.storage import log_files
from batchyard.storage.log_cuts import Cut, NoHolesError
from batchyard.storage.log_files import LogFolder, LogMovedError
from batchyard.storage.log_marks import MARKS_BYTES_MAX
from support.agent import NAMESPACE
from support.disks import fill, small_disk
from support.waiting import eventually

STREAM = "definition/default/1"
NAME = (NAMESPACE, STREAM)
LINE = b"%011d\n"
BLOCK = 4096


@pytest.fixture
def folder(tmp_path: Path) -> LogFolder:
    return LogFolder(tmp_path / "logs")


@pytest.fixture
def intake(folder: LogFolder) -> LogIntake:
    return LogIntake(folder, SystemClock(), LOG_BYTES_MIN)


def lines(first: int, count: int) -> bytes:
    return b"".join(LINE % number for number in range(first, first + count))


def segment(offset: int, data: bytes, **members: Any) -> pb.LogSegment:
    return pb.LogSegment(
        namespace=NAMESPACE, log_stream_name=STREAM, offset=offset, data=data, read_at_ms=5000, **members
    )


def texts(folder: LogFolder) -> list[bytes]:
    with folder.open(*NAME) as log:
        return [line.text for line in lines_from(log, 0)]


def check_middle_is_gone(folder: LogFolder, last: int) -> None:
    """Check that the log has its first half and its end, in whole lines, with a note between them, and no more."""
    found = texts(folder)
    (note,) = [number for number, text in enumerate(found) if text.startswith(b"[batchyard] ")]
    assert found[:note] == lines(0, note).split()
    tail = len(found) - note - 1
    assert found[note + 1 :] == lines(last - tail, tail).split()
    assert note * 12 > LOG_BYTES_MIN // 2 - 12
    assert LOG_BYTES_MIN // 4 - 12 < tail * 12 <= LOG_BYTES_MIN // 2 + 12
    assert folder.path(*NAME).stat().st_blocks * 512 <= LOG_BYTES_MIN + 4 * BLOCK


async def ship_lines(intake: LogIntake, folder: LogFolder, count: int, step: int = 20_000) -> None:
    """Ship lines, some at a time; check each answer."""
    for first in range(0, count, step):
        (position,) = await intake.take([segment(first * 12, lines(first, step), final=first + step >= count)])
        assert (position.offset, position.final) == ((first + step) * 12, first + step >= count)
        cut = folder.cut_of(*NAME)
        assert (position.cut_start, position.cut_end) == (cut or (0, 0))
        kept = position.offset - position.cut_end + position.cut_start
        assert kept <= LOG_BYTES_MIN


async def test_of_a_log_that_becomes_too_long_the_middle_goes(intake: LogIntake, folder: LogFolder) -> None:
    await ship_lines(intake, folder, 200_000)
    check_middle_is_gone(folder, 200_000)


async def test_where_nothing_can_be_cut_out_of_a_file_it_is_copied_without(
    intake: LogIntake, folder: LogFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(path: Path, start: int, end: int) -> None:
        raise NoHolesError(errno.EOPNOTSUPP, "Operation not supported", str(path))

    monkeypatch.setattr(log_files, "punch", cannot)
    await ship_lines(intake, folder, 200_000)
    check_middle_is_gone(folder, 200_000)
    assert {path.suffix for path in folder.path(*NAME).parent.iterdir()} == {".log", ".marks", ".cut"}


async def test_what_was_cut_here_counts_as_held_after_a_restart_too(intake: LogIntake, folder: LogFolder) -> None:
    await intake.take([segment(0, lines(0, 200_000))])
    fresh = LogIntake(folder, SystemClock(), LOG_BYTES_MIN)
    before = texts(folder)
    for first in (0, 100_000):
        (position,) = await fresh.take([segment(first * 12, lines(first, 1000))])
        assert position.offset == 200_000 * 12
    assert texts(folder) == before


async def test_a_cut_on_the_host_and_one_here_become_one(intake: LogIntake, folder: LogFolder) -> None:
    await intake.take([segment(0, lines(0, 200_000))])
    mine = folder.cut_of(*NAME)
    assert mine is not None
    gone_there = Cut(150_000 * 12, 300_000 * 12)
    members = {"cut_start": gone_there.start, "cut_end": gone_there.end}
    (position,) = await intake.take([segment(300_000 * 12, lines(300_000, 10), final=True, **members)])
    assert (position.offset, position.final) == (300_010 * 12, True)
    assert folder.cut_of(*NAME) == Cut(mine.start, gone_there.end)
    assert texts(folder)[-10:] == lines(300_000, 10).split()


async def test_times_that_are_shipped_take_little_room_too(intake: LogIntake, folder: LogFolder) -> None:
    offset, size = 0, 100_000
    for _ in range(3):
        marks = range(offset + 1, offset + size)
        (position,) = await intake.take(
            [segment(offset, b"x" * size, mark_offsets=marks, mark_times_ms=[1000 + at for at in marks])]
        )
        offset = position.offset
    assert folder.path(*NAME).with_suffix(".marks").stat().st_size <= MARKS_BYTES_MAX
    marked = folder.marks(*NAME)
    assert marked.end == offset
    time_ms = marked.time_of(1)
    assert time_ms is not None
    assert 1001 < time_ms <= 1200


async def test_a_reader_is_not_given_what_was_cut_before_what_was_gone_when_it_came(folder: LogFolder) -> None:
    folder.append(*NAME, 0, b"one\ntwo\nthree\nfour\n", 1000)
    folder.cut(*NAME, Cut(8, 14), is_ours=True)
    with folder.open(*NAME) as log:
        folder.cut(*NAME, Cut(4, 14), is_ours=True)
        assert log.read(0, 4) == b"one\n"
        assert log.read(14, 19) == b"four\n"
        with pytest.raises(LogMovedError):
            log.read(0, 8)


@pytest.mark.parametrize(
    "members",
    [{"offset": -1}, {"cut_start": -1, "cut_end": 5}, {"cut_start": 5, "cut_end": 5}, {"cut_start": 0, "cut_end": -3}],
)
async def test_offsets_that_no_log_has_are_refused(
    intake: LogIntake, folder: LogFolder, members: dict[str, int]
) -> None:
    wrong = segment(0, b"one\n")
    for name, value in members.items():
        setattr(wrong, name, value)
    with pytest.raises(InvalidRequestError):
        await intake.take([segment(0, b"one\n"), wrong])
    assert not folder.path(*NAME).exists()


def test_a_limit_that_keeps_next_to_nothing_is_refused(folder: LogFolder) -> None:
    with pytest.raises(ValueError, match="log_bytes_max: must be 1048576 bytes"):
        LogIntake(folder, SystemClock(), LOG_BYTES_MIN - 1)


def test_an_agent_says_once_that_less_is_kept_there(folder: LogFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.create(*NAME).write_bytes(lines(0, 100))
    folder.mark(*NAME, (1200, 1000))
    reel = LogReel(folder, UnshippedLogs())
    reel.next_segments()
    position = pb.LogPosition(namespace=NAMESPACE, log_stream_name=STREAM, offset=600, cut_start=120, cut_end=240)
    for _ in range(3):
        reel.acknowledge(pb.ShipLogsResponse(positions=[position]))
    assert caplog.text.count("the logs service keeps only a part of definition/default/1") == 1
    folder.cut(*NAME, Cut(120, 240))
    caplog.clear()
    LogReel(folder, UnshippedLogs()).acknowledge(pb.ShipLogsResponse(positions=[position]))
    assert not caplog.text


# Disks that fail


async def test_what_could_not_be_brought_to_the_disk_is_written_anew(
    intake: LogIntake, folder: LogFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await intake.take([segment(0, b"one\n")])
    sync = LogFolder.sync

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(LogFolder, "sync", fail)
    with pytest.raises(OSError, match="Input/output"):
        await intake.take([segment(4, b"two\n", final=True)])
    # A sync that succeeds after one that has failed does not bring what that one left out.
    assert folder.path(*NAME).read_bytes() == b"one\n"
    monkeypatch.setattr(LogFolder, "sync", sync)
    (position,) = await intake.take([segment(4, b"two\n", final=True)])
    assert (position.offset, position.final) == (8, True)
    assert texts(folder) == [b"one", b"two"]


async def test_what_cannot_even_be_taken_back_is_so_before_anything_else_is_taken(
    intake: LogIntake, folder: LogFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    await intake.take([segment(0, b"one\n")])
    with monkeypatch.context() as readonly:
        readonly.setattr(LogFolder, "sync", fail)
        readonly.setattr(LogFolder, "take_back", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="Read-only"):
                await intake.take([segment(4, b"two\n")])
        assert folder.path(*NAME).read_bytes() == b"one\ntwo\n"
    (position,) = await intake.take([segment(8, b"three\n")])
    assert position.offset == 4
    assert folder.path(*NAME).read_bytes() == b"one\n"


async def test_a_log_is_for_one_caller_at_a_time(
    intake: LogIntake, folder: LogFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, inside, seen = LogFolder.append, threading.Lock(), threading.Event()

    def slow(*arguments: Any, **members: Any) -> int:
        assert inside.acquire(blocking=False), "two at once"
        # As long as the other one would need to come in.
        seen.wait(0.02)
        try:
            return append(*arguments, **members)
        finally:
            inside.release()

    monkeypatch.setattr(LogFolder, "append", slow)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(intake.take, [segment(0, b"one\n")])
    assert folder.path(*NAME).read_bytes() == b"one\n"


async def test_a_log_grows_up_to_its_cut_after_a_crash_in_between(intake: LogIntake, folder: LogFolder) -> None:
    await intake.take([segment(0, b"one\ntwo\n")])
    Cut(4, 14).write(folder.path(*NAME).with_suffix(".cut"))
    (position,) = await intake.take([segment(14, b"four\n", cut_start=4, cut_end=14, final=True)])
    assert position.offset == 19
    found = texts(folder)
    assert (found[0], found[2]) == (b"one", b"four")


def test_half_a_group_is_never_taken_for_one(folder: LogFolder) -> None:
    group = folder.create(*NAME).with_suffix(".group")
    fresh = group.with_suffix(".new")
    fresh.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        folder.set_group(*NAME, "/mine")
    fresh.unlink()
    folder.set_group(*NAME, "/mine")
    assert folder.group(*NAME) == "/mine"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Any]:
    """Serve logs in a folder; yield a stub to ship to."""
    endpoint = InProcessEndpoint()
    opening = open_logs(folder=folder, clock=SystemClock(), job_store=endpoint.channel)
    async with opening as services, endpoint.serve(services, drain_s=0.1):
        yield LogIngestServiceStub(endpoint.channel)


async def test_a_full_disk_is_outlived_and_loses_nothing_that_was_acknowledged(
    disk: Path, folder: LogFolder, caplog: pytest.LogCaptureFixture
) -> None:
    there = LogFolder(disk / "logs")
    path = folder.create(*NAME)
    path.write_bytes(lines(0, 1000))
    folder.mark(*NAME, (12_000, 1000))
    async with serving(disk / "logs") as stub, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(ship_logs, stub, folder, UnshippedLogs(), interval_s=0.01))
        await eventually(lambda: there.size(*NAME) == 12_000)
        filler = fill(disk)
        with path.open("ab") as file:
            file.write(lines(1000, 100_000))
        folder.finish(*NAME)
        await eventually(lambda: "the logs cannot be written: No space left on device" in caplog.text)
        assert texts(there)[:1000] == lines(0, 1000).split()
        assert path.exists()
        filler.unlink()
        await eventually(lambda: not path.exists())
        tasks.cancel_scope.cancel()
    assert texts(there) == lines(0, 101_000).split()
