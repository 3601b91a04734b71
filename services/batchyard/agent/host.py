"""The folder that names an agent: who it is, and that one process at a time is it."""

import errno
import fcntl
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import anyio
from anyio import to_thread

from batchyard.domain.errors import UnavailableError
from batchyard.rpc.peers import Peer

LOCK_PATIENCE_S: Final = 5.0
_LOCK_POLL_S: Final = 0.1


_log = logging.getLogger(__name__)

Epochs = tuple[int, int]
"""Of the job store and, within it, of the scheduler that leads: whose word counts, the higher one's."""


class AgentStartError(Exception):
    """The agent can't start; the text tells the user why."""


class OutdatedSchedulerError(UnavailableError):
    """A scheduler that another one has replaced; the text tells the user what else it may be."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the agent is towards the scheduler, as its folder keeps it."""

    agent_id: str
    incarnation: int = 0
    runtime: str = ""
    """Name of the runtime of this incarnation."""
    instance: str = ""
    """The runtime's instance of this incarnation; see `Runtime.instance`."""
    store_epoch: int = 0
    leader_epoch: int = 0
    """With the store's: those of the newest scheduler that was followed."""


class IdentityKeeper:
    """The identity on the disk of an agent's folder, which must be locked."""

    def __init__(self, folder: Path, peer: Peer | None = None) -> None:
        """Read it; a new folder gets a new agent id, which begins with the name in the agent's certificate.

        Raises AgentStartError if it is damaged, or of an agent whose certificate this is not.
        """
        self._folder = folder
        self._newest: Epochs = (0, 0)
        path = folder / "agent.json"
        try:
            self.identity = Identity(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            # Never that of before, also where the name is: what an agent ran whose disk is lost may run still.
            self._save(Identity(uuid4().hex if peer is None else f"{peer.name}.{uuid4().hex[:12]}"))
        except (ValueError, TypeError) as error:
            raise AgentStartError(f"{path} is damaged ({error}): nobody knows what this agent runs") from error
        if peer is not None and not peer.is_agent(self.identity.agent_id):
            raise AgentStartError(
                f"the certificate is that of {peer}, and {folder} is the folder of agent {self.identity.agent_id}: "
                f"use a certificate of that agent (--agent {self.identity.agent_id}), or another folder"
            )
        self._newest = (self.identity.store_epoch, self.identity.leader_epoch)

    def begin_incarnation(self, runtime: str, instance: str) -> None:
        """Begin the next incarnation; it is on disk when this returns. Everything of the earlier ones must be dead."""
        self._save(
            replace(self.identity, incarnation=self.identity.incarnation + 1, runtime=runtime, instance=instance)
        )

    def follow(self, epochs: Epochs) -> None:
        """Follow a scheduler from now on; raise OutdatedSchedulerError if a newer one was followed before."""
        if epochs < self._newest:
            raise OutdatedSchedulerError(
                f"the scheduler has epochs {epochs[0]}/{epochs[1]} of store and leader, and one with"
                f" {self._newest[0]}/{self._newest[1]} was followed before: it is outdated, or the installation was set"
                f" up anew. In the latter case stop the agent, remove {self._folder} and start it again"
            )
        self._newest = epochs
        if epochs == (self.identity.store_epoch, self.identity.leader_epoch):
            return
        try:
            self._save(replace(self.identity, store_epoch=epochs[0], leader_epoch=epochs[1]))
        except OSError as error:
            # Jobs that run are worth more than a guard behind another: no scheduler grants leases that it may not.
            _log.warning("the epoch of the scheduler can't be written down: %s", error)

    def _save(self, identity: Identity) -> None:
        replace_file(self._folder / "agent.json", json.dumps(asdict(identity)))
        self.identity = identity


def replace_file(path: Path, text: str) -> None:
    """Put a file in the place of another one; it is on disk when this returns, and never half of it."""
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@asynccontextmanager
async def locked_folder(folder: Path, patience_s: float) -> AsyncIterator[None]:
    """Own an agent's folder, made if need be, for the length of the context.

    Waits for an agent that is just ending; raises AgentStartError, with its process id, if it stays.
    """
    await to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True, exist_ok=True))
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with anyio.move_on_after(patience_s):
            while not _try_lock(fd):  # noqa: ASYNC110 - nothing tells when a lock becomes free
                await anyio.sleep(_LOCK_POLL_S)
        if not _try_lock(fd):
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
            raise AgentStartError(f"another agent (process {owner}) already uses {folder}")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True
