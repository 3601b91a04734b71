"""Starts what outlives its agent: the launcher of processes, the guard of containers."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher import starter, wire
from batchyard.agent.launcher.detach import Options

STARTER_PATIENCE_S: Final = 10.0
_POLL_S: Final = 0.05
_PROGRAM: Final = str(Path(wire.__file__).parent / "__main__.py")


def start_detached(folder: Path, options: Options, starter_folder: Path | None = None) -> None:
    """Start a launcher or guard in this folder, as no child of this process; its log of before is kept once.

    Where the folder of a starter is given, that one does it, once it is there. Raises AgentStartError if it stays away.
    """
    with suppress(FileNotFoundError):
        (folder / "log").rename(folder / "log.1")
    if starter_folder is not None:
        _ask_starter(starter_folder, options)
        return
    subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", _PROGRAM, options.encode(), "detach"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )


def _ask_starter(folder: Path, options: Options) -> None:
    with _connected(folder) as connection:
        try:
            connection.sendall(options.encode().encode())
            connection.shutdown(socket.SHUT_WR)
            code = connection.recv(16).strip()
        except OSError as error:
            raise AgentStartError(f"`batchyard launcher` on {folder} went away: {error}") from error
    if code != b"0":
        raise AgentStartError(f"`batchyard launcher` on {folder} could start nothing: see its log")


def _connected(folder: Path) -> socket.socket:
    deadline = time.monotonic() + STARTER_PATIENCE_S
    # Through the open folder: the address of a unix socket holds no more than 108 bytes.
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(STARTER_PATIENCE_S)
            try:
                connection.connect(f"/proc/self/fd/{folder_fd}/{starter.SOCKET}")
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    raise AgentStartError(
                        f"no `batchyard launcher` answers on {folder}: start one with the agent's --data-dir, "
                        "or leave out --separate-launcher"
                    ) from error
                time.sleep(_POLL_S)
            else:
                return connection
    finally:
        os.close(folder_fd)
