"""The process runtime: an agent's connection to its launcher, which is found again or started."""

import asyncio
import json
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from anyio import to_thread

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher import tree, wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.journal import JournalError, read_journal
from batchyard.agent.launcher.ledger import Fence, Need
from batchyard.agent.launcher.processes import MARKS
from batchyard.agent.logs import log_group_of
from batchyard.agent.runtimes import RuntimeLostError
from batchyard.agent.runtimes.detached import start_detached
from batchyard.agent.runtimes.process import TIMEOUT_GRACE_S, start_order
from batchyard.agent.runtimes.secrets import NO_SECRETS, Secrets
from batchyard.agent.state import Offer, Orders, RunRecord, record_from_launcher
from batchyard.domain.names import LOG_GROUP
from batchyard.rpc.log_context import job_fields
from batchyard.storage.log_files import LogFolder

LAUNCHER_PATIENCE_S: Final = 15.0
_POLL_S: Final = 0.02

_READ_BYTES: Final = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How the launcher works; the defaults are what production uses."""

    namespace: bool = True
    """Whether to try for a PID namespace."""
    cgroups: bool = True
    """Whether to try for cgroups."""
    idle_s: float = 5.0
    """How long the launcher stays without an agent and without work."""
    timeout_grace_s: float = TIMEOUT_GRACE_S
    secrets: Secrets = NO_SECRETS
    """What jobs may have as secrets."""
    starter_folder: Path | None = None
    """Where the starter is that is to start the launcher; None: the agent does it by itself."""


class Connection:
    """A socket to a launcher.

    The loop's own calls carry the bytes: when anyio's wait for a socket is cancelled while there is something to read,
    the loop logs an error that nobody can act on.
    """

    def __init__(self, path: str) -> None:
        """Connect at once; raise OSError if nobody listens, or too many wait to be heard."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    async def send(self, data: bytes) -> None:
        """Send all of it; raise RuntimeLostError if the launcher is gone."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise RuntimeLostError("the launcher is gone") from error

    async def receive(self) -> bytes:
        """Return what has come, at least a byte; raise RuntimeLostError if the launcher is gone."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, _READ_BYTES)
        except OSError as error:
            raise RuntimeLostError("the launcher is gone") from error
        if not data:
            raise RuntimeLostError("the launcher is gone")
        return data

    def peer(self) -> int:
        """Return the launcher's process id."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def close(self) -> None:
        """Leave."""
        self._socket.close()


class ProcessRuntime:
    """Runs jobs as plain processes through the launcher."""

    def __init__(
        self,
        connection: Connection,
        hello: Mapping[str, Any],
        *,
        agent_id: str,
        logs: LogFolder,
        settings: ProcessSettings,
        backlog: Sequence[Mapping[str, Any]],
        inbox: wire.LineBuffer,
    ) -> None:
        self._connection = connection
        self._agent_id = agent_id
        self._logs = logs
        self._settings = settings
        self._news = [record_from_launcher(run) for message in (hello, *backlog) for run in message["runs"]]
        self._is_first = True
        self._inbox = inbox
        self._sending = anyio.Lock()
        self._environ = dict(os.environ)
        self._log_folders: set[str] = set()
        if hello.get("cgroups") == "":
            _log.warning("no cgroups can be made here: the memory of jobs is watched, and no CPU is reserved for them")
        self._instance: str = hello["instance"]
        self._claimed_before = [wire.decode_fence(pair) for pair in hello["lost"]]

    @property
    def instance(self) -> str:
        """Name of the launcher process."""
        return self._instance

    @property
    def claimed_before(self) -> Sequence[Fence]:
        """Fences that an earlier launcher claimed and whose end nobody saw."""
        return self._claimed_before

    async def carry_out(self, orders: Orders) -> None:
        """Pass orders on; raise RuntimeLostError if the launcher is gone."""
        message: dict[str, Any] = {}
        if orders.offers:
            message["offers"] = await self._start_orders(orders)
        if orders.revocations:
            message["revoke"] = orders.revocations
        if orders.kills:
            message["kill"] = orders.kills
        if orders.forgotten:
            message["forget"] = orders.forgotten
        await self._send(message)

    async def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Tell the launcher until when it may run jobs."""
        await self._send({"lease": [deadline, start_margin_s]})

    async def set_capacity(self, capacity: Need) -> None:
        """Tell the launcher how much room there is."""
        await self._send({"capacity": capacity})

    async def changes(self) -> Sequence[RunRecord]:
        """Wait for news of runs."""
        while not self._news and not self._is_first:
            for message in self._inbox.feed(await self._connection.receive()):
                self._news += [record_from_launcher(run) for run in message["runs"]]
        self._is_first = False
        news, self._news = self._news, []
        return news

    async def release(self) -> None:
        """Let the launcher end once nothing runs."""
        await self._send({"exit": True})

    async def _start_orders(self, orders: Orders) -> list[dict[str, Any]]:
        return [
            start_order(
                offer,
                agent_id=self._agent_id,
                log=await self._prepare_log(offer),
                environ=self._environ,
                timeout_grace_s=self._settings.timeout_grace_s,
                secrets=self._settings.secrets,
            )
            for offer in orders.offers
        ]

    async def _prepare_log(self, offer: Offer) -> str | None:
        """Return where the job's output goes, in a folder made for it; None if its log can have no such name."""
        try:
            location = self._logs.location(offer.spec.namespace, offer.log_stream_name)
        except ValueError:
            return None
        folder = location.rpartition("/")[0]
        group = log_group_of(offer.spec)
        if folder not in self._log_folders or group != LOG_GROUP:
            try:
                await to_thread.run_sync(self._logs.set_group, offer.spec.namespace, offer.log_stream_name, group)
                await to_thread.run_sync(partial(os.makedirs, folder, exist_ok=True))
            except OSError as error:
                # The offer goes on: the launcher cannot open the log, and says so of this job alone.
                _log.warning(
                    "no log can be made in %s: %s", folder, error, extra=job_fields(offer.job_id, offer.attempt)
                )
            else:
                self._log_folders.add(folder)
        return location

    async def _send(self, message: Mapping[str, Any]) -> None:
        async with self._sending:
            await self._connection.send(msgspec.json.encode(message) + b"\n")


