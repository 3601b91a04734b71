"""What the launcher decides between a claim and its start."""

import os
import signal
from collections.abc import Collection, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.journal import History, Journal, read_journal
from batchyard.agent.launcher.ledger import Fence, Run, RunEnd, RunState
from batchyard.agent.launcher.server import Launcher

MARGIN_S = 15.0
ORDER = wire.StartOrder(argv=["true"], env={}, log="log")


class SlowDisk(Journal):
    """A journal on a disk that takes its time over claims."""

    clock = 0.0
    takes_s = 0.0
    is_full = False

    def __init__(self, path: str, boot_id: str) -> None:
        super().__init__(path, boot_id)
        self.claimed: list[int] = []

    def claim(self, runs: Collection[Run]) -> None:
        super().claim(runs)
        SlowDisk.clock += self.takes_s
        self.claimed.append(len(runs))

    def _write(self, line: bytes, *, sync: bool) -> None:
        if self.is_full and not sync:
            raise OSError(ENOSPC, "No space left on device")
        super()._write(line, sync=sync)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SlowDisk, "clock", wire.now())
    monkeypatch.setattr(SlowDisk, "takes_s", 0.0)
    monkeypatch.setattr(wire, "now", lambda: SlowDisk.clock)
    before = signal.getsignal(signal.SIGCHLD)
    journal = SlowDisk("journal", "boot")
    launcher = Launcher(Options(folder=str(tmp_path), agent_id="agent"), journal, None, namespaced=False)
    yield launcher
    for pid in launcher._unreaped:
        os.waitpid(pid, 0)
    launcher._listener.close()
    journal.close()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)


def offered(launcher: Launcher, number: int) -> Run:
    run = Run((1, number), (0, 0, 0), {}, ORDER)
    launcher._ledger.set_capacity((1, 1, 0))
    launcher._ledger.renew_lease(wire.now() + MARGIN_S + 1, MARGIN_S)
    launcher._ledger.offer(run)
    return run


@pytest.mark.parametrize("takes_s", [0.0, 20.0])
def test_a_claim_that_came_to_disk_after_the_lease_is_not_started(launcher: Launcher, takes_s: float) -> None:
    SlowDisk.takes_s = takes_s
    run = offered(launcher, 1)
    launcher._start(wire.now())
    assert (run.started is None) == (takes_s > MARGIN_S)
    assert (run.state, run.end) == ((RunState.DONE, RunEnd.NEVER_STARTED) if takes_s else (RunState.STARTED, None))


def test_a_run_whose_start_cannot_be_marked_goes_on_waiting(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = offered(launcher, 1)
    with monkeypatch.context() as full:
        full.setattr(SlowDisk, "is_full", True)
        launcher._start(wire.now())
        SlowDisk.clock += 2
        launcher._ledger.renew_lease(wire.now() + 60, MARGIN_S)
        launcher._start(wire.now())
    assert (run.state, run.end, run.begun) == (RunState.OFFERED, None, False)
    assert not launcher._processes
    launcher._start(wire.now())
    assert not run.begun, "the disk is tried again only after a while"
    SlowDisk.clock += 2
    launcher._start(wire.now())
    assert run.begun
    assert claims_per_sync(launcher) == [1]


def on_disk(launcher: Launcher) -> History:
    return read_journal(f"{launcher._options.folder}/journal")


def claimed_on_disk(launcher: Launcher) -> dict[Fence, RunState]:
    return {fence: run.state for fence, run in on_disk(launcher).runs.items()}


def claims_per_sync(launcher: Launcher) -> list[int]:
    assert isinstance(launcher._journal, SlowDisk)
    return launcher._journal.claimed


def offered_one_by_one(launcher: Launcher, count: int) -> list[Run]:
    """Offer runs of which one has room at a time."""
    runs = [Run((1, number), (1, 0, 0), {}, ORDER) for number in range(1, count + 1)]
    launcher._ledger.set_capacity((1, 1, 0))
    launcher._ledger.renew_lease(wire.now() + 60, MARGIN_S)
    for run in runs:
        launcher._ledger.offer(run)
    return runs


def run_one(launcher: Launcher, run: Run) -> None:
    """Start a run and see its end, without a look at other children of this process."""
    launcher._start(wire.now())
    process = launcher._processes[run.fence]
    os.waitpid(process.pid, 0)
    del launcher._unreaped[process.pid]
    process.exit_code = 0
    launcher._finish([process])
    launcher._tell(wire.now())


def test_runs_that_wait_for_room_are_claimed_in_the_same_sync_as_those_that_have_it(launcher: Launcher) -> None:
    runs = offered_one_by_one(launcher, 40)
    for run in runs[:33]:
        run_one(launcher, run)
    assert claims_per_sync(launcher) == [32, 8]
    assert [run.state for run in runs[33:]] == [RunState.OFFERED] * 7


def test_nothing_is_left_of_a_claim_that_was_given_back_when_its_agent_hears_of_that(launcher: Launcher) -> None:
    first, second, third = offered_one_by_one(launcher, 3)
    launcher._start(wire.now())
    assert claimed_on_disk(launcher).keys() == {first.fence, second.fence, third.fence}
    launcher._ledger.revoke(second.fence)
    launcher._tell(float("inf"))
    assert claimed_on_disk(launcher).keys() == {first.fence, third.fence}
    assert on_disk(launcher).forgotten == [second.fence]
    launcher._ledger.revoke(third.fence)
    launcher._tell(float("inf"))
    assert claimed_on_disk(launcher).keys() == {first.fence}


def test_a_claim_that_could_not_be_taken_back_is_with_the_next(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = offered_one_by_one(launcher, 3)
    launcher._start(wire.now())
    launcher._ledger.revoke(second.fence)
    with monkeypatch.context() as full:
        full.setattr(SlowDisk, "is_full", True)
        launcher._tell(float("inf"))
    assert claimed_on_disk(launcher).keys() == {first.fence, second.fence, third.fence}
    launcher._ledger.revoke(third.fence)
    launcher._tell(float("inf"))
    assert claimed_on_disk(launcher).keys() == {first.fence}


def test_a_claim_is_taken_back_once_however_often_its_agent_asks(launcher: Launcher) -> None:
    _, second, _ = offered_one_by_one(launcher, 3)
    launcher._start(wire.now())
    for _ in range(3):
        launcher._ledger.revoke(second.fence)
        launcher._tell(float("inf"))
    assert on_disk(launcher).forgotten == [second.fence]


def test_a_rewritten_journal_holds_the_claims_of_runs_that_wait_for_room(launcher: Launcher) -> None:
    first, second, third = offered_one_by_one(launcher, 3)
    launcher._start(wire.now())
    launcher._ledger.revoke(third.fence)
    launcher._journal.compact(launcher._ledger, {first.fence: 42})
    assert claimed_on_disk(launcher) == {first.fence: RunState.STARTED, second.fence: RunState.CLAIMED}
    history = on_disk(launcher)
    assert [run.fence for run in history.runs.values() if history.has_never_started(run, "boot")] == [second.fence]
    (process,) = launcher._processes.values()
    launcher._finish([process])
    run_one(launcher, second)
    assert claims_per_sync(launcher) == [3]
