"""The journal of claims on a real disk: what survives, and what a torn or failing write does."""

import errno
import os
from pathlib import Path

import pytest

from batchyard.agent.launcher import journal as journal_module
from batchyard.agent.launcher.journal import Journal, JournalError, read_journal
from batchyard.agent.launcher.ledger import Ledger, Run, RunEnd, RunState


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


def a_run(number: int) -> Run:
    return Run((1, number), (1000, 64, 0), {"job_id": f"job-{number}"}, None)


def claimed(journal: Journal, *numbers: int) -> list[Run]:
    runs = [a_run(number) for number in numbers]
    journal.claim(runs)
    for run in runs:
        run.state = RunState.CLAIMED
    return runs


def end(run: Run) -> Run:
    run.state, run.end, run.exit_code = RunState.DONE, RunEnd.EXITED, 3
    run.started, run.ended = 1.5, 2.5
    return run


def test_what_was_claimed_started_ended_and_acknowledged_is_read_back(path: str) -> None:
    journal = Journal(path, "boot", namespaced=True)
    first, second, third, fourth = claimed(journal, 1, 2, 3, 4)
    second.started = 7.5
    journal.start([(second, 42)])
    journal.finish([end(third), end(fourth)])
    journal.forget([fourth.fence])
    journal.close()
    history = read_journal(path)
    assert (history.boot_id, history.namespaced) == ("boot", True)
    assert {fence: run.state for fence, run in history.runs.items()} == {
        first.fence: RunState.CLAIMED,
        second.fence: RunState.STARTED,
        third.fence: RunState.DONE,
    }
    assert history.pids == {second.fence: 42}
    assert history.runs[third.fence].exit_code == 3
    assert history.runs[third.fence].about == {"job_id": "job-3"}
    assert history.forgotten == [fourth.fence]


def unstarted(path: str, boot_id: str) -> list[int]:
    history = read_journal(path)
    return [run.fence[1] for run in history.runs.values() if history.has_never_started(run, boot_id)]


def test_a_claim_of_this_boot_that_nobody_was_about_to_start_has_never_started(path: str) -> None:
    journal = Journal(path, "boot")
    first, second, third, _ = claimed(journal, 1, 2, 3, 4)
    journal.begin(first)
    journal.begin(second)
    journal.start([(second, 42)])
    journal.finish([end(third)])
    journal.close()
    assert unstarted(path, "boot") == [4]
    assert unstarted(path, "another boot") == []
    Journal(path, "boot").close()
    assert unstarted(path, "boot") == [4]


def test_of_a_claim_of_an_earlier_boot_nothing_is_concluded_however_often_the_launcher_has_died_since(
    path: str,
) -> None:
    journal = Journal(path, "boot")
    claimed(journal, 1)
    journal.close()
    journal = Journal(path, "another boot")
    claimed(journal, 2)
    journal.close()
    assert unstarted(path, "another boot") == [2]
    assert unstarted(path, "boot") == []


def test_of_claims_by_a_launcher_that_marks_no_starts_nothing_is_concluded(path: str) -> None:
    Path(path).write_text('["H","boot",false]\n["C",[[[1,1],[1000,64,0],{}]]]\n')
    journal = Journal(path, "boot")
    claimed(journal, 2)
    journal.close()
    assert unstarted(path, "boot") == [2]


def test_a_start_that_cannot_be_marked_is_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    journal = Journal(path, "boot")
    (run,) = claimed(journal, 1)
    with monkeypatch.context() as failing:
        failing.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space"):
            journal.begin(run)
    assert not run.begun
    journal.close()
    assert unstarted(path, "boot") == [1]


def test_a_journal_that_is_not_there_is_empty(path: str) -> None:
    assert read_journal(path).runs == {}


def test_a_torn_last_line_is_dropped_and_written_over(path: str) -> None:
    journal = Journal(path, "boot")
    claimed(journal, 1)
    journal.close()
    with open(path, "a") as file:
        file.write('["C",[[[1,2],[1000')
    journal = Journal(path, "boot")
    claimed(journal, 3)
    journal.close()
    assert set(read_journal(path).runs) == {(1, 1), (1, 3)}


