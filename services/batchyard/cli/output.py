"""How answers are printed: tables for people, AWS's JSON for programs; no colour and no cut cells but on a terminal."""

import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, cast

import msgspec
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from batchyard.gateway.transcoder import compile_encoder

STYLES: Final = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "RUNNING": "cyan",
    "STARTING": "cyan",
    "RUNNABLE": "yellow",
    "PENDING": "dim",
    "SUBMITTED": "dim",
    "ENABLED": "green",
    "VALID": "green",
    "ACTIVE": "green",
    "DISABLED": "yellow",
    "DRAINING": "yellow",
    "INVALID": "red",
    "LOST": "red",
}
"""Of words that say how something is."""

GAP: Final = 2
"""Between columns."""
CELL_WIDTH_MIN: Final = 4
SPARE_WIDTH_MIN: Final = 16
"""Of columns that are left out sooner than cut to less."""

_AGES: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def console_of(*, stderr: bool = False) -> Console:
    """Return the console, which has colours on a terminal alone."""
    return Console(file=sys.stderr if stderr else sys.stdout, highlight=False)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, whole: Sequence[str] = (), spare: Sequence[str] = ()
) -> None:
    """Print rows under their columns' names, two blanks apart at least.

    On a terminal cells are cut to fit its width, but not numbers and those of the columns in `whole`. Where it is so
    narrow that this is not enough, columns in `spare` are left out, the first of them first. Elsewhere everything is
    printed. A column whose name ends in `#` is of numbers.
    """
    console = console_of()
    are_numbers = [column.endswith("#") for column in columns]
    lines = [[column.removesuffix("#") for column in columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    if console.is_terminal:
        smallest = [
            width
            if name in whole or is_number
            else min(width, max(len(name), SPARE_WIDTH_MIN if name in spare else CELL_WIDTH_MIN))
            for name, is_number, width in zip(columns, are_numbers, widths, strict=True)
        ]
        for place in map(columns.index, spare):
            if _room_for(smallest) > console.width:
                smallest[place] = widths[place] = 0
        _fit(widths, console.width, smallest)
    for number, line in enumerate(lines):
        shown = [each for each in zip(line, widths, are_numbers, strict=True) if each[1]]
        cells = [_cell(*each) for each in shown]
        if not console.is_terminal:
            print((" " * GAP).join(cells).rstrip())
            continue
        styles = ["bold" if number == 0 else STYLES.get(text, "") for text, *_ in shown]
        texts = [Text(cell, style) for cell, style in zip(cells, styles, strict=True)]
        console.print(Text(" " * GAP).join(texts), no_wrap=True, overflow="ignore", crop=False)


def _room_for(widths: Sequence[int]) -> int:
    """Return how wide a table is with columns of these widths; one of no width is not there."""
    return sum(width + GAP for width in widths if width) - GAP


def _fit(widths: list[int], room: int, smallest: Sequence[int]) -> None:
    """Take from the widest columns what does not fit, as far as they go."""
    while _room_for(widths) > room:
        can = [place for place in range(len(widths)) if widths[place] > smallest[place]]
        if not can:
            return
        widths[max(can, key=lambda place: widths[place])] -= 1


def printable(text: str) -> str:
    """Return a text on one line, and without what would be an order to a terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def _cell(text: str, width: int, is_number: bool) -> str:
    text = text if len(text) <= width else f"{text[: width - 1]}…"
    return text.rjust(width) if is_number else text.ljust(width)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, a line each; those without a value are left out."""
    told = [(name, printable(value)) for name, value in facts if value]
    console = console_of()
    width = max((len(name) for name, _ in told), default=0) + 2
    for name, value in told:
        if console.is_terminal:
            console.print(Text.assemble((name.ljust(width), "bold"), (value, STYLES.get(value, ""))))
        else:
            print(f"{name.ljust(width)}{value}")


def print_json(document: Any) -> None:
    """Print a JSON document."""
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def members_of(message: Message) -> Any:
    """Return a message in AWS's member names, ready to be printed as JSON."""
    return msgspec.json.decode(_encoder_of(cast("Descriptor", message.DESCRIPTOR))(message))


_encoder_of = cache(compile_encoder)


def age(since_ms: int | None) -> str:
    """Return how long ago a time was, such as 5m; empty for none."""
    return "" if not since_ms else duration(max(0, int(time.time() * 1000) - since_ms))


def duration(milliseconds: int) -> str:
    """Return a duration in its largest unit and the one below, such as 2h05m."""
    seconds = milliseconds // 1000
    if seconds < 1:
        return f"{milliseconds}ms"
    for (unit, word), (smaller, smaller_word) in zip(_AGES, (*_AGES[1:], (0, "")), strict=True):
        if seconds >= unit:
            rest = f"{seconds % unit // smaller:02d}{smaller_word}" if smaller else ""
            return f"{seconds // unit}{word}{rest}"
    return ""


def moment(at_ms: int) -> str:
    """Return a time for people: local, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else ""