@asynccontextmanager
async def open_process_runtime(
    folder: Path,
    *,
    agent_id: str,
    capacity: Need,
    logs: LogFolder,
    settings: ProcessSettings = ProcessSettings(),
) -> AsyncIterator[ProcessRuntime]:
    """Connect to this folder's launcher for the length of the context; start one if none lives.

    Before a new launcher starts, every process of a dead one is dead. Raises AgentStartError if the launcher neither
    answers nor ends, or its journal is damaged.
    """
    await to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True, exist_ok=True))
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        runtime = await _reach_launcher(folder, folder_fd, agent_id, logs, settings)
    finally:
        os.close(folder_fd)
    try:
        await runtime.set_capacity(capacity)
        yield runtime
    finally:
        runtime._connection.close()  # noqa: SLF001 - opened here for it


async def _reach_launcher(
    folder: Path, folder_fd: int, agent_id: str, logs: LogFolder, settings: ProcessSettings
) -> ProcessRuntime:
    has_started = False
    with anyio.move_on_after(LAUNCHER_PATIENCE_S):
        while True:
            connection = _connect(folder_fd)
            if connection is not None:
                runtime = await _greet(folder, connection, agent_id, logs, settings)
                if runtime is not None:
                    return runtime
            elif not has_started and not _recorded_launcher_lives(folder):
                await to_thread.run_sync(_end_leftovers, folder, agent_id)
                await start_detached(folder, _options(folder, agent_id, settings), settings.starter_folder)
                has_started = True
            await anyio.sleep(_POLL_S)
    said = (folder / "log").read_text(errors="replace")[-500:] if (folder / "log").exists() else ""
    raise AgentStartError(f"the launcher in {folder} does not answer: {said}")


def _connect(folder_fd: int) -> Connection | None:
    # Through the open folder: the address of a unix socket holds no more than 108 bytes.
    try:
        return Connection(f"/proc/self/fd/{folder_fd}/socket")
    except OSError:
        return None


async def _greet(
    folder: Path, connection: Connection, agent_id: str, logs: LogFolder, settings: ProcessSettings
) -> ProcessRuntime | None:
    """Read what the launcher says first; None if it is just ending."""
    inbox = wire.LineBuffer()
    try:
        messages: list[dict[str, Any]] = []
        while not messages:
            messages = inbox.feed(await connection.receive())
    except RuntimeLostError:
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    hello, *backlog = messages
    if hello["protocol"] != wire.PROTOCOL:
        connection.close()
        raise AgentStartError(f"the launcher in {folder} is of another version: let it end its jobs first")
    _record_launcher(folder, connection.peer())
    return ProcessRuntime(
        connection, hello, agent_id=agent_id, logs=logs, settings=settings, backlog=backlog, inbox=inbox
    )


def _record_launcher(folder: Path, pid: int) -> None:
    """Note which process the launcher is, before it is asked to start anything."""
    seen = tree.stat(pid)
    if seen is not None:
        record = {"pid": pid, "started": seen.started, "boot_id": wire.boot_id()}
        fresh = folder / "process.json.new"
        fresh.write_text(json.dumps(record))
        fresh.rename(folder / "process.json")


def _recorded_launcher_lives(folder: Path) -> bool:
    try:
        record = json.loads((folder / "process.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    seen = tree.stat(record["pid"])
    return seen is not None and seen.alive and seen.started == record["started"] and record["boot_id"] == wire.boot_id()


def _end_leftovers(folder: Path, agent_id: str) -> None:
    """Kill what a dead launcher without a namespace left behind, and wait until it is gone."""
    try:
        history = read_journal(str(folder / "journal"))
    except JournalError as error:
        raise AgentStartError(str(error)) from error
    if history.namespaced or history.boot_id != wire.boot_id():
        return
    mark = f"{MARKS[0]}={agent_id}".encode()

    def leftovers() -> set[int]:
        return {pid for pid in tree.processes() if tree.carries(pid, [mark])}

    while tree.kill(leftovers):
        _log.warning("ending processes of a launcher that died")
        time.sleep(_POLL_S)


def _options(folder: Path, agent_id: str, settings: ProcessSettings) -> Options:
    return Options(
        folder=str(folder.resolve()),
        agent_id=agent_id,
        idle_s=settings.idle_s,
        namespace=settings.namespace,
        cgroups=settings.cgroups,
    )
