"""The journal of claims: what must be on disk before a run starts, so that it never starts twice.

A file of JSON lines, appended to and now and then rewritten without what was acknowledged:

    ["H", boot id, namespaced]                          written when the file is opened
    ["K", [epoch, number], [[epoch, number], ...]]      floor of the forgotten fences, and those above it
    ["C", fence, need, about]                           claimed; on disk before the run starts
    ["S", fence, pid, started]                          started
    ["D", fence, end, exit code, reason, started, ended]
    ["A", [fence, ...]]                                 acknowledged, forgotten

Only claims are synced: whatever else is lost with the machine is lost with the runs themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from batchyard.agent.launcher.ledger import FINAL, Fence, Ledger, Run, RunEnd, RunState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMPACT_AFTER_LINES = 4096

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class JournalError(Exception):
    """The journal can't be read: going on might start a run twice."""


class History:
    """What a journal holds."""

    __slots__ = ("boot_id", "floor", "forgotten", "namespaced", "pids", "runs")

    def __init__(self) -> None:
        self.boot_id = ""
        self.namespaced = False
        """Whether its last writer's death ended every process that it had started."""
        self.runs: dict[Fence, Run] = {}
        self.pids: dict[Fence, int] = {}
        """Process ids of runs that had started and not ended, as their launcher saw them."""
        self.floor: Fence = (0, 0)
        self.forgotten: list[Fence] = []


def read_journal(path: str) -> History:
    """Read a journal that may be absent or end in a torn line; raise JournalError if it is damaged elsewhere."""
    return _read(path)[0]


class Journal:
    """The file, open for appending. Every method may raise OSError, and then has changed nothing."""

    def __init__(self, path: str, boot_id: str, *, namespaced: bool = False) -> None:
        """Open the file and read what is there into `history`; raise JournalError if it is damaged."""
        self._path = path
        self._head = ["H", boot_id, namespaced]
        self.history, self._size, self._lines = _read(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, self._size)
        self._append([self._head], sync=True)
        _sync_folder(path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def claim(self, runs: Iterable[Run]) -> None:
        """Put claims on disk. When this returns, the runs may start."""
        self._append([["C", run.fence, run.need, run.about] for run in runs], sync=True)

    def start(self, started: Iterable[tuple[Run, int]]) -> None:
        """Note runs that have started, with their process ids."""
        self._append([["S", run.fence, pid, run.started] for run, pid in started], sync=False)

    def finish(self, runs: Iterable[Run]) -> None:
        """Note runs that have ended."""
        self._append([_done(run) for run in runs], sync=False)

    def forget(self, fences: list[Fence]) -> None:
        """Note runs whose end was acknowledged."""
        self._append([["A", fences]], sync=False)

    def is_worth_compacting(self, ledger: Ledger) -> bool:
        """Tell whether most of the file is about runs that were forgotten."""
        return self._lines >= COMPACT_AFTER_LINES + len(ledger.history) and self._lines >= 8 * len(ledger.runs)

    def compact(self, ledger: Ledger, pids: dict[Fence, int]) -> None:
        """Rewrite the file from the ledger; `pids` are those of `start`."""
        lines: list[list[object]] = [self._head, ["K", ledger.history.floor, list(ledger.history)]]
        for run in ledger.runs.values():
            if run.state in (RunState.OFFERED, RunState.REVOKED):
                continue
            lines.append(["C", run.fence, run.need, run.about])
            if run.state is RunState.STARTED:
                lines.append(["S", run.fence, pids.get(run.fence, 0), run.started])
            if run.state is RunState.DONE:
                lines.append(_done(run))
        self._rewrite(lines)

    def _rewrite(self, lines: list[list[object]]) -> None:
        fresh = self._path + ".new"
        data = _encode(lines)
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
            os.fdatasync(fd)
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size, self._lines = fd, len(data), len(lines)
        _sync_folder(self._path)

    def _append(self, lines: list[list[object]], *, sync: bool) -> None:
        if not lines:
            return
        data = _encode(lines)
        try:
            _write_all(self._fd, data)
            if sync:
                os.fdatasync(self._fd)
        except OSError:
            # A torn line may only be the last one.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self._lines += len(lines)


def _done(run: Run) -> list[object]:
    return ["D", run.fence, run.end, run.exit_code, run.reason, run.started, run.ended]


def _encode(lines: Iterable[list[object]]) -> bytes:
    return "".join([_to_json(line) + "\n" for line in lines]).encode()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: str) -> tuple[History, int, int]:
    """Return what the file holds, the length of its whole lines, and their number."""
    history = History()
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return history, 0, 0
    size = data.rfind(b"\n") + 1
    lines = data[:size].splitlines()
    for number, line in enumerate(lines, 1):
        try:
            _apply(history, json.loads(line))
        except (ValueError, LookupError, TypeError) as error:
            raise JournalError(f"{path} is damaged at line {number}: {error}") from error
    return history, size, len(lines)


def _apply(history: History, entry: list[Any]) -> None:
    kind = entry[0]
    if kind == "H":
        history.boot_id, history.namespaced = entry[1], entry[2]
    elif kind == "K":
        history.floor = _fence(entry[1])
        history.forgotten = [_fence(fence) for fence in entry[2]]
    elif kind == "A":
        for fence in map(_fence, entry[1]):
            history.runs.pop(fence, None)
            history.pids.pop(fence, None)
            history.forgotten.append(fence)
    elif kind == "C":
        run = Run(_fence(entry[1]), tuple(entry[2]), entry[3], None)
        run.state = RunState.CLAIMED
        history.runs[run.fence] = run
    elif kind == "S":
        run = history.runs[_fence(entry[1])]
        run.state, run.started = RunState.STARTED, entry[3]
        history.pids[run.fence] = entry[2]
    elif kind == "D":
        run = history.runs[_fence(entry[1])]
        run.state, run.end = RunState.DONE, RunEnd(entry[2])
        run.exit_code, run.reason, run.started, run.ended = entry[3:7]
        history.pids.pop(run.fence, None)
        assert run.state in FINAL
    else:
        raise ValueError(f"unknown kind {kind!r}")


def _fence(pair: list[int]) -> Fence:
    return (pair[0], pair[1])
