"""The launcher dies, or its disk fails, at every sync and write of its journal: nothing starts twice or is lost."""

import asyncio
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from batchyard.agent.launcher.ledger import RunEnd, RunState
from support.crashes import CHILD_DEADLINE_S, NEEDS_STRACE, SYNCS, forked, sweep, traced, was_injected
from support.launcher_scenario import COMMANDS, Told, child, history, play, take_up_and_end

pytestmark = [pytest.mark.timeout(600), NEEDS_STRACE]

WRITES = "write"
FAULT_S = 0.1


def play_under(folder: Path, calls: str, fault: str, *, heal: bool = False) -> tuple[Told, int | None]:
    """Play the scenario against a launcher with a fault in its journal; return what was told and the exit status.

    The fault may heal, some time after it has been met.
    """
    folder.mkdir()
    process, pipe = forked(child, folder)
    journal = folder / "journal"
    with pipe:
        assert process.pid is not None
        files = (journal, journal.with_name("journal.new")) if calls == WRITES else ()
        log = folder / "trace"
        with traced(process.pid, calls, fault, files=files, all_threads=False, log=log) as tracer:
            pipe.send("go")
            if heal:
                threading.Thread(target=heal_once_met, args=(tracer, log)).start()
            told = play(folder, process.is_alive)
        process.join(CHILD_DEADLINE_S)
    return told, process.exitcode


def heal_once_met(tracer: subprocess.Popen[bytes], log: Path) -> None:
    while tracer.poll() is None and not was_injected(log):
        time.sleep(0.01)
    time.sleep(FAULT_S)
    tracer.terminate()


def check(folder: Path, told: Told, *, ends_may_be_lost: bool) -> list[RunEnd | None]:
    """Look at what there is after a fault, and bring it to its end; return how runs ended that the fault ended."""
    first, runs = asyncio.run(take_up_and_end(folder))
    for fence, state in told.states.items():
        if fence in told.forgotten or state in (RunState.OFFERED, RunState.REVOKED):
            continue
        assert fence in first, f"{fence} was told as {state.name} and is forgotten"
        if fence in told.ends:
            known = first[fence].end, first[fence].exit_code
            assert known == told.ends[fence] or (ends_may_be_lost and known == (RunEnd.LOST, None))
    started = history(folder)
    assert all(times == 1 for times in started.values()), "a run has started twice"
    for fence in COMMANDS:
        run = runs[fence]
        if run.end is RunEnd.EXITED:
            assert (started[fence], run.exit_code) == (1, int(COMMANDS[fence].removeprefix("exit ")))
        elif run.state is RunState.REVOKED:
            assert fence in told.forgotten or not started[fence], f"{fence} was given back, and has run"
        elif run.end is RunEnd.NEVER_STARTED:
            assert not started[fence], f"{fence} is told as never started, and has run"
    return [run.end for run in first.values() if run.end in (RunEnd.LOST, RunEnd.NEVER_STARTED)]


# Most writes are of what the disk may lose: of those a sample.
@pytest.mark.parametrize(("calls", "step", "points_min"), [(SYNCS, 1, 8), (WRITES, 3, 6)])
def test_nothing_starts_twice_and_no_claim_is_forgotten_wherever_the_launcher_dies(
    tmp_path: Path, calls: str, step: int, points_min: int
) -> None:
    ends: list[RunEnd | None] = []

    def run(point: int) -> bool:
        folder = tmp_path / str(point)
        told, status = play_under(folder, calls, f"signal=SIGKILL:when={point}")
        assert status in (0, -signal.SIGKILL)
        ends.extend(check(folder, told, ends_may_be_lost=False))
        return told.is_over and status == 0

    assert sweep(run, step=step) >= points_min
    assert RunEnd.NEVER_STARTED in ends, "it never died between a claim and its start"


@pytest.mark.parametrize(
    ("calls", "step", "error", "points_min"), [(SYNCS, 1, "EIO", 8), (SYNCS, 1, "ENOSPC", 8), (WRITES, 1, "ENOSPC", 16)]
)
def test_a_journal_that_cannot_be_written_for_a_while_lets_nothing_start_twice(
    tmp_path: Path, calls: str, step: int, error: str, points_min: int
) -> None:
    def run(point: int) -> bool:
        folder = tmp_path / str(point)
        told, status = play_under(folder, calls, f"error={error}:when={point}+", heal=True)
        # One that cannot even open its journal does not begin; any other comes to its end once the disk is well again.
        assert told.is_over or (status == 1 and not told.states)
        check(folder, told, ends_may_be_lost=True)
        return not was_injected(folder / "trace")

    assert sweep(run, step=step) >= points_min
