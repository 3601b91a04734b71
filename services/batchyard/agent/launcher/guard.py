"""The guard of containers: ends those of an agent when its lease is over, also while the agent is stopped or dead.

A process of its own, as the launcher is, in no namespace. It starts nothing and renews nothing: every second it reads
the lease that the agent writes down. Past it, it kills what runs in the cgroups of the agent's containers, which needs
no engine, and has the engine kill what carries the agent's labels; what is created and not started is removed, so that
a start which is still on its way finds nothing. It goes on with that until the lease is renewed.
"""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import time
from contextlib import suppress

from batchyard.agent.launcher import tree, wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.leasefile import LeaseFile

LEASE = "lease"
RUNNING = "running"
"""Folder with an empty file for each container that may run, named by its id."""
ENGINE = "engine.json"
"""The engine's address, and the labels of the agent's containers as `name=value`."""
LOCK = "lock"
"""Held by the agent while it lives."""
ALIVE = "guard.lock"
"""Held by the guard while it lives."""

INTERVAL_S = 1.0
ANSWER_PATIENCE_S = 3.0
_STDERR = 2
_READ_BYTES = 65536
_IDS = re.compile("[0-9a-f]{64}")
# Podman's own watcher of a container, which is to tell of its end.
_WATCHER = "libpod-conmon-"
_ENDED = ("exited", "dead", "removing")


def serve(options: Options) -> None:
    """Guard the containers of this folder's agent until the agent is gone and none is left."""
    os.chdir(options.folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Held until the end: by it an agent knows that there is a guard.
    fcntl.flock(os.open(ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX)
    guard = Guard(LeaseFile(LEASE, wire.boot_id()))
    while not guard.is_over():
        guard.turn(wire.now())
        time.sleep(INTERVAL_S)


class Guard:
    """What is looked after: a lease, and the containers under it."""

    def __init__(self, lease: LeaseFile) -> None:
        self._lease = lease
        self._deadline = float("-inf")

    def turn(self, now: float) -> None:
        """If the lease is over, end everything that was there while it was over.

        So it is looked at what there is, and then at the lease once more: what a new lease has started is not touched.
        """
        if not self._is_lease_over(now):
            return
        known = known_containers()
        if not self._is_lease_over(now):
            return
        if kill_by_cgroup(known):
            _log("the lease is over: containers are killed")
        with suppress(OSError, ValueError, LookupError):
            engine, labels = _read_engine()
            containers = list_containers(engine, labels)
            if not self._is_lease_over(now):
                return
            for container, state in containers:
                if state == "created":
                    engine.ask("DELETE", f"/containers/{container}?v=1")
                else:
                    engine.ask("POST", f"/containers/{container}/kill?signal=KILL")

    def _is_lease_over(self, now: float) -> bool:
        deadline = self._lease.read()
        if deadline is not None:
            self._deadline = deadline
        return now >= self._deadline

    def is_over(self) -> bool:
        """Tell whether the agent is gone and nothing of it runs or may come to run."""
        if is_held(LOCK):
            return False
        try:
            engine, labels = _read_engine()
            return not list_containers(engine, labels)
        except (OSError, ValueError, LookupError):
            return not members(known_containers())


class Engine:
    """As much of a container engine's HTTP as a guard needs."""

    def __init__(self, url: str) -> None:
        self._scheme, _, self._address = url.partition("://")

    def ask(self, method: str, path: str) -> bytes:
        """Return the body of an answer, whatever its status; raise OSError if there is none in good time."""
        with self._connect() as connection:
            connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Length: 0\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(_READ_BYTES):
                answer += data
        return answer.partition(b"\r\n\r\n")[2]

    def _connect(self) -> socket.socket:
        if self._scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(ANSWER_PATIENCE_S)
            try:
                connection.connect(self._address)
            except OSError:
                connection.close()
                raise
            return connection
        if self._scheme in ("tcp", "http"):
            host, _, port = self._address.strip("/").rpartition(":")
            return socket.create_connection((host, int(port)), ANSWER_PATIENCE_S)
        raise OSError(errno.EPROTONOSUPPORT, f"no guard speaks {self._scheme}")


def list_containers(engine: Engine, labels: list[str]) -> list[tuple[str, str]]:
    """Return the containers that run or may be started, with their states, as the engine knows them."""
    filters = _quoted(json.dumps({"label": labels}))
    answer = json.loads(engine.ask("GET", f"/containers/json?all=1&filters={filters}"))
    return [(entry["Id"], entry["State"]) for entry in answer if entry["State"] not in _ENDED]


def _read_engine() -> tuple[Engine, list[str]]:
    with open(ENGINE, encoding="utf-8") as file:
        settings = json.load(file)
    return Engine(settings["engine"]), settings["labels"]


def is_held(path: str) -> bool:
    """Tell whether a process holds the lock of a file."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def known_containers() -> set[str]:
    """Return the ids of the containers that may run."""
    return set(os.listdir(RUNNING))


def kill_by_cgroup(containers: set[str]) -> bool:
    """Kill every process in the cgroups of these containers; return whether there was any."""
    return bool(containers) and tree.kill(lambda: members(containers))


def members(containers: set[str]) -> set[int]:
    """Return the living processes in the cgroups of these containers, whatever the engine calls those."""
    return {pid for pid in tree.processes() if containers & _containers_of(pid)}


def _containers_of(pid: int) -> set[str]:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return set(_IDS.findall("".join(line for line in file if _WATCHER not in line)))
    except OSError:
        return set()


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _log(text: str) -> None:
    with suppress(OSError):
        os.write(_STDERR, f"{text}\n".encode())
