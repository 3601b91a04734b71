"""The output of containers: the engine's stream taken apart, and a log that goes on where it broke off."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.agent.runtimes import output
from batchyard.agent.runtimes.output import ContainerLog, FrameReader, Piece
from batchyard.storage.log_files import LogFolder

NAME = ("123456789012", "definition/default/1")
SECOND_MS = 1_900_000_000_000
"""2030-03-17T17:46:40Z."""


def frame(text: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


STREAM = (
    frame(b"2030-03-17T17:46:40.123456789Z one\n")
    + frame(b"2030-03-17T17:46:40.120Z \n", 2)
    + frame(b"2030-03-17T18:46:41+01:00 a part of ")
    + frame(b"2030-03-17T17:46:41.5Z a line\n")
    + frame(b"no time\n")
)
PIECES = [
    Piece(SECOND_MS + 123, b"one\n", SECOND_MS * 1_000_000 + 123_456_789),
    Piece(SECOND_MS + 123, b"\n", SECOND_MS * 1_000_000 + 120_000_000),
    Piece(SECOND_MS + 1000, b"a part of "),
    Piece(SECOND_MS + 1500, b"a line\n", SECOND_MS * 1_000_000 + 1_500_000_000),
    Piece(SECOND_MS + 1500, b"no time\n"),
]


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
def test_frames_are_read_wherever_the_stream_is_broken(size: int) -> None:
    reader = FrameReader(lambda: SECOND_MS + 1_000_000)
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [piece for chunk in chunks for piece in reader.feed(chunk)] == PIECES


def test_what_docker_sends_again_is_left_out_and_what_came_on_the_other_side_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def one(stamp: str) -> bytes:
        end = "" if "+" in stamp else "\n"
        return frame(f"2030-03-17T17:46:{stamp.strip('e+')}Z {stamp}{end}".encode(), 2 if "e" in stamp else 1)

    def frames(*stamps: str) -> bytes:
        return b"".join(map(one, stamps))

    reader = FrameReader(lambda: SECOND_MS)
    first = ("40.5", "40.9", "41.300", "41.290e", "41.310+", "41.310+", "41.310")
    sent = frames(*first, "40.9", "41.300", "41.310+", "41.310+", "41.310", "41.301e", "41.4", "41.4", "41.5")
    texts = [piece.data.decode().strip() for piece in reader.feed(sent)]
    assert texts == [*first, "41.301e", "41.4", "41.5"]
    # A clock that was set back looks the same at first.
    assert list(reader.feed(frames("20.0"))) == []
    now = monotonic()
    monkeypatch.setattr(output, "monotonic", lambda: now + 60)
    assert [piece.data for piece in reader.feed(frames("21.0", "22.0"))] == [b"21.0\n", b"22.0\n"]


def test_whole_seconds_are_made_finer_by_the_time_of_arrival() -> None:
    def time_of(now_ms: int) -> int:
        (piece,) = FrameReader(lambda: now_ms).feed(frame(b"2030-03-17T17:46:40Z x\n"))
        return piece.time_ms - SECOND_MS

    assert time_of(SECOND_MS + 250) == 250
    assert time_of(SECOND_MS + 1500) == 999
    assert time_of(SECOND_MS - 10) == 0
    assert time_of(SECOND_MS + 60_000) == 0


def test_a_log_holds_pieces_with_their_times(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path)
    log = ContainerLog(folder, NAME)
    assert log.open() == 0
    log.add(PIECES)
    with folder.open(*NAME) as reader:
        assert reader.read(0, 1000) == b"".join(piece.data for piece in PIECES)
        assert [reader.time_of(offset) for offset in (4, 5, 15, 22, 30)] == [piece.time_ms for piece in PIECES]


def test_a_log_says_from_when_on_it_lacks_pieces(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path)
    log = ContainerLog(folder, NAME)
    log.open()
    log.add(PIECES[:2])
    assert ContainerLog(folder, NAME).open() == SECOND_MS // 1000 - 1


def test_pieces_that_the_engine_has_no_more_are_no_reason_to_leave_out_others(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path)
    log = ContainerLog(folder, NAME)
    log.open()
    log.add([Piece(1100, b"one\n"), Piece(1200, b"one more\n")])
    log.open()
    log.add([Piece(2000, b"two\n")])
    assert folder.path(*NAME).read_bytes() == b"one\none more\ntwo\n"


def stamped(*stamps_ms: int) -> list[Piece]:
    pieces: list[Piece] = []
    for stamp_ms in stamps_ms:
        time_ms = max([stamp_ms, *(piece.time_ms for piece in pieces)])
        pieces.append(Piece(time_ms, b"%d\n" % stamp_ms, stamp_ms * 1_000_000))
    return pieces


def test_a_stream_that_ends_early_goes_on_behind_the_last_piece(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path)
    log = ContainerLog(folder, NAME)
    printed = stamped(1000, 1020, 1010, 1015, 1040)
    log.open()
    log.add(printed[:3])
    log.open()
    log.add(printed)
    assert folder.path(*NAME).read_bytes() == b"1000\n1020\n1010\n1015\n1040\n"
    # Parts of a line have one time, and the stream ended after the second.
    parts = [Piece(1100, part, 1_100_000_000) for part in (b"a ", b"b ", b"c\n")]
    log.open()
    log.add(parts[:2])
    log.open()
    log.add([*printed, *parts])
    assert folder.path(*NAME).read_bytes().endswith(b"1040\na b c\n")
    # The engine has dropped a part of that second: no line is torn.
    log.open()
    log.add(stamped(1200, 1300))
    assert folder.path(*NAME).read_bytes() == b"1000\n1020\n1010\n1015\n1040\na b c\n1200\n1300\n"


def test_what_follows_closely_what_the_engine_has_dropped_is_kept(tmp_path: Path) -> None:
    folder = LogFolder(tmp_path)
    log = ContainerLog(folder, NAME)
    log.open()
    log.add(stamped(1000, 1001, 1002))
    # The engine has begun a new file, and all that is in it came within some milliseconds.
    log.open()
    log.add(stamped(1004))
    log.add(stamped(1003, 1005, 1006))
    assert folder.path(*NAME).read_bytes() == b"1000\n1001\n1002\n"  # the last piece might still come
    log.end()
    assert folder.path(*NAME).read_bytes() == b"1000\n1001\n1002\n1004\n1003\n1005\n1006\n"
    # It has it after all, behind what came on the other side.
    log.open()
    log.add(stamped(1007, 1005, 1006, 1008))
    log.end()
    assert folder.path(*NAME).read_bytes() == b"1000\n1001\n1002\n1004\n1003\n1005\n1006\n1008\n"
    # A copy that broke off before it could be sure is made anew.
    log.open()
    log.add(stamped(1010))
    log.open()
    log.add(stamped(1010, 1100))
    assert folder.path(*NAME).read_bytes().endswith(b"\n1006\n1008\n1010\n1100\n")


PRINTED = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 900, 2500]), st.sampled_from([b"x\n", b"", b"same\n", b"part", b"a longer line\n"])
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(printed=PRINTED, breaks=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 20)), max_size=3))
def test_a_copy_that_breaks_off_anywhere_ends_as_if_it_had_not(
    printed: list[tuple[int, bytes]], breaks: list[tuple[int, int]]
) -> None:
    with TemporaryDirectory() as name:
        _break_off(LogFolder(Path(name)), printed, breaks)


def _break_off(folder: LogFolder, printed: list[tuple[int, bytes]], breaks: list[tuple[int, int]]) -> None:
    pieces: list[Piece] = []
    for step_ms, data in printed:
        pieces.append(Piece((pieces[-1].time_ms if pieces else 10_000) + step_ms, data))

    def replayed(since_s: int) -> Iterable[Piece]:
        return [piece for piece in pieces if piece.time_ms >= since_s * 1000]

    for count, lost in breaks:
        log = ContainerLog(folder, NAME)
        log.add(list(replayed(log.open()))[:count])
        # The disk was full, or the host went down: the marks are there, and some bytes are not.
        path = folder.path(*NAME)
        whole = path.read_bytes()
        path.write_bytes(whole[: max(len(whole) - lost, 0)])
    log = ContainerLog(folder, NAME)
    log.add(replayed(log.open()))
    assert folder.path(*NAME).read_bytes() == b"".join(piece.data for piece in pieces)
    with folder.open(*NAME) as reader:
        offset = 0
        for piece in pieces:
            offset += len(piece.data)
            if piece.data:
                assert reader.time_of(offset) == piece.time_ms
