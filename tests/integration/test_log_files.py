import os
import struct
from pathlib import Path

import pytest

from batchyard.storage.log_files import LogFolder, LogGapError

NAMESPACE = "123456789012"
STREAM = "definition/default/0123456789abcdef"


@pytest.fixture
def logs(tmp_path: Path) -> LogFolder:
    return LogFolder(tmp_path)


def write(logs: LogFolder, data: bytes) -> None:
    with open(logs.path(NAMESPACE, STREAM), "ab") as file:
        file.write(data)


def finish_at(logs: LogFolder, time_ms: int) -> None:
    os.utime(logs.path(NAMESPACE, STREAM), ns=(time_ms * 1_000_000, time_ms * 1_000_000))
    logs.finish(NAMESPACE, STREAM)


def test_a_log_lies_under_its_namespace_and_stream(logs: LogFolder, tmp_path: Path) -> None:
    path = logs.create(NAMESPACE, STREAM)
    assert path == tmp_path / NAMESPACE / f"{STREAM}.log"
    assert path.read_bytes() == b""


def test_creating_a_log_again_leaves_it_as_it_is(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    write(logs, b"kept")
    assert logs.create(NAMESPACE, STREAM).read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("namespace", "stream"),
    [
        ("123456789012", "../escape"),
        ("123456789012", "a/../../escape"),
        ("123456789012", "/absolute"),
        ("123456789012", "a//b"),
        ("123456789012", "a/"),
        ("123456789012", ""),
        ("123456789012", "a\x00b"),
        ("123456789012", "a.log"),
        ("123456789012", "a\n"),
        ("12345678901", "a"),
        ("123456789012\n", "a"),
        ("..", "a"),
    ],
)
def test_no_name_leads_out_of_the_folder(logs: LogFolder, namespace: str, stream: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        logs.create(namespace, stream)


def test_marks_are_pairs_of_little_endian_integers(logs: LogFolder) -> None:
    path = logs.create(NAMESPACE, STREAM)
    logs.mark(NAMESPACE, STREAM, (3, 1000))
    logs.mark(NAMESPACE, STREAM, (300, 2000))
    assert path.with_suffix(".marks").read_bytes() == struct.pack("<qqqq", 3, 1000, 300, 2000)


def test_marks_never_go_back_in_place_or_time(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    for offset, time_ms in ((10, 1000), (10, 1500), (4, 1600), (20, 900)):
        logs.mark(NAMESPACE, STREAM, (offset, time_ms))
    marks = logs.marks(NAMESPACE, STREAM)
    assert list(zip(marks.offsets, marks.times_ms, strict=True)) == [(10, 1000), (20, 1000)]


def test_half_a_mark_left_by_a_crash_is_overwritten(logs: LogFolder) -> None:
    marks_file = logs.create(NAMESPACE, STREAM).with_suffix(".marks")
    marks_file.write_bytes(struct.pack("<qq", 3, 1000) + b"\x07\x07\x07")
    assert list(logs.marks(NAMESPACE, STREAM).offsets) == [3]
    logs.mark(NAMESPACE, STREAM, (5, 2000))
    assert marks_file.read_bytes() == struct.pack("<qqqq", 3, 1000, 5, 2000)


def test_an_unfinished_log_shows_what_is_marked(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    write(logs, b"shown hidden")
    logs.mark(NAMESPACE, STREAM, (5, 1000))
    with logs.open(NAMESPACE, STREAM) as log:
        assert not log.is_finished
        assert log.read(0, 100) == b"shown"
        assert log.read(2, 4) == b"ow"
        assert log.read(9, 100) == b""


def test_marks_ahead_of_the_bytes_show_nothing_that_is_not_there(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    write(logs, b"12345")
    logs.mark(NAMESPACE, STREAM, (50, 1000))
    with logs.open(NAMESPACE, STREAM) as log:
        assert log.end == 5


def test_a_finished_log_shows_whole_and_its_end_is_stamped_by_the_file(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    write(logs, b"one\ntwo\n")
    logs.mark(NAMESPACE, STREAM, (4, 1000))
    finish_at(logs, 5000)
    assert logs.is_finished(NAMESPACE, STREAM)
    with logs.open(NAMESPACE, STREAM) as log:
        assert log.is_finished
        assert log.read(0, 100) == b"one\ntwo\n"
        assert (log.time_of(4), log.time_of(5), log.time_of(8)) == (1000, 5000, 5000)


def test_offsets_are_found_by_time(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    write(logs, b"x" * 30)
    logs.mark(NAMESPACE, STREAM, (10, 1000))
    logs.mark(NAMESPACE, STREAM, (20, 2000))
    with logs.open(NAMESPACE, STREAM) as log:
        assert [log.offset_before(time_ms) for time_ms in (0, 1000, 1001, 2000, 2001)] == [0, 0, 10, 10, 20]
    finish_at(logs, 3000)
    with logs.open(NAMESPACE, STREAM) as log:
        assert [log.offset_before(time_ms) for time_ms in (2001, 3000, 3001)] == [20, 20, 30]


def test_a_log_is_not_older_than_its_last_mark(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    write(logs, b"one\ntwo\n")
    logs.mark(NAMESPACE, STREAM, (4, 1000))
    finish_at(logs, 400)
    with logs.open(NAMESPACE, STREAM) as log:
        assert log.time_of(8) == 1000


def test_segments_are_appended_once(logs: LogFolder) -> None:
    assert logs.append(NAMESPACE, STREAM, 0, b"abc", 1000) == 3
    assert logs.append(NAMESPACE, STREAM, 0, b"abc", 1100) == 3
    assert logs.append(NAMESPACE, STREAM, 1, b"bcde", 1200) == 5
    assert logs.append(NAMESPACE, STREAM, 5, b"", 1300) == 5
    logs.sync(NAMESPACE, STREAM)
    assert logs.path(NAMESPACE, STREAM).read_bytes() == b"abcde"
    assert list(logs.marks(NAMESPACE, STREAM).offsets) == [3, 5]


def test_a_segment_after_a_gap_is_refused_and_changes_nothing(logs: LogFolder) -> None:
    logs.append(NAMESPACE, STREAM, 0, b"abc", 1000)
    with pytest.raises(LogGapError) as caught:
        logs.append(NAMESPACE, STREAM, 4, b"e", 1000)
    assert caught.value.held == 3
    assert logs.path(NAMESPACE, STREAM).read_bytes() == b"abc"


def test_a_finished_log_takes_nothing_more(logs: LogFolder) -> None:
    logs.append(NAMESPACE, STREAM, 0, b"abc", 1000)
    logs.finish(NAMESPACE, STREAM)
    assert logs.append(NAMESPACE, STREAM, 3, b"late", 2000) == 3
    assert logs.path(NAMESPACE, STREAM).read_bytes() == b"abc"


def test_an_unknown_log_is_not_found(logs: LogFolder) -> None:
    with pytest.raises(FileNotFoundError), logs.open(NAMESPACE, STREAM):
        pass
    with pytest.raises(FileNotFoundError):
        logs.finish(NAMESPACE, STREAM)
    assert len(logs.marks(NAMESPACE, STREAM)) == 0


def test_a_segment_whose_mark_was_lost_is_marked_when_it_comes_again(logs: LogFolder) -> None:
    logs.append(NAMESPACE, STREAM, 0, b"abc", 1000)
    logs.path(NAMESPACE, STREAM).with_suffix(".marks").unlink()
    logs.append(NAMESPACE, STREAM, 0, b"abc", 2000)
    with logs.open(NAMESPACE, STREAM) as log:
        assert log.read(0, 3) == b"abc"


def test_the_state_changes_when_more_shows(logs: LogFolder) -> None:
    logs.create(NAMESPACE, STREAM)
    states = [logs.state(NAMESPACE, STREAM)]
    write(logs, b"abc")
    assert logs.state(NAMESPACE, STREAM) == states[-1]
    logs.mark(NAMESPACE, STREAM, (3, 1000))
    states.append(logs.state(NAMESPACE, STREAM))
    logs.finish(NAMESPACE, STREAM)
    states.append(logs.state(NAMESPACE, STREAM))
    assert len(set(states)) == 3


def test_idle_logs_are_those_that_nothing_was_written_to_for_long(logs: LogFolder, tmp_path: Path) -> None:
    times_ms = {"a/default/old": 1000, "b/default/fresh": 2000, "b/default/ahead": 9000, "c/default/older": 10}
    for stream, time_ms in times_ms.items():
        path = logs.create(NAMESPACE, stream)
        logs.mark(NAMESPACE, stream, (1, time_ms))
        os.utime(path, ns=(time_ms * 1_000_000, time_ms * 1_000_000))
    logs.create(NAMESPACE, "d/default/marks").unlink()
    logs.mark(NAMESPACE, "d/default/marks", (1, 1000))
    os.utime(tmp_path / NAMESPACE / "d/default/marks.marks", (1, 1))
    (tmp_path / "stray.log").touch()
    (tmp_path / NAMESPACE / "not a name.log").touch()
    found = {name for name in logs.idle_names(2000, 5000) if name is not None}
    expected = ("a/default/old", "b/default/ahead", "c/default/older", "d/default/marks")
    assert found == {(NAMESPACE, stream) for stream in expected}


def test_a_log_that_goes_while_idle_ones_are_looked_for_is_passed_over(logs: LogFolder) -> None:
    for number in range(3):
        os.utime(logs.create(NAMESPACE, f"definition/default/{number}"), (1, 1))
    names = (name for name in logs.idle_names(5000, 5000) if name is not None)
    first = next(names)
    for name in list(logs.names()):
        if name != first:
            logs.remove(*name)
    assert list(names) == []
