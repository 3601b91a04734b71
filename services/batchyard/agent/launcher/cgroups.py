"""Memory limits, CPU shares and sure kills by cgroup, where the host lets us make cgroups; version 2 or 1.

Making a cgroup costs more than starting a small process, so they are kept and used again. The launcher steps into a
run's cgroup while it spawns the run's process, so that no instant of it escapes the limit.

Version 2 has one tree for all. On version 1 memory and CPU each have their own, and so has what kills: the tree of
version 2 that most such hosts mount beside, else the freezer. Only memory is indispensable. Into a tree of version 1
the launcher, which has one thread, steps as a thread: that is the only move for which the kernel waits for nobody, and
keeps no other process from forking. Other moves cost as much as a good part of a short run, and a tree that is of the
CPU alone would have the launcher wait for its jobs' turns: to those the processes that last are moved when they run.
"""

import os
import signal
from contextlib import suppress

from batchyard.agent.launcher import tree

MIB = 1024 * 1024
_READ_BYTES = 65536
_SHORT_BYTES = 2048
"""What is shorter than this is all there is."""
_SHARES_OF_VCPU = 1024
_WEIGHT_OF_VCPU = 100
_SHARES_RANGE = (2, 262_144)
_WEIGHT_RANGE = (1, 10_000)
_FREEZE_LOOKS = 1000


class Tree:
    """A tree of cgroups: the folder of those of runs, and where this process itself is."""

    __slots__ = ("base", "door", "home")

    def __init__(self, version: int, base: str, home: str) -> None:
        self.base = base
        self.door = "tasks" if version == 1 else "cgroup.procs"
        """The file of a cgroup by which the launcher moves itself."""
        # Kept open: it is written for every run.
        self.home = os.open(f"{home}/{self.door}", os.O_WRONLY | os.O_CLOEXEC)


class Layout:
    """Which tree does what; on version 2 all three are the same."""

    __slots__ = ("cpu", "entered", "joined_later", "killing", "memory", "trees", "version")

    def __init__(self, version: int, memory: Tree, cpu: "Tree | None" = None, killing: "Tree | None" = None) -> None:
        self.version = version
        self.memory = memory
        self.cpu = cpu
        """None: all runs have the same share."""
        self.killing = killing
        """None: processes are stopped, until no new one appears, and then killed."""
        self.trees = list(dict.fromkeys(each for each in (memory, killing, cpu) if each is not None))
        self.entered = [each for each in self.trees if each is memory or (each is killing and each.door == memory.door)]
        """What the launcher steps into."""
        self.joined_later = [each for each in self.trees if each not in self.entered]
        """What processes are moved to that run already."""

    def __str__(self) -> str:
        names = [name for name in ("memory", "cpu", "killing") if getattr(self, name) is not None]
        return f"version {self.version}: {', '.join(names)}"


class CgroupPool:
    """Cgroups for runs, of one launcher."""

    def __init__(self, layout: Layout) -> None:
        """Remove those of a launcher that was killed: they have its limits."""
        self.layout = layout
        self._free: list[Cgroup] = []
        self._made = max(_remove_below(each.base) for each in layout.trees)

    def acquire(self, memory_mib: int, vcpus_milli: int) -> "Cgroup":
        """Return an empty cgroup with these limits; raise OSError if there can be none."""
        while self._free:
            group = self._free.pop()
            try:
                group.limit(memory_mib, vcpus_milli)
            except OSError:
                # Memory that an earlier run left behind does not fit in the new limit.
                group.remove()
                continue
            return group
        group = self._make()
        group.limit(memory_mib, vcpus_milli)
        return group

    def reserve(self) -> "Cgroup":
        """Return an empty cgroup for a run that is not known yet; raise OSError if there can be none."""
        return self._free.pop() if self._free else self._make()

    def _make(self) -> "Cgroup":
        for each in self.layout.trees:
            os.makedirs(f"{each.base}/{self._made}", exist_ok=True)
        group = Cgroup(str(self._made), self.layout)
        self._made += 1
        return group

    def release(self, group: "Cgroup") -> None:
        """Take back a cgroup that has no processes."""
        self._free.append(group)

    def close(self) -> None:
        """Remove the cgroups that are empty, those of an earlier launcher of the same name too."""
        for group in self._free:
            group.remove()
        self._free.clear()
        for each in self.layout.trees:
            os.close(each.home)
            _remove_below(each.base)
            with suppress(OSError):
                os.rmdir(each.base)


