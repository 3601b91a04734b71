from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.errors import InvalidRequestError
from batchyard.logs import lines, pages
from batchyard.logs.lines import boundary_before, lines_before, lines_from
from batchyard.logs.pages import Direction, Page, PageRequest, Token, parse_token, read_page

LINE_MAX = 8
"""The longest line in these tests, so that small logs have long lines."""


@pytest.fixture(autouse=True, scope="module")
def small_lines() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(lines, "LINE_BYTES_MAX", LINE_MAX)
    patch.setattr(lines, "_WINDOW_BYTES", 3 * LINE_MAX)
    yield
    patch.undo()


@dataclass
class FakeLog:
    """A log in memory. `marks` are (offset, time); the end of a finished log came at `finished_ms`."""

    data: bytes
    is_finished: bool = True
    marks: list[tuple[int, int]] = field(default_factory=list)
    finished_ms: int = 1_000_000
    cut: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.cut is not None:
            start, end = self.cut
            self.data = self.data[:start] + bytes(end - start) + self.data[end:]

    @property
    def end(self) -> int:
        return len(self.data)

    def read(self, offset: int, end: int) -> bytes:
        return self.data[offset:end]

    def time_of(self, end: int) -> int:
        index = bisect_left([offset for offset, _ in self.marks], end)
        return self.marks[index][1] if index < len(self.marks) else self.finished_ms

    def offset_before(self, time_ms: int) -> int:
        if self.is_finished and self.finished_ms < time_ms:
            return self.end
        return max((offset for offset, at in self.marks if at < time_ms), default=0)


def texts(log: FakeLog) -> list[bytes]:
    return [line.text for line in lines_from(log, 0)]


LOGS = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n", b"defghij"]), max_size=40).map(b"".join)


def boundaries(log: FakeLog) -> list[int]:
    return [0, *(line.next for line in lines_from(log, 0))]


def test_lines_are_events_without_their_ends() -> None:
    assert texts(FakeLog(b"one\n\ntwo\r\nend")) == [b"one", b"", b"two\r", b"end"]


def test_the_unfinished_last_line_is_no_event_yet() -> None:
    assert texts(FakeLog(b"one\ntwo", is_finished=False)) == [b"one"]


def test_a_line_of_the_longest_length_is_whole() -> None:
    assert texts(FakeLog(b"ab\n" + b"x" * LINE_MAX + b"\nc\n")) == [b"ab", b"x" * LINE_MAX, b"c"]


def test_a_longer_line_is_split_at_multiples_of_the_limit() -> None:
    assert texts(FakeLog(b"ab\n" + b"x" * 18 + b"\nc\n")) == [b"ab", b"x" * 5, b"x" * 8, b"x" * 5, b"c"]


def test_a_line_that_is_too_long_already_shows_while_it_grows() -> None:
    assert texts(FakeLog(b"x" * 17, is_finished=False)) == [b"x" * 8, b"x" * 8]
    assert texts(FakeLog(b"x" * 8, is_finished=False)) == []


@given(LOGS, st.booleans())
def test_events_hold_every_byte_once_and_are_never_too_long(data: bytes, is_finished: bool) -> None:
    log = FakeLog(data, is_finished)
    found = list(lines_from(log, 0))
    assert [line.start for line in found] == boundaries(log)[:-1]
    assert all(line.text == data[line.start : line.next].removesuffix(b"\n") for line in found)
    assert all(len(line.text) <= LINE_MAX and b"\n" not in line.text for line in found)
    rest = data[boundaries(log)[-1] :]
    assert rest == b"" if is_finished else b"\n" not in rest and len(rest) <= LINE_MAX


@given(LOGS)
def test_only_lines_that_are_too_long_are_split(data: bytes) -> None:
    joined: list[bytes] = []
    previous_whole = True
    log = FakeLog(data)
    for line in lines_from(log, 0):
        if previous_whole:
            joined.append(line.text)
        else:
            joined[-1] += line.text
        previous_whole = data[line.start : line.next].endswith(b"\n")
        assert previous_whole or line.next == log.end or line.next % LINE_MAX == 0
    assert joined == data.split(b"\n")[: len(joined)]
    short = [text for text in data.split(b"\n") if len(text) <= LINE_MAX]
    whole = [line.text for line in lines_from(log, 0)]
    assert all(text in whole for text in short[:-1])


