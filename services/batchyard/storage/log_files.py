"""What jobs print, as files: one layout for the agents that write them and the logs service that reads them.

`<root>/<namespace>/<log stream name>.log` holds the raw bytes. Beside it, `.marks` says when they came: a list of
(end offset, milliseconds since the epoch), two little-endian 64-bit integers each. A log that its owner may not write
any more is finished: nothing will be added, and its modification time stamps what lies after the last mark. Of a log
that is not finished, the bytes after the last mark do not show yet. `.group` names its log group, where that is not
the usual one.
"""

import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from batchyard.domain.names import LOG_GROUP
from batchyard.storage.log_catalog import OWNER_WRITE, LogEntry, entry_of, log_entries, read_group
from batchyard.storage.log_cuts import Cut, NoHolesError, copy_without, middle_of, punch
from batchyard.storage.log_marks import MARKS_BYTES_MAX, Marks, add_marks, read_marks, replace, thin_marks

_NAMESPACE: Final = re.compile(r"[0-9]{12}")
_STREAM: Final = re.compile(r"[A-Za-z0-9_-]{1,255}(/[A-Za-z0-9_-]{1,255})*")
_BESIDE: Final = (".marks", ".group", ".cut", ".new")
"""What may stand beside a log; the last is what is about to take the place of one of the others."""
_OPEN_MODE: Final = 0o640
_FINISHED_MODE: Final = 0o440


class LogNameError(ValueError):
    """A namespace or log stream name that no log can have."""


class LogGapError(ValueError):
    """A segment that begins after the end of what is held."""

    def __init__(self, held: int) -> None:
        super().__init__(f"only {held} bytes are held")
        self.held = held


LogState = tuple[int, int, int]
"""What changes whenever more of a log shows; not to be looked into."""


class LogMovedError(Exception):
    """Bytes of a log that were cut while they were read: it must be opened again."""


