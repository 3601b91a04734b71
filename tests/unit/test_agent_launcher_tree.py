"""Which processes count as a run's, also when its first one is gone and its number has come to name another."""

import os

import pytest

from batchyard.agent.launcher import tree
from batchyard.agent.launcher.processes import MARKS as MARK_NAMES
from batchyard.agent.launcher.processes import Process
from batchyard.agent.launcher.wire import StartOrder

LAUNCHER, ROOT = 1, 100
MARKS = (b"AWS_BATCH_JOB_ID=job",)


class Processes:
    """What /proc would show."""

    def __init__(self) -> None:
        self.table: dict[int, tree.Stat] = {}
        self.marked: set[int] = set()

    def add(
        self, pid: int, *, parent: int = LAUNCHER, group: int | None = None, session: int = 7, marked: bool = False
    ) -> None:
        """Have a living process, in a group of its own unless told otherwise."""
        numbers = f"{parent} {pid if group is None else group} {session}"
        self.table[pid] = tree.Stat(f"{pid} (a (name)) S {numbers} 0 -1 0 {'0 ' * 12}55 4096 3")
        if marked:
            self.marked.add(pid)


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Processes:
    proc = Processes()
    monkeypatch.setattr(tree, "processes", lambda: proc.table)
    monkeypatch.setattr(tree, "carries", lambda pid, marks: marks == MARKS and pid in proc.marked)
    return proc


def members(*others: int, is_reaped: bool = False) -> set[int]:
    return tree.members(ROOT, MARKS, others, is_reaped=is_reaped)


def test_a_run_has_its_first_process_its_group_its_session_its_descendants_and_whom_it_marked(proc: Processes) -> None:
    proc.add(ROOT)
    proc.add(101, parent=ROOT)
    proc.add(102, parent=101)
    proc.add(103, group=ROOT)
    proc.add(104, session=ROOT)
    proc.add(105, marked=True)
    proc.add(106, parent=105)
    proc.add(107)
    assert members() == {ROOT, 101, 102, 103, 104, 105, 106}


def test_what_a_reaped_first_process_leaves_in_its_group_or_session_is_still_its_runs(proc: Processes) -> None:
    proc.add(101, group=ROOT)
    proc.add(102, parent=101)
    proc.add(103, session=ROOT)
    assert members(is_reaped=True) == {101, 102, 103}


def test_the_number_of_a_reaped_first_process_may_have_come_to_name_somebody_elses(proc: Processes) -> None:
    proc.add(ROOT)
    proc.add(101, parent=ROOT)
    proc.add(102, group=ROOT)
    proc.add(103, session=ROOT)
    assert members(is_reaped=True) == set()
    # What the run itself left elsewhere is found by its marks.
    proc.add(104, marked=True)
    proc.add(105, parent=104)
    assert members(is_reaped=True) == {104, 105}


def test_the_number_of_a_reaped_first_process_may_have_come_to_name_another_runs(proc: Processes) -> None:
    proc.add(ROOT)
    proc.add(101, group=ROOT)
    proc.add(102, marked=True)
    assert members(ROOT, is_reaped=True) == {102}
    # That other one may have ended too, and have left its group behind.
    del proc.table[ROOT]
    assert members(ROOT, is_reaped=True) == {102}


def test_neither_the_first_processes_of_other_runs_nor_what_descends_from_them_is_taken(proc: Processes) -> None:
    proc.add(ROOT)
    proc.add(200, parent=ROOT, marked=True)
    proc.add(201, parent=200)
    assert members(200) == {ROOT}


def test_who_has_no_marks_does_not_take_everybody_for_its_own() -> None:
    name, value = next(iter(os.environ.items()))
    assert not tree.carries(os.getpid(), [])
    assert tree.carries(os.getpid(), [os.fsencode(f"{name}={value}")])
    for env in ({}, {MARK_NAMES[0]: "agent"}):
        assert Process((1, 1), ROOT, StartOrder(argv=["true"], env=env, log="log"), "", None).marks == []
