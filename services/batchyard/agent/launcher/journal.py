"""The journal of claims: what must be on disk before a run starts, so that it never starts twice.

A file of JSON lines, appended to and now and then rewritten without what was acknowledged:

    ["H", boot id, namespaced, true]                    written when the file is opened; true: by one who writes "B"
    ["K", [epoch, number], [[epoch, number], ...]]      floor of the forgotten fences, and those above it
    ["C", [[fence, need, about], ...]]                  claimed; on disk before the runs start
    ["B", [fence, ...]]                                 about to be started
    ["S", [[fence, pid, started], ...]]                 started
    ["D", [[fence, end, exit code, reason, started, ended], ...]]
    ["A", [fence, ...]]                                 acknowledged or given back, forgotten

Only claims are synced: whatever else is lost with the machine is lost with the runs themselves. What a process has
written survives it, so a claim of this boot that nobody was about to start has never started; of one of an earlier boot
nothing is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress

from batchyard.agent.launcher.ledger import Fence, Ledger, Run, RunEnd, RunState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMPACT_AFTER_BYTES = 1024 * 1024

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class JournalError(Exception):
    """The journal can't be read: going on might start a run twice."""


class History:
    """What a journal holds."""

    __slots__ = ("boot_id", "floor", "forgotten", "marks_starts", "namespaced", "pids", "runs")

    def __init__(self) -> None:
        self.boot_id = ""
        self.marks_starts = False
        """Whether its last writer said what it was about to start."""
        self.namespaced = False
        """Whether its last writer's death ended every process that it had started."""
        self.runs: dict[Fence, Run] = {}
        self.pids: dict[Fence, int] = {}
        """Process ids of runs that had started and not ended, as their launcher saw them."""
        self.floor: Fence = (0, 0)
        self.forgotten: list[Fence] = []

    def has_never_started(self, run: Run, boot_id: str) -> bool:
        """Tell whether it is certain that a run of the journal, whose last writer is dead, was not started by it."""
        return run.state is RunState.CLAIMED and not run.begun and self.boot_id == boot_id

    def may_run(self, boot_id: str) -> bool:
        """Tell whether any run of the journal may still go on."""
        return self.boot_id == boot_id and any(
            run.state in (RunState.CLAIMED, RunState.STARTED) for run in self.runs.values()
        )


def read_journal(path: str) -> History:
    """Read a journal that may be absent or end in a torn line; raise JournalError if it is damaged elsewhere."""
    return _read(path)[0]


class Journal:
    """The file, open for appending. Every method may raise OSError, and then has changed nothing."""

    def __init__(self, path: str, boot_id: str, *, namespaced: bool = False) -> None:
        """Open the file and read what is there into `history`; raise JournalError if it is damaged."""
        # Whole: the launcher does not stay in the folder that it stands in now.
        self._path = path = os.path.abspath(path)
        self._head = ["H", boot_id, namespaced, True]
        self.history, self._size = _read(path)
        self._compacted_size = 0
        self._is_torn = False
        """Whether the file may be longer than what counts of it."""
        self._is_renamed = False
        """Whether a power cut may take the file's name."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, self._size)
        self._write(_encode(self._head), sync=True)
        _sync_folder(path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def claim(self, runs: Collection[Run]) -> None:
        """Put claims on disk. When this returns, the runs may start."""
        self._append("C", [_claim(run) for run in runs], sync=True)
        for run in runs:
            run.journalled = True

    def begin(self, run: Run) -> None:
        """Note that a claimed run is about to be started: without this it must not be."""
        # What comes of it in JSON, written by hand: it is done for each run, between one start and the next.
        self._write(b'["B",[[%d,%d]]]\n' % run.fence, sync=False)
        run.begun = True

    def start(self, started: Iterable[tuple[Run, int]]) -> None:
        """Note runs that have started, with their process ids."""
        self._append("S", [[run.fence, pid, run.started] for run, pid in started])

    def finish(self, runs: Iterable[Run]) -> None:
        """Note runs that have ended."""
        self._append("D", [_done(run) for run in runs])

    def forget(self, fences: Iterable[Fence]) -> None:
        """Note runs whose end was acknowledged, or that were given back after their claim."""
        self._append("A", list(fences))

    def is_worth_compacting(self) -> bool:
        """Tell whether most of the file may be about runs that were forgotten."""
        return self._size >= max(COMPACT_AFTER_BYTES, 4 * self._compacted_size)

    def compact(self, ledger: Ledger, pids: dict[Fence, int]) -> None:
        """Rewrite the file from the ledger; `pids` are those of `start`."""
        self.rewrite(self.snapshot(ledger, pids))

    def snapshot(self, ledger: Ledger, pids: dict[Fence, int]) -> list[list[object]]:
        """Return what `rewrite` is to write; nothing may be written in between. What happens later isn't in it."""
        kept = [run for run in ledger.runs.values() if run.journalled and run.state is not RunState.REVOKED]
        started = [[run.fence, pids.get(run.fence, 0), run.started] for run in kept if run.state is RunState.STARTED]
        return [
            self._head,
            ["K", ledger.history.floor, list(ledger.history)],
            ["C", [_claim(run) for run in kept]],
            ["B", [run.fence for run in kept if run.begun]],
            ["S", started],
            ["D", [_done(run) for run in kept if run.state is RunState.DONE]],
        ]

    def rewrite(self, lines: Iterable[list[object]]) -> None:
        """Put a snapshot in the place of the file."""
        data = b"".join([_encode(line) for line in lines])
        fresh = self._path + ".new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
            os.fdatasync(fd)
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size, self._compacted_size = fd, len(data), len(data)
        self._is_torn, self._is_renamed = False, True
        self._keep_name()

    def _append(self, kind: str, entries: list[object], *, sync: bool = False) -> None:
        if entries:
            self._write(_encode([kind, entries]), sync=sync)

    def _write(self, line: bytes, *, sync: bool) -> None:
        self._cut()
        self._is_torn = True
        try:
            _write_all(self._fd, line)
            if sync:
                os.fdatasync(self._fd)
                self._keep_name()
        except OSError:
            with suppress(OSError):
                self._cut()
            raise
        self._is_torn = False
        self._size += len(line)

    def _cut(self) -> None:
        """Cut off a torn line: it may only be the last one."""
        if self._is_torn:
            os.ftruncate(self._fd, self._size)
            self._is_torn = False

    def _keep_name(self) -> None:
        if self._is_renamed:
            _sync_folder(self._path)
            self._is_renamed = False


