"""What an agent does when it may die, or its disk fail, at any moment: the agent is a child, its launcher lives on."""

from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import anyio

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.launcher.ledger import RunState
from batchyard.agent.runtimes import launched
from batchyard.agent.runtimes.launched import ProcessSettings
from batchyard.agent.state import Offer
from support.agent import FakeScheduler, an_offer
from support.waiting import PATIENCE_S, eventually

_SETTINGS = ProcessSettings(namespace=False, idle_s=0.2, timeout_grace_s=0.2)


def child(folder: Path, port: int, parent: Connection) -> None:
    """Be an agent, once the parent says so."""
    parent.send(("ready",))
    parent.recv()
    config = AgentConfig(
        folder=folder,
        scheduler=f"127.0.0.1:{port}",
        runtime="process",
        capacity="vcpus=4,memory=4GiB",
        process=_SETTINGS,
    )
    # On a busy machine a launcher under a tracer takes longer to begin than an agent waits for it.
    with patch.object(launched, "LAUNCHER_PATIENCE_S", PATIENCE_S):
        anyio.run(partial(run_agent, config, ready=lambda: None))


def job(folder: Path, number: int, command: str) -> Offer:
    """Return an offer of a job that appends its run to the history before all else."""
    return an_offer("sh", "-c", f"echo $BATCHYARD_FENCE >> {folder}/history; {command}", fence=(1, number))


async def play(scheduler: FakeScheduler, folder: Path, is_alive: Callable[[], bool]) -> bool:
    """Be the scheduler: offer jobs, be replaced, give the agent up; return False if the agent dies before the end."""
    is_over = False

    async def drive() -> None:
        nonlocal is_over
        scheduler.offer(job(folder, 1, "exit 0"), job(folder, 2, "exit 3"))
        await scheduler.done((1, 1))
        await scheduler.done((1, 2))
        scheduler.offer(job(folder, 3, "sleep 1000"))
        await eventually(lambda: scheduler.last((1, 3), RunState.STARTED))
        scheduler.epochs = (1, 2)
        before = len(scheduler.registrations)
        scheduler.break_stream()
        await eventually(lambda: len(scheduler.registrations) > before, "it follows the next scheduler")
        scheduler.refused_incarnations.add(scheduler.registrations[-1].incarnation)
        scheduler.break_stream()
        await scheduler.done((1, 3))
        scheduler.offer(job(folder, 4, "exit 0"))
        await scheduler.done((1, 4))
        is_over = True
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive)
        while is_alive():  # noqa: ASYNC110 - a process
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    return is_over
