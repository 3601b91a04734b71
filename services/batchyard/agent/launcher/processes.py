"""Starts one process per run and ends it with its whole tree."""

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from errno import EACCES, ENOENT, ENOEXEC

from batchyard.agent.launcher import tree
from batchyard.agent.launcher.cgroups import Cgroup
from batchyard.agent.launcher.ledger import Fence, RunEnd
from batchyard.agent.launcher.standby import Standby, StandbyLostError
from batchyard.agent.launcher.wire import StartOrder

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"

_TOOLS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Ignored by the launcher, the interpreter or whatever has started them, as a shell does in the background; inherited if
# nothing is done.
DEFAULT_SIGNALS: set[int] = {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP} | {
    number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
}
_FIRST_RECHECK_S = 0.005
_LAST_RECHECK_S = 0.5


class StartError(Exception):
    """A run can't be started; the text is what AWS would give as the container's reason."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"CannotStartContainerError: {detail}")


class Process:
    """A run's first process and all that came of it."""

    def __init__(self, fence: Fence, pid: int, order: StartOrder, folder: str, cgroup: Cgroup | None) -> None:
        self.fence = fence
        self.pid = pid
        self.folder = folder
        self.cgroup = cgroup
        self.exit_code: int | None = None
        """Of the first process, once it has ended; 128 + n if signal n ended it."""
        self.stopped: RunEnd | None = None
        """Why it was told to end, if it was."""
        self.deadline = float("inf")
        """When it is to be looked at again."""
        self.timeout_s = order.timeout_s
        self.timeout_grace_s = order.timeout_grace_s
        self.memory_mib = order.memory_mib
        self.is_over_memory = False
        """Whether it is being killed for its memory."""
        self._env = order.env
        self._recheck_s = _FIRST_RECHECK_S

    @property
    def marks(self) -> list[bytes]:
        """What stands in the environment of all its processes, but for those that have removed it; nothing or all."""
        if not all(name in self._env for name in MARKS):
            return []
        return [os.fsencode(f"{name}={self._env[name]}") for name in MARKS]

    def stop(self, end: RunEnd, now: float, grace_s: float) -> None:
        """Ask it to end, and kill it after the grace. A later call may only shorten the grace."""
        if self.stopped is None:
            self.stopped = end
            self.deadline = now + grace_s
            if grace_s > 0 and self.exit_code is None:
                self._terminate()
        else:
            self.deadline = min(self.deadline, now + grace_s)

    def has_survivors(self, *, strangers: bool | None) -> bool:
        """Tell whether something of it may live after its first process has ended.

        `strangers` says whether the launcher has children that it does not know: whoever outlives the first process
        either is one by now or descends from one. None where the kernel can't say.
        """
        if strangers is False:
            return False
        if self.cgroup is not None:
            return not self.cgroup.is_empty()
        return bool(strangers) or tree.send_group(self.pid, 0)

    def kill(self, now: float, others: Collection[int]) -> bool:
        """Kill all of it; return whether something was alive, and then must be looked at again at `deadline`."""
        alive = self.cgroup.kill() if self.cgroup is not None else tree.kill(lambda: self._members(others))
        self.deadline = now + self._recheck_s
        self._recheck_s = min(2 * self._recheck_s, _LAST_RECHECK_S)
        return alive

    def was_out_of_memory(self) -> bool:
        """Tell whether a process of it was killed for memory."""
        return self.is_over_memory or (self.cgroup is not None and self.cgroup.was_out_of_memory())

    def _terminate(self) -> None:
        tree.send_group(self.pid, signal.SIGTERM)
        if self.cgroup is not None:
            for pid in self.cgroup.members():
                seen = tree.stat(pid)
                if seen is not None and seen.group != self.pid:
                    tree.send(pid, signal.SIGTERM)

    def _members(self, others: Collection[int]) -> set[int]:
        return tree.members(self.pid, self.marks, others, is_reaped=self.exit_code is not None)


MARKS = ("BATCHYARD_AGENT_ID", "BATCHYARD_FENCE")
"""Variables that together name a run on its host."""


def spawn(
    fence: Fence, order: StartOrder, folder: str, cgroup: Cgroup | None, standby: Standby | None = None
) -> Process:
    """Start a run's process in the folder; raise StartError if it can't be.

    `standby` is to become that process, if it has not got lost; it stands in the cgroup.
    """
    try:
        # Not by the child, whose cgroup would be charged for what the kernel keeps of the file.
        log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StartError(str(error)) from error
    try:
        return Process(fence, _start(order, log, folder, cgroup, standby), order, folder, cgroup)
    finally:
        os.close(log)


def _start(order: StartOrder, log: int, folder: str, cgroup: Cgroup | None, standby: Standby | None) -> int:
    wrapper = _wrapper(order)
    name = order.argv[0] if order.argv else ""
    # A path is looked at only if it can't be started: to find out why.
    is_sought = bool(wrapper) or "/" not in name
    program = _find_program(order.argv, order.env.get("PATH", _TOOLS_PATH)) if is_sought else name
    argv = [*wrapper, program, *order.argv[1:]] if wrapper else order.argv
    path = argv[0] if wrapper else program
    try:
        if standby is not None:
            with suppress(StandbyLostError):
                standby.become(path, argv, order.env, folder=folder, log=log)
                return standby.pid
        return _spawn(path, argv, order.env, log, folder, cgroup)
    except (OSError, ValueError) as error:
        _find_program([program], "")
        raise StartError(_say(name, error)) from error


def _spawn(path: str, argv: list[str], env: dict[str, str], log: int, folder: str, cgroup: Cgroup | None) -> int:
    # What the launcher itself reads from is /dev/null.
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    try:
        # posix_spawn has no working folder of its own; this process has no other thread to disturb.
        os.chdir(folder)
        if cgroup is not None:
            cgroup.enter()
        return os.posix_spawn(
            path, argv, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=DEFAULT_SIGNALS
        )
    finally:
        os.chdir("/")
        if cgroup is not None:
            cgroup.leave()


def _find_program(argv: list[str], path: str) -> str:
    if not argv or not argv[0]:
        raise StartError("no command specified")
    name = argv[0]
    if "/" in name:
        if not os.path.exists(name):
            raise StartError(f'exec: "{name}": stat {name}: no such file or directory')
        if os.path.isdir(name) or not os.access(name, os.X_OK):
            raise StartError(f'exec: "{name}": permission denied')
        return name
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise StartError(f'exec: "{name}": executable file not found in $PATH')


def _wrapper(order: StartOrder) -> list[str]:
    """Return the commands that set limits and user before they become the program; both are rarely asked for."""
    wrapper: list[str] = []
    if order.rlimits:
        wrapper += [_find_program(["prlimit"], _TOOLS_PATH)]
        wrapper += [f"--{name}={_limit(soft)}:{_limit(hard)}" for name, soft, hard in order.rlimits]
    if order.user is not None:
        uid, gid, is_known = order.user
        groups = "--init-groups" if is_known else "--clear-groups"
        wrapper += [_find_program(["setpriv"], _TOOLS_PATH), f"--reuid={uid}", f"--regid={gid}", groups, "--"]
    return wrapper


def _limit(value: int) -> str:
    return "unlimited" if value == -1 else str(value)


def _say(name: str, error: Exception) -> str:
    if isinstance(error, OSError):
        texts = {
            ENOENT: "no such file or directory (is its interpreter missing?)",
            EACCES: "permission denied",
            ENOEXEC: "exec format error",
        }
        return f'exec: "{name}": {texts.get(error.errno or 0) or error.strerror}'
    return f'exec: "{name}": {error}'
