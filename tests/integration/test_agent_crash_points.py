"""The agent dies, or its disk fails, at every sync of its identity: it gets no younger, repeats and loses no run."""

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from batchyard.agent.convert import fence_of
from batchyard.agent.launcher.ledger import RunEnd, RunState
from support.agent import FakeScheduler, pids_with, serving
from support.agent_scenario import child, job, play
from support.crashes import CHILD_DEADLINE_S, NEEDS_STRACE, SYNCS, forked, traced, was_injected
from support.waiting import eventually

pytestmark = [pytest.mark.timeout(600), NEEDS_STRACE]

AT_ONCE = 2
POINTS_MAX = 100


@asynccontextmanager
async def an_agent(folder: Path, port: int, fault: str = "") -> AsyncIterator[ForkServerProcess]:
    """Run an agent in a child, under a fault in its main thread; it is killed at the end."""
    process, pipe = await to_thread.run_sync(forked, child, folder, port)
    async with AsyncExitStack() as stack:
        stack.callback(process.join, CHILD_DEADLINE_S)
        stack.callback(process.kill)
        stack.enter_context(pipe)
        if fault:
            assert process.pid is not None
            tracing = traced(process.pid, SYNCS, fault, all_threads=False, log=folder / "trace")
            await to_thread.run_sync(stack.enter_context, tracing)
        pipe.send("go")
        yield process


async def check(scheduler: FakeScheduler, folder: Path) -> None:
    """End everything that was offered, and look at what was said and what ran."""

    def is_over() -> bool:
        # Again and again: what is demanded before an agent has registered is not kept for it.
        if scheduler.held:
            scheduler.send_kills((1, 3))
        return not scheduler.held

    await eventually(is_over, "every offer comes to its end")
    scheduler.offer(job(folder, 9, "exit 0"))
    last = await scheduler.done((1, 9))
    assert (RunEnd(last.end), last.exit_code) == (RunEnd.EXITED, 0)
    incarnations = [registration.incarnation for registration in scheduler.registrations]
    assert incarnations == sorted(incarnations), "an incarnation went back"
    assert len({registration.agent_id for registration in scheduler.registrations}) == 1
    started = Counter((folder / "history").read_text().split())
    assert set(started.values()) == {1}, "a run has started twice"
    seen: dict[tuple[int, int], int] = {}
    for report in scheduler.reports:
        state = int(report.state)
        assert state >= seen.get(fence_of(report.fence), 0), "a report went back"
        seen[fence_of(report.fence)] = state
    assert {fence for fence, state in seen.items() if state == RunState.DONE} == {
        (int(epoch), int(number)) for epoch, number in (text.split("-") for text in started)
    }


async def run(folder: Path, fault: str) -> bool:
    """Play the scenario under a fault, then without; return whether the fault was never met."""
    await to_thread.run_sync(folder.mkdir)
    scheduler = FakeScheduler(heartbeat_ms=500)
    async with serving(scheduler) as port:
        async with an_agent(folder, port, fault) as process:
            is_over = await play(scheduler, folder, process.is_alive)
        assert is_over or process.exitcode in (1, -signal.SIGKILL)
        async with an_agent(folder, port):
            await check(scheduler, folder)
    await eventually(lambda: not pids_with(str(folder / "launcher")), "the launcher has ended")
    is_met = "SIGKILL" in (folder / "trace").read_text() or was_injected(folder / "trace")
    assert is_met or is_over, f"the agent ended by itself, with {process.exitcode}"
    return not is_met


@pytest.mark.parametrize("fault", ["signal=SIGKILL", "error=EIO"])
async def test_an_agent_goes_on_as_itself_wherever_it_dies(tmp_path: Path, fault: str) -> None:
    points = iter(range(1, POINTS_MAX))
    met = 0
    is_over = False

    async def work() -> None:
        nonlocal is_over, met
        while not is_over:
            point = next(points)
            if await run(tmp_path / str(point), f"{fault}:when={point}"):
                is_over = True
            else:
                met += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(partial(work))
    assert met >= 10
