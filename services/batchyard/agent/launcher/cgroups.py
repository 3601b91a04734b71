"""Memory limits and sure kills by cgroup, where the host lets us make cgroups; version 2 or 1.

Making a cgroup costs more than starting a small process, so they are kept and used again. The launcher steps into a
run's cgroup while it spawns the run's process, so that no instant of it escapes the limit.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

MIB = 1024 * 1024
_READ_BYTES = 65536


class CgroupPool:
    """Cgroups for runs, of one launcher."""

    def __init__(self, base: str, home: str, *, version: int) -> None:
        """Remove those of a launcher that was killed: they have its limits."""
        self._base = base
        self._home = home
        self._version = version
        self._free: list[Cgroup] = []
        self._made = _remove_below(base)

    def acquire(self, memory_mib: int) -> "Cgroup":
        """Return an empty cgroup with this limit; raise OSError if there can be none."""
        while self._free:
            group = self._free.pop()
            try:
                group.limit_memory(memory_mib)
            except OSError:
                # Memory that an earlier run left behind does not fit in the new limit.
                group.remove()
                continue
            return group
        folder = f"{self._base}/{self._made}"
        os.makedirs(folder, exist_ok=True)
        self._made += 1
        group = Cgroup(folder, self._home, version=self._version)
        group.limit_memory(memory_mib)
        return group

    def release(self, group: "Cgroup") -> None:
        """Take back a cgroup that has no processes."""
        self._free.append(group)

    def close(self) -> None:
        """Remove the cgroups that are empty, those of an earlier launcher of the same name too."""
        for group in self._free:
            group.remove()
        self._free.clear()
        _remove_below(self._base)
        with suppress(OSError):
            os.rmdir(self._base)


class Cgroup:
    """The cgroup of one run."""

    def __init__(self, folder: str, home: str, *, version: int) -> None:
        self.folder = folder
        # Kept open: they are written and read for every run.
        self._home_procs = os.open(f"{home}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._procs = os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._limit_files = (
            ("memory.max", "memory.swap.max")
            if version == 2
            else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        events_file = "memory.events" if version == 2 else "memory.oom_control"
        self._events = os.open(f"{folder}/{events_file}", os.O_RDONLY | os.O_CLOEXEC)
        self._swap_value = "0" if version == 2 else None
        self._limit = 0
        self._events_before = b""

    def limit_memory(self, memory_mib: int) -> None:
        """Set a hard limit, swap included, for the processes to come."""
        self._events_before = _read(self._events)
        if memory_mib == self._limit:
            return
        memory_file, swap_file = self._limit_files
        value = str(memory_mib * MIB)
        swap_value = self._swap_value or value
        # Version 1 keeps memory <= memory + swap at every moment: which to write first depends on the direction.
        pairs = [(memory_file, value, True), (swap_file, swap_value, False)]
        if memory_mib > self._limit > 0:
            pairs.reverse()
        for name, content, needed in pairs:
            try:
                _write(f"{self.folder}/{name}", content)
            except OSError:
                if needed:
                    raise
        self._limit = memory_mib

    def enter(self) -> None:
        """Move the calling process in."""
        os.write(self._procs, b"0")

    def leave(self) -> None:
        """Move the calling process back to where it was at first."""
        os.write(self._home_procs, b"0")

    def members(self) -> set[int]:
        """Return the living processes in it."""
        # Opened anew: version 1 goes on telling what it told at first.
        fd = os.open(f"{self.folder}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return set(map(int, _read_all(fd).split()))
        finally:
            os.close(fd)

    def was_out_of_memory(self) -> bool:
        """Tell whether the kernel killed a process in it for memory since the limit was set."""
        return _oom_kills(_read(self._events)) > _oom_kills(self._events_before)

    def remove(self) -> None:
        """Remove it, if it is empty."""
        for fd in (self._home_procs, self._procs, self._events):
            os.close(fd)
        with suppress(OSError):
            os.rmdir(self.folder)


def _remove_below(base: str) -> int:
    """Remove the cgroups that are empty; return a number higher than those of all others."""
    left = -1
    for name in os.listdir(base):
        if name.isdigit():
            try:
                os.rmdir(f"{base}/{name}")
            except OSError:
                left = max(left, int(name))
    return left + 1


def open_cgroups(name: str, mount: str = "/sys/fs/cgroup") -> CgroupPool | None:
    """Return a pool under a folder of this name, or None if this host lets us make no cgroups with memory limits."""
    for version, parent, home in _candidates(mount):
        base = f"{parent}/{name}"
        try:
            with suppress(FileExistsError):
                os.mkdir(base)
            if version == 2:
                with suppress(OSError):
                    _write(f"{parent}/cgroup.subtree_control", "+memory")
                _write(f"{base}/cgroup.subtree_control", "+memory")
            pool = CgroupPool(base, home, version=version)
            group = pool.acquire(64)
            group.enter()
            group.leave()
            pool.release(group)
        except OSError:
            with suppress(OSError):
                os.rmdir(base)
            continue
        return pool
    return None


def _candidates(mount: str) -> Iterator[tuple[int, str, str]]:
    """Yield (version, where to make cgroups, where this process is), the most fitting first."""
    version = 2 if os.path.exists(f"{mount}/cgroup.controllers") else 1
    root = mount if version == 2 else f"{mount}/memory"
    home = root + _own_path(version)
    if not os.path.isdir(home):
        home = root
    yield version, home, home
    if home != root:
        yield version, root, home


def _own_path(version: int) -> str:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if (version == 2 and controllers == "") or (version == 1 and "memory" in controllers.split(",")):
                return path if path != "/" else ""
    return ""


def _oom_kills(events: bytes) -> int:
    for line in events.splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def _read(fd: int) -> bytes:
    """Return the content of an open control file that is small, from its beginning."""
    return os.pread(fd, _READ_BYTES, 0)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def _write(path: str, content: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)
