"""The journal of a runtime on an event loop: its ledger changes while the file is being rewritten."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio import from_thread

from batchyard.agent.launcher import journal as journal_module
from batchyard.agent.launcher.journal import read_journal
from batchyard.agent.launcher.ledger import Fence, Ledger, Run, RunEnd, RunState
from batchyard.agent.runtimes.journalling import JournalWriter, open_journal

NEED = (1000, 64, 0)


@pytest.fixture(autouse=True)
def _rewritten_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_AFTER_BYTES", 1)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.set_capacity((64_000, 64_000, 0))
    ledger.renew_lease(float("inf"), 0)
    return ledger


class SlowRuns(dict[Fence, Run]):
    """Runs that take long to look through: where the loop can, it takes an offer meanwhile."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger.runs)
        self._ledger = ledger
        self._loop_thread = threading.get_ident()

    def values(self) -> Iterator[Run]:  # type: ignore[override]
        for run in super().values():
            if threading.get_ident() != self._loop_thread:
                from_thread.run_sync(self._ledger.offer, Run((1, len(self) + 100), NEED, {}, None))
            yield run


async def claimed(journal: JournalWriter, ledger: Ledger, *numbers: int) -> list[Run]:
    runs = [Run((1, number), NEED, {"job_id": f"job-{number}"}, None) for number in numbers]
    for run in runs:
        ledger.offer(run)
    assert await journal.claim(runs)
    ledger.claim(runs)
    return runs


async def forget(journal: JournalWriter, ledger: Ledger, run: Run) -> None:
    ledger.finish(run, 1.0, RunEnd.EXITED, exit_code=0)
    await journal.finish(run)
    assert ledger.forget(run.fence)
    await journal.forget([run.fence], ledger)


async def test_offers_may_come_while_the_journal_is_rewritten(tmp_path: Path, ledger: Ledger) -> None:
    with open_journal(tmp_path) as journal:
        first, second, third = await claimed(journal, ledger, 1, 2, 3)
        ledger.runs = SlowRuns(ledger)
        await forget(journal, ledger, first)
    history = read_journal(str(tmp_path / "journal"))
    assert history.runs.keys() == {second.fence, third.fence}
    assert history.forgotten == [first.fence]


async def test_what_comes_while_the_journal_is_rewritten_is_noted_in_the_new_one(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    done: list[str] = []

    def slow_rename(old: str, new: str) -> None:
        from_thread.run(meanwhile)
        rename(old, new)
        done.append("renamed")

    async def claim() -> None:
        await claimed(journal, ledger, 3)
        done.append("claimed")

    async def end() -> None:
        ledger.finish(second, 2.0, RunEnd.EXITED, exit_code=3)
        await journal.finish(second)
        done.append("ended")

    async def meanwhile() -> None:
        tasks.start_soon(claim)
        tasks.start_soon(end)
        await anyio.wait_all_tasks_blocked()

    with open_journal(tmp_path) as journal:
        first, second = await claimed(journal, ledger, 1, 2)
        monkeypatch.setattr(os, "rename", slow_rename)
        async with anyio.create_task_group() as tasks:
            await forget(journal, ledger, first)
    assert done == ["renamed", "claimed", "ended"]
    runs = read_journal(str(tmp_path / "journal")).runs
    assert {fence: run.state for fence, run in runs.items()} == {
        second.fence: RunState.DONE,
        (1, 3): RunState.CLAIMED,
    }
    assert runs[second.fence].exit_code == 3


async def test_a_journal_that_cannot_be_rewritten_goes_on_as_it_was(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_journal(tmp_path) as journal:
        first, second = await claimed(journal, ledger, 1, 2)
        with monkeypatch.context() as disk:
            disk.setattr(os, "rename", fails)
            await forget(journal, ledger, first)
        assert "the journal can't be written: [Errno 28] No space left on device" in caplog.text
        assert await journal.begin(second)
    history = read_journal(str(tmp_path / "journal"))
    assert (list(history.runs), history.forgotten) == ([second.fence], [first.fence])