@pytest.mark.parametrize("line", ["garbage", '["D",[[[1,9],1,0,"",1,2]]]', '["?"]', "{}"])
def test_damage_elsewhere_is_an_error_that_names_the_line(path: str, line: str) -> None:
    Path(path).write_text(f'["H","boot",false]\n{line}\n["H","boot",false]\n')
    with pytest.raises(JournalError, match="line 2"):
        read_journal(path)


def test_a_claim_is_synced_before_it_counts(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced_sizes: list[int] = []

    def record(fd: int) -> None:
        synced_sizes.append(os.fstat(fd).st_size)

    journal = Journal(path, "boot")
    monkeypatch.setattr(os, "fdatasync", record)
    claimed(journal, 1, 2, 3)
    assert synced_sizes == [os.path.getsize(path)]
    journal.close()


def test_a_claim_that_cannot_be_written_leaves_nothing_behind(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(path, "boot")
    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="No space"):
            claimed(journal, 1)
    claimed(journal, 2)
    journal.close()
    assert set(read_journal(path).runs) == {(1, 2)}


def test_compaction_keeps_all_that_matters(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_AFTER_BYTES", 1000)
    journal = Journal(path, "boot", namespaced=True)
    ledger = Ledger()
    runs = claimed(journal, *range(1, 21))
    running, ended, about_to_start, waiting, *others = runs
    journal.begin(about_to_start)
    running.state, running.started = RunState.STARTED, 5.0
    journal.start([(running, 7)])
    journal.finish([end(ended), *(end(run) for run in others)])
    ledger.restore(runs, [], (1, 0))
    for run in others:
        assert ledger.forget(run.fence)
    assert journal.is_worth_compacting()
    journal.compact(ledger, {running.fence: 7})
    assert not journal.is_worth_compacting()
    claimed(journal, 99)
    journal.close()
    history = read_journal(path)
    assert set(history.runs) == {running.fence, ended.fence, about_to_start.fence, waiting.fence, (1, 99)}
    assert unstarted(path, "boot") == [waiting.fence[1], 99]
    assert history.runs[ended.fence].exit_code == 3
    assert history.pids == {running.fence: 7}
    assert history.forgotten == [run.fence for run in others]
    assert history.namespaced


def test_a_journal_is_rewritten_where_it_is_wherever_its_writer_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    journal = Journal("journal", "boot")
    monkeypatch.chdir(elsewhere)
    ledger = Ledger()
    (run,) = claimed(journal, 1)
    ledger.restore([run], [], (0, 0))
    journal.compact(ledger, {})
    claimed(journal, 2)
    journal.close()
    assert set(read_journal(str(tmp_path / "journal")).runs) == {(1, 1), (1, 2)}
    assert not list(elsewhere.iterdir())


def test_a_torn_line_that_cannot_be_cut_off_is_cut_off_before_the_next(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, "boot")
    (run,) = claimed(journal, 1)
    write = os.write

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def is_torn(fd: int, data: memoryview) -> int:
        write(fd, data[:3])
        return fails()

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", is_torn)
        disk.setattr(os, "ftruncate", fails)
        with pytest.raises(OSError, match="Input"):
            journal.begin(run)
        with pytest.raises(OSError, match="Input"):
            journal.begin(run)
    assert not run.begun
    journal.begin(run)
    journal.close()
    assert read_journal(path).runs[run.fence].begun


def test_a_name_that_a_rewritten_journal_may_lose_is_kept_before_the_next_claim(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, "boot")
    kept: list[str] = []

    def fails(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(journal_module, "_sync_folder", fails)
        with pytest.raises(OSError, match="Input"):
            journal.compact(Ledger(), {})
        with pytest.raises(OSError, match="Input"):
            claimed(journal, 1)
    monkeypatch.setattr(journal_module, "_sync_folder", kept.append)
    claimed(journal, 2)
    claimed(journal, 3)
    journal.close()
    assert kept == [path]
    assert read_journal(path).runs.keys() == {(1, 2), (1, 3)}