class Cgroup:
    """The cgroup of one run."""

    def __init__(self, name: str, layout: Layout) -> None:
        self._layout = layout
        self._folders = [f"{each.base}/{name}" for each in layout.trees]
        self.folder = f"{layout.memory.base}/{name}"
        self._cpu_folder = f"{layout.cpu.base}/{name}" if layout.cpu is not None else None
        killing_folder = f"{layout.killing.base}/{name}" if layout.killing is not None else ""
        self._kill_file = _if_exists(f"{killing_folder}/cgroup.kill")
        self._freezer_state = _if_exists(f"{killing_folder}/freezer.state")
        self._later = [f"{each.base}/{name}/cgroup.procs" for each in layout.joined_later]
        # Kept open: they are written and read for every run.
        self._doors = [
            os.open(f"{each.base}/{name}/{each.door}", os.O_WRONLY | os.O_CLOEXEC) for each in layout.entered
        ]
        events = "memory.events" if layout.version == 2 else "memory.oom_control"
        self._events = os.open(f"{self.folder}/{events}", os.O_RDONLY | os.O_CLOEXEC)
        # Version 1 goes on telling what it told at first.
        self._members = None
        if layout.version == 2:
            self._members = os.open(f"{self.folder}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        self._memory_mib = 0
        self._vcpus_milli = 0
        self._events_before = b""

    def limit(self, memory_mib: int, vcpus_milli: int) -> None:
        """Set a hard limit of memory, swap included, and the share of CPU, for the processes to come."""
        self._events_before = _read(self._events)
        if memory_mib != self._memory_mib:
            self._limit_memory(memory_mib)
        if vcpus_milli != self._vcpus_milli:
            if self._cpu_folder is not None:
                share_cpu(self._cpu_folder, self._layout.version, vcpus_milli)
            self._vcpus_milli = vcpus_milli

    def _limit_memory(self, memory_mib: int) -> None:
        value = str(memory_mib * MIB)
        if self._layout.version == 2:
            pairs = [("memory.max", value, True), ("memory.swap.max", "0", False)]
        else:
            # Memory <= memory + swap at every moment: which to write first depends on the direction.
            pairs = [("memory.limit_in_bytes", value, True), ("memory.memsw.limit_in_bytes", value, False)]
            if memory_mib > self._memory_mib > 0:
                pairs.reverse()
        for name, content, needed in pairs:
            try:
                _write(f"{self.folder}/{name}", content)
            except OSError:
                if needed:
                    raise
        self._memory_mib = memory_mib

    def enter(self) -> None:
        """Move the caller in, which must have no other thread; call `leave` whatever comes of it."""
        for door in self._doors:
            os.write(door, b"0")

    def leave(self) -> None:
        """Move the caller back to where it was at first."""
        for each in self._layout.entered:
            os.write(each.home, b"0")

    @property
    def is_joined_later(self) -> bool:
        """Whether what was started in it has to be placed: to have its share of CPU, and be killed at one stroke."""
        return bool(self._later)

    def place(self, pid: int) -> None:
        """Move the process that was started, and what it may have forked since, to the trees that are joined later.

        Raises OSError if one of them cannot be looked into; what is in none of them is killed all the same.
        """
        for path in self._later:
            procs = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                self._place(pid, procs, path)
            finally:
                os.close(procs)

    def _place(self, pid: int, procs: int, path: str) -> None:
        tried: set[int] = set()
        fresh = {pid}
        while fresh:
            for each in fresh:
                with suppress(OSError):  # it has ended
                    os.write(procs, b"%d" % each)
            tried |= fresh
            # What the placed have forked is there: a run that goes on forking would hold the launcher for ever.
            fresh = self.members() - _pids(path) - tried

    @property
    def is_looked_into_at_once(self) -> bool:
        """Whether it costs next to nothing to see if it is empty."""
        return self._members is not None

    def is_empty(self) -> bool:
        """Tell whether no process lives in it."""
        if self._members is not None:
            return not os.pread(self._members, 1, 0)
        return not self.members()

    def members(self) -> set[int]:
        """Return the living processes in it."""
        if self._members is not None:
            return set(map(int, _read_all(self._members).split()))
        fd = os.open(f"{self.folder}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return set(map(int, _read_all(fd).split()))
        finally:
            os.close(fd)

    def kill(self) -> bool:
        """Kill all processes in it, also those that are just being made; return whether there was any.

        The killed take a moment to disappear: call again until this returns False.
        """
        if self.is_empty():
            return False
        try:
            if self._kill_file is not None:
                _write(self._kill_file, "1")
                if self._layout.killing in self._layout.joined_later:
                    tree.kill(self.members)  # what has not been placed yet, as it is young
                return True
            if self._freezer_state is not None:
                self._kill_frozen(self._freezer_state)
                return True
        except OSError:
            pass
        return tree.kill(self.members)

    def _kill_frozen(self, state: str) -> None:
        _write(state, "FROZEN")
        try:
            # Each look lets the kernel go on with it. What can't be frozen now is killed as far as it is known.
            for _ in range(_FREEZE_LOOKS):
                with open(state, encoding="ascii") as file:
                    if file.read().strip() == "FROZEN":
                        break
            for pid in self.members():
                tree.send(pid, signal.SIGKILL)
        finally:
            _write(state, "THAWED")

    def was_out_of_memory(self) -> bool:
        """Tell whether the kernel killed a process in it for memory since the limit was set."""
        return _oom_kills(_read(self._events)) > _oom_kills(self._events_before)

    def remove(self) -> None:
        """Remove it, if it is empty."""
        for fd in (*self._doors, self._events, self._members):
            if fd is not None:
                os.close(fd)
        for folder in self._folders:
            with suppress(OSError):
                os.rmdir(folder)


def share_cpu(folder: str, version: int, vcpus_milli: int) -> None:
    """Give a cgroup its share of CPU beside its siblings: nothing is a ceiling, all counts when CPU is scarce."""
    name, unit, (least, most) = (
        ("cpu.weight", _WEIGHT_OF_VCPU, _WEIGHT_RANGE)
        if version == 2
        else ("cpu.shares", _SHARES_OF_VCPU, _SHARES_RANGE)
    )
    with suppress(OSError):
        _write(f"{folder}/{name}", str(min(most, max(least, vcpus_milli * unit // 1000))))


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
    """Return a pool under folders of this name, or None if this host lets us make no cgroups with memory limits."""
    layout = (
        _layout_of_version_2(name, mount)
        if os.path.exists(f"{mount}/cgroup.controllers")
        else _mixed_layout(name, mount)
    )
    if layout is None:
        return None
    try:
        pool = CgroupPool(layout)
        pool.release(_entered(pool))
    except OSError:
        for each in layout.trees:
            _discard(each)
        return None
    if layout.cpu is not None:
        # Together they get what as many processes of the host would get beside them.
        share_cpu(layout.cpu.base, layout.version, 1000 * (os.cpu_count() or 1))
    return pool


def _entered(pool: CgroupPool) -> Cgroup:
    """Return a cgroup in which this process has been."""
    group = pool.acquire(64, 1000)
    try:
        group.enter()
    finally:
        group.leave()
    return group


def _layout_of_version_2(name: str, mount: str) -> Layout | None:
    home = mount + _own_paths().get("", "")
    if not os.path.isdir(home):
        home = mount
    # A cgroup with processes may not have others below that are limited, unless it is the root; but one above may be
    # ours too, as with systemd's DelegateSubgroup.
    for parent in dict.fromkeys((home, os.path.dirname(home) if home != mount else mount, mount)):
        base = f"{parent}/{name}"
        try:
            with suppress(FileExistsError):
                os.mkdir(base)
            for folder in (parent, base):
                for controller in ("memory", "cpu"):
                    with suppress(OSError):
                        _write(f"{folder}/cgroup.subtree_control", f"+{controller}")
            with open(f"{base}/cgroup.subtree_control", encoding="ascii") as file:
                enabled = file.read().split()
            if "memory" in enabled:
                shared = Tree(2, base, home)
                return Layout(2, shared, shared if "cpu" in enabled else None, shared)
        except OSError:
            pass
        with suppress(OSError):
            os.rmdir(base)
    return None


def _mixed_layout(name: str, mount: str) -> Layout | None:
    own = _own_paths()
    memory = _made_tree(1, name, f"{mount}/memory", own.get("memory", ""))
    if memory is None:
        return None
    cpu = _made_tree(1, name, f"{mount}/cpu", own.get("cpu", ""))
    killing = _made_tree(2, name, f"{mount}/unified", own.get("", ""))
    if killing is not None and not os.path.exists(f"{killing.base}/cgroup.kill"):
        _discard(killing)
        killing = None
    if killing is None:
        killing = _made_tree(1, name, f"{mount}/freezer", own.get("freezer", ""))
    return Layout(1, memory, cpu, killing)


def _made_tree(version: int, name: str, root: str, own_path: str) -> Tree | None:
    """Return a tree in this hierarchy, under this process's own cgroup, else under the root; None if there is none."""
    home = root + own_path
    if not os.path.isdir(home):
        home = root
    for parent in dict.fromkeys((home, root)):
        base = f"{parent}/{name}"
        try:
            with suppress(FileExistsError):
                os.mkdir(base)
            return Tree(version, base, home)
        except OSError:
            with suppress(OSError):
                os.rmdir(base)
    return None


def _discard(unused: Tree) -> None:
    os.close(unused.home)
    with suppress(OSError):
        os.rmdir(unused.base)


def _own_paths() -> dict[str, str]:
    """Return where this process is in the hierarchy of each controller; the one of version 2 has no name."""
    found = {}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path if path != "/" else ""
    return found


def _if_exists(path: str) -> str | None:
    return path if os.path.exists(path) else None


def _pids(path: str) -> set[int]:
    with open(path, "rb", buffering=0) as file:
        return set(map(int, file.read().split()))


def _oom_kills(events: bytes) -> int:
    for line in events.splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def _read(fd: int) -> bytes:
    """Return the content of an open control file that is small, from its beginning."""
    return os.pread(fd, _READ_BYTES, 0)


def _read_all(fd: int) -> bytes:
    data = os.pread(fd, _READ_BYTES, 0)
    # The kernel gives a page at a time.
    if len(data) < _SHORT_BYTES:
        return data
    while part := os.pread(fd, _READ_BYTES, len(data)):
        data += part
    return data


def _write(path: str, content: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    finally:
        os.close(fd)