@given(LOGS, st.integers(0, 400))
def test_events_stay_what_they_were_when_the_log_grows(data: bytes, size: int) -> None:
    earlier = [(line.start, line.next) for line in lines_from(FakeLog(data[:size], is_finished=False), 0)]
    later = [(line.start, line.next) for line in lines_from(FakeLog(data), 0)]
    assert later[: len(earlier)] == earlier


@given(LOGS, st.booleans())
def test_events_are_the_same_backward_from_every_boundary(data: bytes, is_finished: bool) -> None:
    log = FakeLog(data, is_finished)
    forward = list(lines_from(log, 0))
    for count, boundary in enumerate(boundaries(log)):
        assert list(lines_before(log, boundary)) == forward[:count][::-1]
        assert list(lines_from(log, boundary)) == forward[count:]


@given(LOGS, st.booleans())
def test_the_boundary_before_any_offset_is_found(data: bytes, is_finished: bool) -> None:
    log = FakeLog(data, is_finished)
    known = boundaries(log)
    for offset in range(len(data) + 2):
        assert boundary_before(log, offset) == max(boundary for boundary in known if boundary <= offset)


@given(LOGS, st.data())
def test_a_cut_is_one_event_and_the_others_are_the_same_either_way(data: bytes, draw: Any) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    log = FakeLog(data, cut=(start, end))
    found = list(lines_from(log, 0))
    before = list(lines_from(FakeLog(data[:start]), 0))
    assert found[: len(before)] == before
    if end > start:
        note = found[len(before)]
        assert (note.start, note.next) == (start, end)
        assert note.text == b"[batchyard] %d bytes of this log were cut out here: it grew too long" % (end - start)
    kept = b"".join(data[line.start : line.next] for line in found if line.start >= end)
    assert kept == data[end:]
    known = [0, *(line.next for line in found)]
    for count, boundary in enumerate(known):
        assert list(lines_before(log, boundary)) == found[:count][::-1]
        assert list(lines_from(log, boundary)) == found[count:]
    for offset in range(len(data) + 1):
        assert boundary_before(log, offset) == max(boundary for boundary in known if boundary <= offset)


def test_a_token_into_what_was_cut_since_leads_to_the_note_and_on() -> None:
    log = FakeLog(b"1\n2\n3\n4\n5\n", cut=(2, 8))
    forward = messages(read_page(log, PageRequest(Token(Direction.FORWARD, 6))))
    assert forward == ["[batchyard] 6 bytes of this log were cut out here: it grew too long", "5"]
    backward = messages(read_page(log, PageRequest(Token(Direction.BACKWARD, 6))))
    assert backward == ["1", forward[0]]


def test_a_cut_whose_end_does_not_show_yet_is_no_event() -> None:
    log = FakeLog(b"1\n2\n3\n", is_finished=False)
    log.cut = (2, 9)
    assert texts(log) == [b"1"]


# Pages


def messages(page: Page) -> list[str]:
    return [event.message for event in page.events]


def read_all(log: FakeLog, first: PageRequest, direction: Direction) -> list[str]:
    """Follow the tokens in one direction, as clients do, until the answer repeats the token."""
    found: list[list[str]] = []
    request = first
    while True:
        page = read_page(log, request)
        token = page.forward_token if direction is Direction.FORWARD else page.backward_token
        found.append(messages(page))
        if token == request.token:
            break
        request = PageRequest(token, first.from_head, first.start_ms, first.end_ms, first.limit)
    if direction is Direction.BACKWARD:
        found.reverse()
    return [message for page in found for message in page]


@given(LOGS, st.booleans(), st.integers(1, 5))
def test_tokens_lead_through_all_events_in_both_directions(data: bytes, is_finished: bool, limit: int) -> None:
    log = FakeLog(data, is_finished)
    everything = [text.decode() for text in texts(log)]
    assert read_all(log, PageRequest(from_head=True, limit=limit), Direction.FORWARD) == everything
    assert read_all(log, PageRequest(limit=limit), Direction.BACKWARD) == everything


