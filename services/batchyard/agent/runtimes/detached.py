"""Starts what outlives its agent: the launcher of processes, the guard of containers."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher import starter, wire
from batchyard.agent.launcher.detach import Options

STARTER_PATIENCE_S: Final = 10.0
_POLL_S: Final = 0.05
_PROGRAM: Final = str(Path(wire.__file__).parent / "__main__.py")


async def start_detached(folder: Path, options: Options, starter_folder: Path | None = None) -> None:
    """Start a launcher or guard in this folder, as no child of this process; its log of before is kept once.

    Where the folder of a starter is given, that one does it, once it is there. Raises AgentStartError if it stays away.
    """
    await to_thread.run_sync(_keep_log, folder)
    if starter_folder is None:
        await to_thread.run_sync(_detach, options)
    else:
        await _ask_starter(starter_folder, options)


def _keep_log(folder: Path) -> None:
    with suppress(FileNotFoundError):
        (folder / "log").rename(folder / "log.1")


def _detach(options: Options) -> None:
    subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", _PROGRAM, options.encode(), "detach"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )


# In no thread: one that waits could not be told to stop, and would hold up the stop of its agent.


async def _ask_starter(folder: Path, options: Options) -> None:
    loop = asyncio.get_running_loop()
    with await _connected(folder) as connection:
        try:
            with anyio.fail_after(STARTER_PATIENCE_S):
                await loop.sock_sendall(connection, options.encode().encode())
                connection.shutdown(socket.SHUT_WR)
                code = (await loop.sock_recv(connection, 16)).strip()
        except OSError as error:
            raise AgentStartError(f"`batchyard launcher` on {folder} went away: {error}") from error
    if code != b"0":
        raise AgentStartError(f"`batchyard launcher` on {folder} could start nothing: see its log")


async def _connected(folder: Path) -> socket.socket:
    # Through the open folder: the address of a unix socket holds no more than 108 bytes.
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with anyio.move_on_after(STARTER_PATIENCE_S):
            while True:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                try:
                    connection.connect(f"/proc/self/fd/{folder_fd}/{starter.SOCKET}")
                except OSError:
                    connection.close()
                    await anyio.sleep(_POLL_S)
                else:
                    return connection
    finally:
        os.close(folder_fd)
    raise AgentStartError(
        f"no `batchyard launcher` answers on {folder}: start one with the agent's --data-dir, "
        "or leave out --separate-launcher"
    )
