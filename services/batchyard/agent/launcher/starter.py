"""Starts launchers and guards for an agent that is a systemd unit, or a container, of its own.

What an agent starts by itself is in the agent's unit, and ends when that is stopped. Asked over a socket in the
agent's folder, this process starts it in its own: a request is the JSON of `detach.Options`, the answer the exit code.
"""

import os
import signal
import socket
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET = "starter"
SUBGROUP = "starter"
REQUEST_PATIENCE_S = 5.0
_REQUEST_BYTES = 65536
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
_DELEGATED = ("user.delegate", "trusted.delegate")


def serve(folder: str, ready: "Callable[[], None]") -> None:
    """Start what the agent of this folder asks for, until SIGTERM or SIGINT; raise OSError if it cannot listen."""
    os.chdir(folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    step_aside()
    # By its name within this folder: a socket's address holds no more than 108 bytes.
    with suppress(FileNotFoundError):
        os.unlink(SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)
        listener.bind(SOCKET)
        os.umask(mask)
        listener.listen(8)
        ready()
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(REQUEST_PATIENCE_S)
                _answer(connection)


def _answer(connection: socket.socket) -> None:
    request = b""
    while (data := connection.recv(_REQUEST_BYTES)) and len(request) < _REQUEST_BYTES:
        request += data
    connection.sendall(b"%d\n" % _start(request.decode()))


def _start(options: str) -> int:
    """Start it as no child of this process; return the exit code of what did."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    # A new interpreter, which reads the files as they are now: those of a newer version, after an upgrade.
    command = [sys.executable, "-I", "-S", _PROGRAM, options, "detach"]
    variables = {"PATH": os.environ.get("PATH", os.defpath)}
    pid = os.posix_spawn(command[0], command, variables, file_actions=quiet)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def step_aside(mount: str = "/sys/fs/cgroup") -> None:
    """Leave the cgroup that systemd has delegated to this process to the cgroups of jobs.

    Of version 2, a cgroup with processes can have none below that are limited. systemd 254 knows how to do this by
    itself (DelegateSubgroup), older ones do not.
    """
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "/")
    home = mount + own
    if own == "/" or not os.path.exists(f"{home}/cgroup.procs") or not _is_delegated(home):
        return
    with suppress(OSError):
        os.makedirs(f"{home}/{SUBGROUP}", exist_ok=True)
        with open(f"{home}/{SUBGROUP}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")


def _is_delegated(folder: str) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False
