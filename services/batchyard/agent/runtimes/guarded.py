"""What the docker runtime shares with the guard of its containers: a lease, the ids of what may run, a lock."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from batchyard.agent.host import AgentStartError, replace_file
from batchyard.agent.launcher import guard, wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.leasefile import LeaseFile
from batchyard.agent.runtimes.detached import start_detached

GUARD_PATIENCE_S: Final = 15.0
_POLL_S: Final = 0.02


def engine_before(folder: Path) -> str | None:
    """Return the address of the engine that this folder's agent last used, or None."""
    try:
        address = json.loads((folder / guard.ENGINE).read_text())["engine"]
    except (FileNotFoundError, ValueError, LookupError):
        return None
    return str(address)


class GuardedFolder:
    """The docker runtime's folder. The guard of its containers is looked after here, and started when there is none."""

    def __init__(self, folder: Path, agent_id: str, starter_folder: Path | None = None) -> None:
        """Open it. `hold` comes before everything else."""
        self._folder = folder
        self._agent_id = agent_id
        self._starter_folder = starter_folder
        self._running = folder / guard.RUNNING
        self._running.mkdir(exist_ok=True)
        self.lease = LeaseFile(str(folder / guard.LEASE), wire.boot_id())

    def close(self) -> None:
        """Close its files."""
        self.lease.close()

    def set_engine(self, url: str, labels: Sequence[str]) -> None:
        """Say which engine the guard is to ask for which containers."""
        text = json.dumps({"engine": url, "labels": labels})
        path = self._folder / guard.ENGINE
        with suppress(FileNotFoundError):
            if path.read_text() == text:
                return
        replace_file(path, text)

    async def ensure_guard(self) -> None:
        """Start the guard if none lives; raise AgentStartError if it does not start."""
        if self._has_guard():
            return
        options = Options(folder=str(self._folder.resolve()), agent_id=self._agent_id, guard=True)
        await start_detached(self._folder, options, self._starter_folder)
        with anyio.move_on_after(GUARD_PATIENCE_S):
            while not self._has_guard():  # noqa: ASYNC110 - nothing tells when a lock is taken
                await anyio.sleep(_POLL_S)
            return
        raise AgentStartError(f"the guard of containers does not start: see {self._folder / 'log'}")

    def _has_guard(self) -> bool:
        return guard.is_held(str(self._folder / guard.ALIVE))

    def may_run(self, container: str) -> bool:
        """Have the guard know a container, before it is started; return False if the disk takes no note of it."""
        try:
            (self._running / container).touch()
        except OSError:
            return False
        return True

    async def kill(self, container: str) -> None:
        """End whatever runs of a container that the engine may know nothing of; return when nothing is left."""
        while await to_thread.run_sync(guard.kill_by_cgroup, {container}):  # noqa: ASYNC110 - nothing tells of a death
            await anyio.sleep(_POLL_S)

    def cannot_run(self, container: str) -> None:
        """Note that a container does not run and never will again."""
        with suppress(OSError):
            (self._running / container).unlink(missing_ok=True)

    def known(self) -> set[str]:
        """Return the containers that may run, as far as was noted."""
        return {path.name for path in self._running.iterdir()}
