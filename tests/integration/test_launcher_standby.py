"""The process that waits in a cgroup to become a run's: real processes, folders that stand for a cgroup file system."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.cgroups import CgroupPool, Layout, Tree
from batchyard.agent.launcher.ledger import Run
from batchyard.agent.launcher.processes import StartError
from batchyard.agent.launcher.starting import Starter
from batchyard.agent.launcher.workfolders import WorkFolders
from support.waiting import soon

CAPACITY = (4000, 4096, 0)


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    home, base = tmp_path / "home", tmp_path / "base"
    for folder in (home, base / "0", base / "1"):
        folder.mkdir(parents=True)
        for name in ("cgroup.procs", "memory.max", "memory.swap.max", "memory.events"):
            (folder / name).touch()
    tree = Tree(2, str(base), str(home))
    pool = CgroupPool(Layout(2, tree, None, tree))
    pool._made = 0
    starter = Starter(WorkFolders(f"{tmp_path}/work"), pool)
    yield starter
    starter.close()


def a_run(tmp_path: Path, *argv: str, number: int = 1, env: dict[str, str] | None = None, refusal: str = "") -> Run:
    order = wire.StartOrder(
        argv=list(argv), env=env or {"PATH": os.defpath}, log=f"{tmp_path}/log", memory_mib=64, refusal=refusal
    )
    return Run((1, number), (1000, 64, 0), {}, order)


def stand_by(starter: Starter) -> int:
    """Have a process stand by, and return its id when it has moved."""
    starter.stand_by()
    standby = starter._standby
    assert standby is not None
    soon(standby.is_ready)
    return standby.pid


def output(tmp_path: Path, pid: int) -> list[str]:
    """Return what a process has said by its end."""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return (tmp_path / "log").read_text().splitlines()


def test_it_becomes_the_process_of_the_next_run_in_a_cgroup_with_its_limits(starter: Starter, tmp_path: Path) -> None:
    waiting = stand_by(starter)
    script = 'echo "$WHO"; pwd; ls /proc/self/fd | wc -l; ps -o sid= -p $$ 2>/dev/null || cut -d" " -f6 /proc/$$/stat'
    run = a_run(tmp_path, "sh", "-c", script, env={"PATH": os.environ["PATH"], "WHO": "run 1"})
    process = starter.start(run, CAPACITY)
    assert process.pid == waiting
    who, folder, open_files, session = output(tmp_path, process.pid)
    assert (who, folder, int(session)) == ("run 1", process.folder, waiting)
    # 0, 1, 2, and that of the folder that `ls` reads: nothing of the launcher's.
    assert int(open_files) == 4
    assert process.cgroup is not None
    assert Path(process.cgroup.folder, "cgroup.procs").read_text() == "0", "it has moved itself"
    assert Path(process.cgroup.folder, "memory.max").read_text() == str(64 * 1024 * 1024)


def test_no_signal_is_ignored_by_what_it_becomes(starter: Starter, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        stand_by(starter)
    finally:
        signal.signal(signal.SIGTERM, before)
    process = starter.start(a_run(tmp_path, "sh", "-c", "kill -TERM $$; sleep 60"), CAPACITY)
    assert os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("argv", "env", "reason"),
    [
        (["/nowhere/x"], None, 'exec: "/nowhere/x": stat /nowhere/x: no such file or directory'),
        (["/bin/true"], {"A": "\0"}, "embedded null byte"),
    ],
)
def test_what_cannot_be_run_is_told_with_its_reason(
    starter: Starter, tmp_path: Path, argv: list[str], env: dict[str, str] | None, reason: str
) -> None:
    waiting = stand_by(starter)
    with pytest.raises(StartError, match=reason):
        starter.start(a_run(tmp_path, *argv, env=env), CAPACITY)
    with pytest.raises(ChildProcessError):
        os.waitpid(waiting, 0)
    process = starter.start(a_run(tmp_path, "echo", "well", number=2), CAPACITY)
    assert output(tmp_path, process.pid) == ["well"]


def test_a_run_starts_without_it_when_it_has_died(starter: Starter, tmp_path: Path) -> None:
    waiting = stand_by(starter)
    os.kill(waiting, signal.SIGKILL)
    process = starter.start(a_run(tmp_path, "echo", "well"), CAPACITY)
    assert process.pid != waiting
    assert output(tmp_path, process.pid) == ["well"]


def test_a_run_that_is_refused_leaves_it_to_the_next(starter: Starter, tmp_path: Path) -> None:
    waiting = stand_by(starter)
    run = a_run(tmp_path, "true")
    assert isinstance(run.order, wire.StartOrder)
    run.order.log = f"{tmp_path}/no folder/log"
    with pytest.raises(StartError):
        starter.start(run, CAPACITY)
    process = starter.start(a_run(tmp_path, "echo", "well", number=2), CAPACITY)
    assert process.pid == waiting
    assert output(tmp_path, process.pid) == ["well"]


def test_it_ends_with_the_launcher(starter: Starter) -> None:
    waiting = stand_by(starter)
    assert starter._standby is not None
    # All that its end looks like from here.
    starter._standby._socket.close()
    assert os.waitpid(waiting, 0)[0] == waiting
    starter.reaped(waiting)


def test_a_host_without_room_for_one_more_process_has_none(
    starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as full:
        full.setattr(os, "fork", refuse)
        starter.stand_by()
    assert not starter.helpers
    process = starter.start(a_run(tmp_path, "echo", "well"), CAPACITY)
    assert output(tmp_path, process.pid) == ["well"]
    assert process.cgroup is not None
    assert process.cgroup.folder.endswith("/0"), "that of the process that was not to be"


def test_one_is_made_between_two_runs_and_not_again_and_again(starter: Starter, tmp_path: Path) -> None:
    assert starter.may_stand_by
    waiting = stand_by(starter)
    assert starter.helpers == {waiting}
    os.kill(waiting, signal.SIGKILL)
    assert os.waitpid(waiting, 0)[0] == waiting
    starter.reaped(waiting)
    assert not starter.helpers
    assert not starter.may_stand_by, "the next might die like this one"
    process = starter.start(a_run(tmp_path, "true"), CAPACITY)
    os.waitpid(process.pid, 0)
    starter.take_back(process)
    assert starter.may_stand_by
