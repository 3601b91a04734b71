"""Finds every living process of a run, and ends them so that none slips away by forking.

A process belongs to a run if it descends from the run's first process, is in its session or process group, or
carries the run's variables in its environment (which finds orphans that called setsid). A cgroup, where the host
allows one, finds those that hide from all of these.
"""

import os
import signal
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat:
    """A process as /proc/PID/stat tells of it."""

    __slots__ = ("group", "parent", "resident_bytes", "session", "started", "state")

    def __init__(self, text: str) -> None:
        # The name, in parentheses, may itself hold spaces and parentheses.
        fields = text[text.rindex(")") + 2 :].split()
        self.state = fields[0]
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        self.started = int(fields[19])
        """Clock ticks since boot: with the process id it names a process for good."""
        self.resident_bytes = int(fields[21]) * _PAGE_BYTES

    @property
    def alive(self) -> bool:
        """False once only the exit status is left."""
        return self.state not in "ZXx"


def stat(pid: int) -> Stat | None:
    """Return what is known of a process, or None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return Stat(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes() -> dict[int, Stat]:
    """Return the living processes that this one can see, itself left out."""
    found: dict[int, Stat] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            seen = stat(int(name))
            if seen is not None and seen.alive:
                found[int(name)] = seen
    return found


def carries(pid: int, marks: Collection[bytes]) -> bool:
    """Tell whether all `marks` (`NAME=value`) stand in the environment that the process was started with.

    Without marks nobody carries them: what has no name of its own must not be taken for everything.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return bool(marks) and set(marks) <= set(file.read().split(b"\0"))
    except OSError:
        return False


def members(root: int, marks: Collection[bytes], others: Collection[int] = (), *, is_reaped: bool = False) -> set[int]:
    """Return the living processes of the run whose first process is, or was, `root`.

    `others` are the first processes of other runs: neither they nor what descends from them is taken. `is_reaped` says
    that the first process is gone.
    """
    table = processes()
    # Once a run's first process is gone, its number may come to name another run's, or anybody's: but not as long as
    # it names a group or a session that has a member.
    by_number = root not in others and not (is_reaped and root in table)
    found = {
        pid
        for pid, seen in table.items()
        if pid not in others and ((by_number and root in (pid, seen.group, seen.session)) or carries(pid, marks))
    }
    fresh = found
    while fresh:
        fresh = {pid for pid, seen in table.items() if seen.parent in fresh and pid not in found and pid not in others}
        found |= fresh
    return found


def by_run(marks: Mapping[int, Collection[bytes]]) -> dict[int, dict[int, Stat]]:
    """Return the living processes of each run, by its first process; `marks` are those of each run.

    Told from one look at all processes. The caller must be the one that orphans fall to.
    """
    table = processes()
    found: dict[int, dict[int, Stat]] = {root: {} for root in marks}
    for pid, seen in table.items():
        root = _root_of(pid, seen, table, marks)
        if root is not None:
            found[root][pid] = seen
    return found


def _root_of(pid: int, seen: Stat, table: Mapping[int, Stat], marks: Mapping[int, Collection[bytes]]) -> int | None:
    while True:
        for number in (pid, seen.group, seen.session):
            if number in marks:
                return number
        if seen.parent == os.getpid():
            return next((root for root, of_root in marks.items() if carries(pid, of_root)), None)
        parent = table.get(seen.parent)
        if parent is None:
            return None
        pid, seen = seen.parent, parent


def proportional_bytes(pid: int) -> int | None:
    """Return a process's memory, in which what n processes share counts an nth for each; None if that can't be told."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def kill(list_members: Callable[[], Collection[int]]) -> bool:
    """Stop every member, until no new one appears, then kill them all. Return whether there was any.

    A stopped process can't fork, so even a fork bomb comes to its end. The killed take a moment to disappear: call
    again until this returns False.
    """
    stopped: set[int] = set()
    while fresh := set(list_members()) - stopped:
        for pid in fresh:
            send(pid, signal.SIGSTOP)
        stopped |= fresh
    for pid in stopped:
        send(pid, signal.SIGKILL)
    return bool(stopped)


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone, or not ours to signal."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether it has a member, be it one that only waits to be reaped."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def children() -> set[int] | None:
    """Return this process's direct children, orphans that it adopted included; None where the kernel can't say."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb", buffering=0) as file:
            return set(map(int, file.read().split()))
    except OSError:
        return None