@given(LOGS, st.data())
def test_times_choose_the_events_that_came_between_them(data: bytes, draw: Any) -> None:
    offsets = draw.draw(st.lists(st.integers(1, max(len(data), 1)), unique=True).map(sorted))
    steps = draw.draw(st.lists(st.integers(0, 5), min_size=len(offsets), max_size=len(offsets)))
    marks = list(zip(offsets, accumulate(steps, initial=100), strict=False))
    log = FakeLog(
        data, marks=marks, finished_ms=max([at for _, at in marks], default=100) + draw.draw(st.integers(0, 5))
    )
    start, end = draw.draw(st.none() | st.integers(98, 140)), draw.draw(st.none() | st.integers(98, 140))
    expected = [
        event.message
        for event in read_page(log, PageRequest(from_head=True)).events
        if (start is None or event.time_ms >= start) and (end is None or event.time_ms < end)
    ]
    for limit in (1, 3, pages.EVENTS_MAX):
        from_head = PageRequest(from_head=True, start_ms=start, end_ms=end, limit=limit)
        assert read_all(log, from_head, Direction.FORWARD) == expected
        from_tail = PageRequest(start_ms=start, end_ms=end, limit=limit)
        assert read_all(log, from_tail, Direction.BACKWARD) == expected


def test_the_newest_page_comes_first_unless_the_head_is_asked_for() -> None:
    log = FakeLog(b"1\n2\n3\n4\n5\n")
    assert messages(read_page(log, PageRequest(limit=2))) == ["4", "5"]
    assert messages(read_page(log, PageRequest(limit=2, from_head=True))) == ["1", "2"]


def test_tokens_turn_round() -> None:
    log = FakeLog(b"1\n2\n3\n4\n5\n")
    page = read_page(log, PageRequest(limit=2, from_head=True))
    page = read_page(log, PageRequest(page.forward_token, limit=2))
    assert messages(page) == ["3", "4"]
    assert messages(read_page(log, PageRequest(page.backward_token, limit=2))) == ["1", "2"]


def test_at_either_end_the_token_is_repeated_and_goes_on_when_more_comes() -> None:
    log = FakeLog(b"1\n2", is_finished=False)
    page = read_page(log, PageRequest())
    again = read_page(log, PageRequest(page.forward_token))
    assert (again.events, again.forward_token) == ([], page.forward_token)
    head = read_page(log, PageRequest(page.backward_token))
    assert (head.events, head.backward_token) == ([], page.backward_token)
    grown = FakeLog(b"1\n2\n3\n", is_finished=False)
    assert messages(read_page(grown, PageRequest(page.forward_token))) == ["2", "3"]


def test_an_empty_log_has_tokens() -> None:
    page = read_page(FakeLog(b"", is_finished=False), PageRequest())
    assert (page.events, str(page.forward_token)) == ([], "f/00000000000000000000")


def test_a_page_is_bounded_in_bytes_but_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FakeLog(b"aaaa\nbbbb\ncccc\n")
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", 2 * (4 + 26))
    assert messages(read_page(log, PageRequest(from_head=True))) == ["aaaa", "bbbb"]
    monkeypatch.setattr(pages, "PAGE_BYTES_MAX", 1)
    assert messages(read_page(log, PageRequest())) == ["cccc"]


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert messages(read_page(FakeLog(b"a\xffb\n"), PageRequest())) == ["a\ufffdb"]


@pytest.mark.parametrize("text", ["", "f/1", "x/" + "0" * 20, "f/" + "0" * 19 + "x", "f/" + "0" * 20 + "\n"])
def test_a_token_that_was_never_given_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_token(text)
    assert caught.value.field == "nextToken"


def test_a_token_beyond_the_log_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        read_page(FakeLog(b"1\n"), PageRequest(Token(Direction.FORWARD, 3)))


@pytest.mark.parametrize("direction", list(Direction))
def test_tokens_are_read_as_they_were_written(direction: Direction) -> None:
    token = Token(direction, 12345)
    assert parse_token(str(token)) == token
