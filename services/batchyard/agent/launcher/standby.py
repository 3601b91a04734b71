"""A process that stands in a cgroup before there is a run for it, and becomes that run's first process.

On a host where nothing else has moved between cgroups for a while, the kernel takes 8 to 20 ms over a move: it waits
until every CPU has noticed that there will be one. A run that comes to an idle host need not wait for that too, if a
process has moved already. It is a copy of the launcher that waits for a command; where many runs start, the moves are
cheap, and so is a process that is started for its run.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
from contextlib import suppress

from batchyard.agent.launcher.cgroups import Cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_LENGTH_BYTES = 8
_READY = b"R"
_HEARD = b"H"
_FIRST_OWN_FD = 3
_READ_BYTES = 65536


class StandbyLostError(Exception):
    """The process is gone, and has started nothing."""


class Standby:
    """A process that waits for its command."""

    def __init__(self, cgroup: Cgroup, default_signals: Iterable[int]) -> None:
        """Make one, and have it move to the cgroup; raise OSError if there can be none.

        `default_signals` are not to be ignored by what it becomes.
        """
        self.cgroup = cgroup
        self.waits = True
        """Whether it may still be told what to become."""
        self._is_ready = False
        self._socket, its_socket = socket.socketpair()
        with its_socket:
            try:
                self.pid = os.fork()
            except OSError:
                self._socket.close()
                raise
            if self.pid == 0:
                _stand_by(its_socket, cgroup, default_signals)

    def is_ready(self) -> bool:
        """Tell whether it has come to its cgroup."""
        if not self._is_ready:
            with suppress(BlockingIOError):
                self._is_ready = self._socket.recv(1, socket.MSG_DONTWAIT) == _READY
        return self._is_ready

    def become(self, path: str, argv: Sequence[str], env: Mapping[str, str], *, folder: str, log: int) -> None:
        """Have it run this program in a folder, its output going to an open file, and return when it does.

        Raises what `os.execve` raised if the program can't be run, and StandbyLostError. Then it is gone.
        """
        self.waits = False
        command = marshal.dumps((path, list(argv), dict(env), folder))
        said = b""
        with self._socket as connection, suppress(OSError):
            socket.send_fds(connection, [len(command).to_bytes(_LENGTH_BYTES)], [log])
            connection.sendall(command)
            # What it has to say ends when it becomes the program.
            said = _read_all(connection)
        if said == _HEARD:
            return
        self.dismiss()
        if not said.startswith(_HEARD):
            raise StandbyLostError
        number, text = marshal.loads(said.removeprefix(_HEARD))  # noqa: S302 - this very program has said so
        raise OSError(number, text) if number else ValueError(text)

    def dismiss(self) -> None:
        """End it, and wait until it has ended."""
        self.reaped()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def reaped(self) -> None:
        """Note that it has ended, and that its process id may be another's by now."""
        self.waits = False
        self._socket.close()


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(_READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def _stand_by(connection: socket.socket, cgroup: Cgroup, default_signals: Iterable[int]) -> None:
    """Be the process, and do not return: nothing of what the launcher has open or waits for may live on in it."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (*default_signals, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setsid()
        cgroup.enter()
        os.closerange(_FIRST_OWN_FD, connection.fileno())
        os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        connection.sendall(_READY)
        head, logs, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 1)
        command = b""
        while logs and len(command) < int.from_bytes(head):
            part = connection.recv(_READ_BYTES)
            if not part:
                return
            command += part
        if command:
            connection.sendall(_HEARD)
            _run(connection, logs[0], *marshal.loads(command))  # noqa: S302 - it is this very program that asks
    finally:
        os._exit(1)


def _run(line: socket.socket, log: int, path: str, argv: list[str], env: dict[str, str], folder: str) -> None:
    failure: tuple[int, str]
    try:
        os.chdir(folder)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.execve(path, argv, env)  # noqa: S606
    except OSError as error:
        failure = (error.errno or 0, error.strerror or str(error))
    except ValueError as error:
        failure = (0, str(error))
    line.sendall(marshal.dumps(failure))
