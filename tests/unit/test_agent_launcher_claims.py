"""What the launcher decides between a claim and its start."""

import os
import signal
from collections.abc import Iterable, Iterator
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

    def claim(self, runs: Iterable[Run]) -> None:
        super().claim(runs)
        SlowDisk.clock += self.takes_s


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SlowDisk, "clock", wire.now())
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


@pytest.mark.parametrize("takes_s", [0.0, 20.0])
def test_a_claim_that_came_to_disk_after_the_lease_is_not_started(launcher: Launcher, takes_s: float) -> None:
    SlowDisk.takes_s = takes_s
    run = Run((1, 1), (0, 0, 0), {}, ORDER)
    launcher._ledger.set_capacity((1, 1, 0))
    launcher._ledger.renew_lease(wire.now() + MARGIN_S + 1, MARGIN_S)
    launcher._ledger.offer(run)
    launcher._start(wire.now())
    assert (run.started is None) == (takes_s > MARGIN_S)
    assert (run.state, run.end) == ((RunState.DONE, RunEnd.NEVER_STARTED) if takes_s else (RunState.STARTED, None))
