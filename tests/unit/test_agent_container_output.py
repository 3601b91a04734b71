"""The output of containers: the engine's stream taken apart, and a log that goes on where it broke off."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.agent.runtimes.output import ContainerLog, FrameReader, Piece
from batchyard.storage.log_files import LogFolder

NAME = ("123456789012", "definition/default/1")
SECOND_MS = 1_900_000_000_000
"""2030-03-17T17:46:40Z."""


def frame(text: bytes) -> bytes:
    return b"\x01\x00\x00\x00" + len(text).to_bytes(4, "big") + text


STREAM = (
    frame(b"2030-03-17T17:46:40.123456789Z one\n")
    + frame(b"2030-03-17T17:46:40.120Z \n")
    + frame(b"2030-03-17T18:46:41+01:00 a part of ")
    + frame(b"2030-03-17T17:46:41.5Z a line\n")
    + frame(b"no time\n")
)
PIECES = [
    Piece(SECOND_MS + 123, b"one\n"),
    Piece(SECOND_MS + 123, b"\n"),
    Piece(SECOND_MS + 1000, b"a part of "),
    Piece(SECOND_MS + 1500, b"a line\n"),
    Piece(SECOND_MS + 1500, b"no time\n"),
]


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
def test_frames_are_read_wherever_the_stream_is_broken(size: int) -> None:
    reader = FrameReader(lambda: SECOND_MS + 1_000_000)
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [piece for chunk in chunks for piece in reader.feed(chunk)] == PIECES


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
