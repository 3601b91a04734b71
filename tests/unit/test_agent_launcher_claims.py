"""What the launcher decides between a claim and its start."""

import os
import signal
from collections.abc import Iterable, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.journal import Journal
from batchyard.agent.launcher.ledger import Run, RunEnd, RunState
from batchyard.agent.launcher.server import Launcher

MARGIN_S = 15.0
ORDER = wire.StartOrder(argv=["true"], env={}, log="log")


class SlowDisk(Journal):
    """A journal on a disk that takes its time over claims."""

    clock = 0.0
    takes_s = 0.0
    is_full = False

    def claim(self, runs: Iterable[Run]) -> None:
        super().claim(runs)
        SlowDisk.clock += self.takes_s

    def begin(self, run: Run) -> None:
        if self.is_full:
            raise OSError(ENOSPC, "No space left on device")
        super().begin(run)


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


def test_a_start_that_cannot_be_marked_does_not_take_place(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    run = offered(launcher, 1)
    with monkeypatch.context() as full:
        full.setattr(SlowDisk, "is_full", True)
        launcher._start(wire.now())
    assert (run.state, run.end, run.started) == (RunState.DONE, RunEnd.NEVER_STARTED, None)
    assert not launcher._processes
    later = offered(launcher, 2)
    launcher._start(wire.now())
    assert not later.begun, "the disk is tried again only after a while"
    SlowDisk.clock += 2
    launcher._ledger.renew_lease(wire.now() + 60, MARGIN_S)
    launcher._start(wire.now())
    assert later.state is RunState.STARTED
