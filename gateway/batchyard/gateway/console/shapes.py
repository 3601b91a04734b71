"""What is drawn: the numbers behind bars, time lines, grids and graphs. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any, Final

STATUSES: Final = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED"})

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(ms: float) -> str:
    """Return a time as people say it: two units at most."""
    seconds = max(ms, 0) / 1000
    if seconds < 1:
        return f"{max(ms, 0):.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
    return f"{seconds // _DAY:.0f} d {seconds % _DAY // _HOUR:.0f} h"


def memory(mib: float) -> str:
    """Return an amount of memory."""
    return f"{mib / 1024:.4g} GiB" if mib >= 1024 else f"{mib:.4g} MiB"


def share(part: float, whole: float) -> float:
    """Return a part in per cent of a whole, at most all of it."""
    return min(100.0, 100.0 * part / whole) if whole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute of a chart: how high it stands for what succeeded and, on top of that, for what failed."""

    x: int
    succeeded: float
    failed: float
    title: str


def minute_bars(minutes: Sequence[Mapping[str, int]], height: float) -> list[Bar]:
    """Return a bar for each minute, scaled to the highest."""
    highest = max((minute.get("succeeded", 0) + minute.get("failed", 0) for minute in minutes), default=0)
    bars = []
    for position, minute in enumerate(minutes):
        succeeded, failed = minute.get("succeeded", 0), minute.get("failed", 0)
        ago = len(minutes) - 1 - position
        when = "in this minute" if not ago else f"{ago} min ago"
        title = f"{when}: {succeeded} succeeded, {failed} failed"
        scale = height / highest if highest else 0
        bars.append(Bar(position, succeeded * scale, failed * scale, title))
    return bars


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a job's time line, in per cent of it."""

    label: str
    kind: str
    begin: float
    width: float
    lasted: str


def time_line(job: Mapping[str, Any], now_ms: int) -> list[Span]:
    """Return what a job did from its submission until its end, or now: it waited, it ran, once or several times."""
    begin = job["createdAt"]
    if "size" in job.get("arrayProperties", {}):
        # An array does not run itself, and when its children did is theirs to tell.
        lasted = job.get("stoppedAt", now_ms) - begin
        kind = {"SUCCEEDED": "succeeded", "FAILED": "failed"}.get(job["status"], "running")
        return [Span("all children", kind, 0, 100, duration(lasted))]
    is_over = job["status"] in TERMINAL
    runs = [
        (attempt["startedAt"], attempt["stoppedAt"], f"attempt {number}", "failed")
        for number, attempt in enumerate(job.get("attempts", ()), 1)
        if "startedAt" in attempt
    ]
    if runs and job["status"] == "SUCCEEDED":
        runs[-1] = (*runs[-1][:3], "succeeded")
    if job["status"] == "RUNNING" and "startedAt" in job:
        runs.append((job["startedAt"], now_ms, f"attempt {len(job.get('attempts', ())) + 1}", "running"))
    ends = [stopped for _, stopped, _, _ in runs]
    end = max(begin + 1, job.get("stoppedAt", 0), *ends) if is_over else max(begin + 1, now_ms)
    spans, at = [], begin

    def add(label: str, kind: str, first: int, last: int) -> None:
        if last > first:
            left = 100 * (first - begin) / (end - begin)
            spans.append(Span(label, kind, left, 100 * (last - first) / (end - begin), duration(last - first)))

    for first, last, label, kind in runs:
        add("waiting", "waiting", at, first)
        add(label, kind, first, last)
        at = max(at, last)
    if not is_over:
        add("waiting", "waiting", at, end)
    return spans


COMPARED_LINES_MAX: Final = 2000
"""Of longer texts no differences are looked for: it would take too long."""


