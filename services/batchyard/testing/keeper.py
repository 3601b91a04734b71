"""A server that lives as long as somebody uses it, shared by processes that know nothing but a folder.

Whoever uses it holds a shared lock on a file. The keeper, a process of its own, starts `batchyard up`, says where it
is, and waits for the lock alone: it gets it when the last user has let go or died, in whatever way, and stops the
server.
Standard library only: it is what pytest workers import.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.01

_USERS: Final = "users.lock"
_STARTING: Final = "starting.lock"
_ENDPOINT: Final = "server.json"
_LOG: Final = "server.log"


class ServerError(Exception):
    """The server cannot be started."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a running server is."""

    http_url: str
    """As in http://127.0.0.1:8080."""
    grpc_target: str
    """As in 127.0.0.1:8081."""


@contextmanager
def shared_server(folder: Path, arguments: Sequence[str]) -> Iterator[Server]:
    """Use the server of a folder, started now with these arguments of `batchyard up` if it does not run.

    Raises ServerError with the server's log if it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / _USERS, fcntl.LOCK_SH):
        with _locked(folder / _STARTING, fcntl.LOCK_EX):
            server = _running(folder) or _start(folder, arguments)
        yield server


def _start(folder: Path, arguments: Sequence[str]) -> Server:
    with (folder / _LOG).open("ab") as log:
        keeper = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "batchyard.testing.keeper", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A Ctrl-C is for pytest: the server goes when the tests have.
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while (server := _running(folder)) is None:
        if (code := keeper.poll()) is not None:
            raise ServerError(f"batchyard up ended with exit code {code}:\n{(folder / _LOG).read_text()}")
        if time.monotonic() > deadline:
            keeper.terminate()
            raise ServerError(f"batchyard up was not ready in {START_TIMEOUT_S} s:\n{(folder / _LOG).read_text()}")
        time.sleep(POLL_S)
    return server


def _running(folder: Path) -> Server | None:
    try:
        return Server(**json.loads((folder / _ENDPOINT).read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def keep(folder: Path, arguments: Sequence[str]) -> int:
    """Run a server until nobody uses it any more; return its exit code."""
    command = [sys.executable, "-m", "batchyard.cli", "up", "--data-dir", str(folder / "data"), *arguments]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            words = server.stdout.readline().split()
            if words[:2] != ["batchyard", "ready"]:
                return server.wait()
            fresh = folder / f"{_ENDPOINT}.new"
            fresh.write_text(json.dumps({"http_url": words[2], "grpc_target": words[3].removeprefix("grpc://")}))
            fresh.rename(folder / _ENDPOINT)
            with _locked(folder / _USERS, fcntl.LOCK_EX):
                # Who comes now waits for the lock, and then starts another one.
                (folder / _ENDPOINT).unlink()
                return _stop(server)
        finally:
            if server.poll() is None:
                _stop(server)


def _stop(server: "subprocess.Popen[str]") -> int:
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        return server.wait(STOP_TIMEOUT_S)
    server.kill()
    return server.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(keep(Path(sys.argv[1]), sys.argv[2:]))
