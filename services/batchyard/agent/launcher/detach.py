"""Makes the launcher a process of its own: no child of the agent, and where possible PID 1 of a PID namespace.

As PID 1 its death ends every process it started, whatever they did to hide. Where the host allows no namespace it
runs as a plain process that adopts orphans, and its agent must end what a dead launcher left.
"""

import json
import os
import sys

_FLAGS = ["--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "slave"]
_AS_USER = ["--user", "--map-current-user"]


class Options:
    """What a launcher is told at its start."""

    __slots__ = ("agent_id", "cgroups", "folder", "guard", "idle_s", "namespace")

    def __init__(
        self,
        *,
        folder: str,
        agent_id: str,
        idle_s: float = 5.0,
        namespace: bool = True,
        cgroups: bool = True,
        guard: bool = False,
    ) -> None:
        self.folder = folder
        """Where its socket, journal, lock and log are, and the jobs' working folders."""
        self.agent_id = agent_id
        self.idle_s = idle_s
        """How long to stay without an agent and without work."""
        self.namespace = namespace
        """Whether to try for a PID namespace."""
        self.cgroups = cgroups
        """Whether to try for cgroups."""
        self.guard = guard
        """Whether this is to be no launcher, but the guard of containers."""

    def encode(self) -> str:
        """Return them as the program's argument."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


def main(argv: list[str]) -> None:
    """Run a stage: `detach` starts the launcher or guard and returns; `namespaced` or `plain` is what was started."""
    program, encoded, stage = argv
    options = Options(**json.loads(encoded))
    if stage == "detach":
        _detach(program, encoded, options)
        return
    if options.guard:
        from batchyard.agent.launcher import guard

        guard.serve(options)
    else:
        from batchyard.agent.launcher import server

        server.serve(options, namespaced=stage == "namespaced")


def _detach(program: str, encoded: str, options: Options) -> None:
    prefix = _unshare() if options.namespace and not options.guard else None
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    log = os.open(f"{options.folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 64)
    os.chdir(options.folder)
    stage = "plain" if prefix is None else "namespaced"
    command = [*(prefix or []), sys.executable, "-I", "-S", program, encoded, stage]
    os.execvp(command[0], command)  # noqa: S606


def can_unshare() -> bool:
    """Tell whether this host lets us make PID namespaces."""
    return _unshare() is not None


def _unshare() -> list[str] | None:
    """Return the command that makes its argument PID 1 of a namespace, or None if this host allows none."""
    for flags in (_FLAGS, [*_AS_USER, *_FLAGS]):
        command = ["unshare", *flags]
        try:
            quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
            pid = os.posix_spawnp(command[0], [*command, "true"], os.environ, file_actions=quiet)
        except FileNotFoundError:
            return None
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            return command
    return None