def _claim(run: Run) -> list[object]:
    return [run.fence, run.need, run.about]


def _done(run: Run) -> list[object]:
    return [run.fence, run.end, run.exit_code, run.reason, run.started, run.ended]


def _encode(line: list[object]) -> bytes:
    return _to_json(line).encode() + b"\n"


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


def _read(path: str) -> tuple[History, int]:
    """Return what the file holds, and the length of its whole lines."""
    history = History()
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return history, 0
    size = data.rfind(b"\n") + 1
    for number, line in enumerate(data[:size].splitlines(), 1):
        try:
            _apply(history, json.loads(line))
        except (ValueError, LookupError, TypeError) as error:
            raise JournalError(f"{path} is damaged at line {number}: {error}") from error
    return history, size


def _apply(history: History, line: list[Any]) -> None:
    kind, entries = line[0], line[1]
    if kind == "H":
        _begin_writer(history, *line[1:])
    elif kind == "K":
        history.floor = _fence(line[1])
        history.forgotten = [_fence(fence) for fence in line[2]]
    elif kind == "C":
        for fence, need, about in entries:
            run = Run(_fence(fence), (need[0], need[1], need[2]), about, None)
            run.state, run.journalled, run.begun = RunState.CLAIMED, True, not history.marks_starts
            history.runs[run.fence] = run
    elif kind == "B":
        for fence in map(_fence, entries):
            history.runs[fence].begun = True
    elif kind == "S":
        for fence, pid, started in entries:
            run = history.runs[_fence(fence)]
            run.state, run.started, run.begun = RunState.STARTED, started, True
            history.pids[run.fence] = pid
    elif kind == "D":
        for fence, end, exit_code, reason, started, ended in entries:
            run = history.runs[_fence(fence)]
            run.state, run.end, run.exit_code, run.reason = RunState.DONE, RunEnd(end), exit_code, reason
            run.started, run.ended = started, ended
            history.pids.pop(run.fence, None)
    elif kind == "A":
        for fence in map(_fence, entries):
            history.runs.pop(fence, None)
            history.pids.pop(fence, None)
            history.forgotten.append(fence)
    else:
        raise ValueError(f"unknown kind {kind!r}")


def _begin_writer(history: History, boot_id: str, namespaced: bool, marks_starts: bool = False) -> None:
    if boot_id != history.boot_id:
        # What their writer said before the machine stopped may not have come to the disk.
        for run in history.runs.values():
            run.begun = True
    history.boot_id, history.namespaced, history.marks_starts = boot_id, namespaced, marks_starts


def _fence(pair: list[int]) -> Fence:
    return (pair[0], pair[1])