class LogReader:
    """A log as it was when it was opened. What has come since shows after opening it again."""

    def __init__(self, fd: int, status: os.stat_result, marks: Marks, cut_path: Path) -> None:
        self._fd = fd
        self._marks = marks
        self._cut_path = cut_path
        self.cut = Cut.read(cut_path)
        """Which bytes are gone."""
        self.is_finished = not status.st_mode & OWNER_WRITE
        """Whether nothing will be added to what is there now."""
        self.end = status.st_size if self.is_finished else min(marks.end, status.st_size)
        """The offset up to which bytes show."""
        self._finished_ms = max(status.st_mtime_ns // 1_000_000, *marks.times_ms[-1:], 0)

    def marks_between(self, start: int, end: int) -> Marks:
        """Return the marks behind `start` and before `end`."""
        return self._marks.between(start, end)

    @property
    def first_ms(self) -> int:
        """When its first bytes were there, in milliseconds since the epoch."""
        return self._marks.times_ms[0] if self._marks else self._finished_ms

    def read(self, offset: int, end: int) -> bytes:
        """Return the bytes from `offset` up to `end`, or up to the end of what shows.

        Raises LogMovedError if some of them were cut meanwhile.
        """
        data = os.pread(self._fd, max(min(end, self.end) - offset, 0), offset)
        if not self.is_finished and (cut := Cut.read(self._cut_path)) != self.cut and cut is not None:
            kept = self.cut or Cut(cut.end, cut.end)
            gone = ((cut.start, kept.start), (kept.end, cut.end))
            if any(offset < end and offset + len(data) > start for start, end in gone):
                raise LogMovedError
        return data

    def time_of(self, end: int) -> int:
        """Return when the bytes up to `end` were there, in milliseconds since the epoch."""
        marked = self._marks.time_of(end)
        return self._finished_ms if marked is None else marked

    def offset_before(self, time_ms: int) -> int:
        """Return up to which offset bytes came before this time (milliseconds since the epoch)."""
        if self.is_finished and self._finished_ms < time_ms:
            return self.end
        return min(self._marks.offset_before(time_ms), self.end)


class LogFolder:
    """The logs under one folder. All methods do file I/O on the spot; one process at a time writes a log.

    Every method raises LogNameError for a namespace that is not 12 digits, or a stream name that has anything but
    components of letters, digits, hyphens and underscores between slashes: no name leads out of the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, namespace: str, stream: str) -> Path:
        """Return where a log's bytes lie."""
        return self._file(namespace, stream, ".log")

    def create(self, namespace: str, stream: str, *, durable: bool = False) -> Path:
        """Make an empty log, if there is none of that name, and return its path.

        `durable` brings its name to the disk too.
        """
        path = self.path(namespace, stream)
        _make_folder(path.parent, durable=durable)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _OPEN_MODE))
        except FileExistsError:
            return path
        if durable:
            _fsync(path.parent)
        return path

    def mark(self, namespace: str, stream: str, *marks: tuple[int, int]) -> None:
        """Say up to which offsets bytes were there at which times; what is marked already stays as it is.

        A clock that was set back does not make later bytes older than earlier ones. Where there are very many marks,
        some go: the bytes before them count as having come with what follows.
        """
        path = self._file(namespace, stream, ".marks")
        if add_marks(path, marks) > MARKS_BYTES_MAX:
            thin_marks(path, self.cut_of(namespace, stream))

    def marks(self, namespace: str, stream: str) -> Marks:
        """Return the marks of a log; none if it has none or does not exist."""
        return read_marks(self._file(namespace, stream, ".marks"))

    def set_group(self, namespace: str, stream: str, group: str) -> None:
        """Say which group a log belongs to, before it is made. Its folder is made if need be."""
        path = self._file(namespace, stream, ".group")
        if group != LOG_GROUP and not path.exists():
            _make_folder(path.parent, durable=False)
            # Half a name, left by a disk that was full, would stay.
            replace(path, group.encode())

    def group(self, namespace: str, stream: str) -> str:
        """Return the group of a log, be there one or not."""
        return read_group(self._file(namespace, stream, ".group"))

    def entry(self, namespace: str, stream: str) -> LogEntry:
        """Return what the folder says of a log. Raises FileNotFoundError for an unknown one."""
        status = self.path(namespace, stream).stat()
        return entry_of(stream, self.group(namespace, stream), status)

    def entries(self, namespace: str, prefix: str = "") -> Iterator[LogEntry]:
        """Yield the logs of a namespace whose names begin with a prefix, in no order."""
        if not _NAMESPACE.fullmatch(namespace):
            raise LogNameError(f"not a namespace: {namespace!r}")
        return log_entries(self._root / namespace, prefix)

    def cut(self, namespace: str, stream: str, cut: Cut, *, is_ours: bool = False) -> None:
        """Give up bytes of a log, and what lies between them and those that are gone already.

        One that ends before the cut grows up to its end. Where the file system cannot give up a part of a file, raises
        NoHolesError before anything has changed. `is_ours` says that nobody else has the file open to write: then it is
        copied in such a place, and what is gone is on the disk as gone before it goes.
        """
        path, cut_path = self.path(namespace, stream), self._file(namespace, stream, ".cut")
        before = Cut.read(cut_path)
        whole = cut if before is None else Cut(min(before.start, cut.start), max(before.end, cut.end))
        size = path.stat().st_size
        if whole == before and size >= whole.end:
            return
        if not is_ours:
            # Behind the end, where nothing is lost.
            punch(path, size, size + 1)
        whole.write(cut_path, durable=is_ours)
        if size < whole.end:
            os.truncate(path, whole.end)
        try:
            punch(path, whole.start, whole.end)
        except NoHolesError:
            if not is_ours:
                raise
            copy_without(path, whole, path.with_suffix(".new"))

    def shorten(self, namespace: str, stream: str, bytes_max: int, *, is_ours: bool = False) -> Cut | None:
        """Cut the middle out of a log if it has more than so many bytes; return which bytes are gone then.

        Of so many bytes the first half stays, and the last quarter at least. Raises NoHolesError as `cut` does.
        """
        path, before = self.path(namespace, stream), self.cut_of(namespace, stream)
        cut = middle_of(path, path.stat().st_size, bytes_max, before)
        if cut is None:
            return before
        self.cut(namespace, stream, cut, is_ours=is_ours)
        return self.cut_of(namespace, stream)

    def cut_of(self, namespace: str, stream: str) -> Cut | None:
        """Return which bytes of a log are gone."""
        return Cut.read(self._file(namespace, stream, ".cut"))

    def finish(self, namespace: str, stream: str) -> None:
        """Declare that nothing will be added. Raises FileNotFoundError for an unknown log."""
        os.chmod(self.location(namespace, stream), _FINISHED_MODE)

    def is_finished(self, namespace: str, stream: str) -> bool:
        """Return whether a log is complete. Raises FileNotFoundError for an unknown one."""
        return not self.path(namespace, stream).stat().st_mode & OWNER_WRITE

    def state(self, namespace: str, stream: str) -> LogState:
        """Return what changes whenever more of a log shows. Raises FileNotFoundError for an unknown one."""
        mode = os.stat(self.location(namespace, stream)).st_mode
        try:
            marks = os.stat(self.location(namespace, stream, ".marks"))
        except FileNotFoundError:
            return mode, 0, 0
        return mode, marks.st_ino, marks.st_size

    def size(self, namespace: str, stream: str) -> int:
        """Return how long a log is, what is gone of it included; 0 without one."""
        try:
            return os.stat(self.location(namespace, stream)).st_size
        except FileNotFoundError:
            return 0

    def append(
        self,
        namespace: str,
        stream: str,
        offset: int,
        data: bytes,
        time_ms: int,
        *,
        marks: Iterable[tuple[int, int]] = (),
        cut: Cut | None = None,
    ) -> int:
        """Append a segment that begins at `offset` of the original, and mark it; return the length then held.

        All of it was there at `time_ms`, and parts of it as the marks say, whose offsets and times only grow. `cut`
        says what is gone of the original, and goes here too as soon as all that lies before it is held.

        What is held already is skipped, and so is what is gone here; a finished log takes nothing more. The log is made
        if need be. The segment is not sure to be on disk before `sync`. Raises LogGapError, a ValueError, for one that
        leaves a gap.
        """
        path = self.create(namespace, stream, durable=True)
        status = path.stat()
        held = status.st_size
        if not status.st_mode & OWNER_WRITE:
            return held
        # A crash may have come before the log had grown up to the end of its own cut.
        cuts = [gone for gone in (self.cut_of(namespace, stream), cut) if gone is not None]
        held = self._without(namespace, stream, cuts, held)
        if offset > held:
            raise LogGapError(held)
        fresh = data[held - offset :]
        if fresh:
            with open(path, "ab") as file:
                file.write(fresh)
            held = self._without(namespace, stream, cuts, held + len(fresh))
        if held:
            # Also for bytes that are held already: a crash may have come between them and their mark.
            self.mark(namespace, stream, *((at, by_ms) for at, by_ms in marks if at < held), (held, time_ms))
        return held

    def _without(self, namespace: str, stream: str, cuts: Iterable[Cut], held: int) -> int:
        """Cut a log, unless something before a cut is still to come; return the length then held."""
        for cut in cuts:
            if held >= cut.start:
                self.cut(namespace, stream, cut, is_ours=True)
                held = max(held, cut.end)
        return held

    def take_back(self, namespace: str, stream: str, size: int) -> None:
        """Forget what was appended behind `size`, and that the log was finished, if there is one."""
        path = self.path(namespace, stream)
        with suppress(FileNotFoundError):
            os.chmod(path, _OPEN_MODE)
            if path.stat().st_size > size:
                os.truncate(path, size)

    def sync(self, namespace: str, stream: str) -> None:
        """Bring a log to the disk: its bytes, marks and state. Raises FileNotFoundError for an unknown one."""
        _fsync(self.path(namespace, stream))
        for suffix in _BESIDE:
            with suppress(FileNotFoundError):
                _fsync(self._file(namespace, stream, suffix))

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield the namespace and stream name of every log, in the order of their names."""
        root = str(self._root)
        names = []
        for folder, _, files in os.walk(root):
            namespace, _, parent = folder[len(root) + 1 :].partition("/")
            prefix = f"{parent}/" if parent else ""
            logs = [file.removesuffix(".log") for file in files if file.endswith(".log")]
            names += [(namespace, prefix + name) for name in logs if namespace]
        yield from sorted(names)

    def idle_names(self, since_ms: int, now_ms: int) -> Generator[tuple[str, str] | None]:
        """Yield the logs to which nothing was written since a time; None for each other file or folder that is passed.

        In no order. One whose time is after `now_ms`, milliseconds since the epoch too, is yielded: it says nothing.
        """
        folders = [self._root]
        while folders:
            with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    yield self._idle_name(entry, folders, since_ms, now_ms)

    def _idle_name(
        self, entry: "os.DirEntry[str]", folders: list[Path], since_ms: int, now_ms: int
    ) -> tuple[str, str] | None:
        if entry.is_dir(follow_symlinks=False):
            folders.append(Path(entry.path))
            return None
        try:
            written_ms = entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return None
        if since_ms <= written_ms <= now_ms:
            return None
        path = Path(entry.path)
        # What stands beside a log is left alone when a log goes that is just being written to.
        if path.suffix == ".log" or (path.suffix in _BESIDE and not path.with_suffix(".log").exists()):
            namespace, *parts = path.relative_to(self._root).with_suffix("").parts
            if _NAMESPACE.fullmatch(namespace) and _STREAM.fullmatch("/".join(parts)):
                return namespace, "/".join(parts)
        return None

    def remove(self, namespace: str, stream: str) -> None:
        """Delete a log, if there is one."""
        for suffix in _BESIDE:
            self._file(namespace, stream, suffix).unlink(missing_ok=True)
        self.path(namespace, stream).unlink(missing_ok=True)

    @contextmanager
    def open(self, namespace: str, stream: str) -> Iterator[LogReader]:
        """Open a log for reading. Raises FileNotFoundError for an unknown one."""
        fd = os.open(self.path(namespace, stream), os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The state before the marks: those of a log that was finished by then are complete.
            status = os.fstat(fd)
            yield LogReader(fd, status, self.marks(namespace, stream), self._file(namespace, stream, ".cut"))
        finally:
            os.close(fd)

    def _file(self, namespace: str, stream: str, suffix: str) -> Path:
        return Path(self.location(namespace, stream, suffix))

    def location(self, namespace: str, stream: str, suffix: str = ".log") -> str:
        """Return where a log's bytes lie, or with another suffix what belongs to it; cheaper than a path."""
        if not _NAMESPACE.fullmatch(namespace):
            raise LogNameError(f"not a namespace: {namespace!r}")
        if not _STREAM.fullmatch(stream):
            raise LogNameError(f"not a log stream name: {stream!r}")
        return f"{self._root}/{namespace}/{stream}{suffix}"


def _make_folder(folder: Path, *, durable: bool) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent, durable=durable)
    folder.mkdir(exist_ok=True)
    if durable:
        _fsync(folder.parent)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
