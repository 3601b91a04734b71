"""What a launcher does when it may die, or its disk fail, at any moment: a fixed scenario; the launcher is a child."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from batchyard.agent.launcher import journal, server, wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.ledger import FINAL, Fence, RunEnd, RunState
from batchyard.agent.runtimes.launched import ProcessSettings, open_process_runtime
from batchyard.agent.state import Orders, RunRecord
from batchyard.storage.log_files import LogFolder
from support.agent import LauncherClient, agent_id_of, an_offer, start_entry
from support.waiting import PATIENCE_S

CAPACITY: Final = (4000, 4096, 0)
COMMANDS: Final[dict[Fence, str]] = {
    (1, 1): "exit 0",
    (1, 2): "exit 3",
    (1, 3): "sleep 1000",
    (1, 4): "exit 0",
    (1, 5): "exit 0",
    (1, 6): "exit 0",
}


def child(folder: Path, parent: Connection) -> None:
    """Be a launcher that rewrites its journal often and tries a disk that failed again soon."""
    os.setsid()
    journal.COMPACT_AFTER_BYTES = 600
    server._DISK_RETRY_S = 0.02
    parent.send(("ready",))
    parent.recv()
    server.serve(Options(folder=str(folder), agent_id=agent_id_of(folder), idle_s=0.2), namespaced=False)


@dataclass
class Told:
    """What an agent knows when its launcher is gone."""

    states: dict[Fence, RunState] = field(default_factory=dict)
    ends: dict[Fence, tuple[RunEnd, int | None]] = field(default_factory=dict)
    forgotten: set[Fence] = field(default_factory=set)
    """What the launcher was asked to forget."""
    is_over: bool = False
    """Whether the scenario came to its end."""


def play(folder: Path, is_alive: Callable[[], bool]) -> Told:
    """Be the agent: offer jobs, end some, forget some; return all that was learnt when the launcher is gone."""
    told = Told()
    with suppress(ConnectionError):
        client = LauncherClient(folder, is_alive=is_alive)
        try:
            _play(folder, client, told)
            told.is_over = True
        finally:
            told.states = {fence: RunState(run[1]) for fence, run in client.runs.items()}
            told.ends = {
                fence: (RunEnd(run[6]), run[5]) for fence, run in client.runs.items() if run[1] == RunState.DONE
            }
            client.close()
    return told


def _play(folder: Path, client: LauncherClient, told: Told) -> None:
    def offer(*fences: Fence) -> None:
        client.send(offers=[_entry(folder, fence) for fence in fences])

    def forget(*fences: Fence) -> None:
        told.forgotten.update(fences)
        client.send(forget=fences)

    client.send(capacity=CAPACITY, lease=[wire.now() + 3600, 0])
    offer((1, 1))
    client.until((1, 1), RunState.DONE)
    offer((1, 2), (1, 3))
    client.until((1, 2), RunState.DONE)
    # On a disk that fails it may be over without a start.
    client.until((1, 3), RunState.STARTED, or_later=True)
    forget((1, 1))
    offer((1, 4))
    client.until((1, 4), RunState.DONE)
    client.send(kill=[((1, 3), 0)])
    client.until((1, 3), RunState.DONE)
    forget((1, 2), (1, 4))
    offer((1, 5))
    client.until((1, 5), RunState.DONE)
    offer((1, 6))
    client.until((1, 6), RunState.DONE)
    client.send(exit=True)


def _command(folder: Path, fence: Fence) -> list[str]:
    """Return a job that appends its run to the history before all else."""
    return ["sh", "-c", f"echo $BATCHYARD_FENCE >> {folder}/history; {COMMANDS[fence]}"]


def _entry(folder: Path, fence: Fence) -> dict[str, Any]:
    variables = {"BATCHYARD_AGENT_ID": agent_id_of(folder)}
    return start_entry(*_command(folder, fence), fence=fence, env=variables, need=[1000, 64, 0])


def history(folder: Path) -> Counter[Fence]:
    """Return how often each run has started."""
    with suppress(FileNotFoundError):
        pairs = [line.split("-") for line in (folder / "history").read_text().split()]
        return Counter((int(epoch), int(number)) for epoch, number in pairs)
    return Counter()


async def take_up_and_end(folder: Path) -> tuple[dict[Fence, RunRecord], dict[Fence, RunRecord]]:
    """Be an agent that comes back: offer everything again, and end it.

    Return what the launcher says first, and how each run has ended.
    """
    settings = ProcessSettings(namespace=False, idle_s=0.2)
    logs = LogFolder(folder / "logs")
    agent_id = agent_id_of(folder)
    async with (
        asyncio.timeout(PATIENCE_S),
        open_process_runtime(folder, agent_id=agent_id, capacity=CAPACITY, logs=logs, settings=settings) as runtime,
    ):
        first = {record.fence: record for record in await runtime.changes()}
        await runtime.renew_lease(wire.now() + 3600, 0)
        runs = dict(first)
        await runtime.carry_out(
            Orders(offers=[an_offer(*_command(folder, fence), fence=fence) for fence in COMMANDS if fence not in first])
        )
        while any(fence not in runs or runs[fence].state not in FINAL for fence in COMMANDS):
            news = {record.fence: record for record in await runtime.changes()}
            runs |= news
            kills = [(fence, 0.0) for fence, record in news.items() if record.state is RunState.STARTED]
            await runtime.carry_out(Orders(kills=[kill for kill in kills if COMMANDS[kill[0]].startswith("sleep")]))
        await runtime.release()
    return first, runs