def differences(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the lines of two texts with what became of them: `added`, `removed` or `same`."""
    if max(len(before), len(after)) > COMPARED_LINES_MAX:
        yield from (("removed", line) for line in before)
        yield from (("added", line) for line in after)
        return
    # Not `ndiff`, which looks for likeness within lines: some hundreds of like ones take it minutes.
    for _, first, last, new_first, new_last in SequenceMatcher(None, before, after).get_opcodes():
        if before[first:last] == after[new_first:new_last]:
            yield from (("same", line) for line in before[first:last])
        else:
            yield from (("removed", line) for line in before[first:last])
            yield from (("added", line) for line in after[new_first:new_last])


CELLS_A_ROW: Final = 100
CELL: Final = 10


@dataclass(frozen=True, slots=True)
class Grid:
    """The children of an array as cells, by index from left to right; a path for each status that there is."""

    width: int
    height: int
    columns: int
    paths: dict[str, str]
    lines: str
    """Between the cells of a row."""


def child_grid(statuses: bytes) -> Grid:
    """Return the grid of an array: neighbours of one status are one stroke."""
    columns = min(CELLS_A_ROW, max(10, len(statuses)))
    rows = -(-len(statuses) // columns)
    paths: dict[str, list[str]] = {}
    for row in range(rows):
        cells = statuses[row * columns : (row + 1) * columns]
        column = 0
        for status, same in groupby(cells):
            length = len(list(same))
            stroke = f"M{column * CELL} {row * CELL}h{length * CELL}v{CELL}h-{length * CELL}z"
            paths.setdefault(STATUSES[status - 1], []).append(stroke)
            column += length
    lines = "".join(f"M{column * CELL} 0v{rows * CELL}" for column in range(1, columns))
    merged = {status: "".join(strokes) for status, strokes in paths.items()}
    return Grid(columns * CELL, rows * CELL, columns, merged, lines)


NODE_WIDTH: Final = 200
NODE_HEIGHT: Final = 36
NODE_GAP: Final = 10
COLUMN_GAP: Final = 60
NODES_A_COLUMN: Final = 12


@dataclass(frozen=True, slots=True)
class Node:
    """A job in a graph."""

    x: int
    y: int
    job_id: str
    name: str
    status: str
    is_this: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """What a job waits for, on its left, and what waits for it, on its right."""

    width: int
    height: int
    nodes: list[Node]
    edges: list[str]
    hidden_before: int
    hidden_after: int


def graph_of(job: Mapping[str, Any], before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Graph:
    """Return the graph of a job and its neighbours; of many, the first are shown."""
    columns = [list(before[:NODES_A_COLUMN]), [job], list(after[:NODES_A_COLUMN])]
    rows = max(len(column) for column in columns)
    height = rows * (NODE_HEIGHT + NODE_GAP) - NODE_GAP
    placed = [list(_column(column, place, height)) for place, column in enumerate(columns)]
    (this,) = placed[1]
    edges = [*(_edge(node, this) for node in placed[0]), *(_edge(this, node) for node in placed[2])]
    return Graph(
        3 * NODE_WIDTH + 2 * COLUMN_GAP,
        height,
        [node for column in placed for node in column],
        edges,
        len(before) - len(columns[0]),
        len(after) - len(columns[2]),
    )


def _column(jobs: Iterable[Mapping[str, Any]], place: int, height: int) -> Iterator[Node]:
    found = list(jobs)
    top = (height - (len(found) * (NODE_HEIGHT + NODE_GAP) - NODE_GAP)) // 2
    for row, job in enumerate(found):
        yield Node(
            place * (NODE_WIDTH + COLUMN_GAP),
            top + row * (NODE_HEIGHT + NODE_GAP),
            job["jobId"],
            job["jobName"],
            job["status"],
            is_this=place == 1,
        )


def _edge(left: Node, right: Node) -> str:
    x1, y1 = left.x + NODE_WIDTH, left.y + NODE_HEIGHT // 2
    x2, y2 = right.x, right.y + NODE_HEIGHT // 2
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
