"""What the launcher writes to cgroup files, on folders that stand for the two versions' file systems."""

import os
from pathlib import Path

import pytest

from batchyard.agent.launcher.cgroups import MIB, Cgroup, CgroupPool, open_cgroups

FILES = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"),
    2: ("memory.max", "memory.swap.max", "memory.events"),
}


def a_pool(root: Path, version: int) -> CgroupPool:
    """Return a pool whose first two cgroups have the files that a kernel puts in."""
    (root / "base").mkdir()
    pool = CgroupPool(str(root / "base"), str(root / "home"), version=version)
    for folder in (root / "home", root / "base" / "0", root / "base" / "1"):
        folder.mkdir()
        for name in ("cgroup.procs", *FILES[version]):
            (folder / name).touch()
    return pool


def content(group: Cgroup, name: str) -> str:
    return Path(group.folder, name).read_text()


@pytest.mark.parametrize(("version", "swap"), [(1, str(64 * MIB)), (2, "0")])
def test_memory_is_limited_swap_included(tmp_path: Path, version: int, swap: str) -> None:
    group = a_pool(tmp_path, version).acquire(64)
    memory_file, swap_file, _ = FILES[version]
    assert content(group, memory_file) == str(64 * MIB)
    assert content(group, swap_file) == swap


@pytest.mark.parametrize("version", [1, 2])
def test_an_out_of_memory_kill_counts_for_the_run_it_befell_only(tmp_path: Path, version: int) -> None:
    pool = a_pool(tmp_path, version)
    group = pool.acquire(64)
    events = Path(group.folder, FILES[version][2])
    events.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert group.was_out_of_memory()
    pool.release(group)
    assert pool.acquire(64) is group
    assert not group.was_out_of_memory()


def test_a_cgroup_is_used_again_and_a_second_run_at_once_gets_its_own(tmp_path: Path) -> None:
    pool = a_pool(tmp_path, 2)
    first, second = pool.acquire(64), pool.acquire(64)
    assert first is not second
    pool.release(second)
    assert pool.acquire(32) is second
    assert content(second, "memory.max") == str(32 * MIB)


def test_the_launcher_steps_in_and_out(tmp_path: Path) -> None:
    group = a_pool(tmp_path, 2).acquire(64)
    group.enter()
    assert content(group, "cgroup.procs") == "0"
    group.leave()
    assert (tmp_path / "home" / "cgroup.procs").read_text() == "0"


def test_members_are_read_anew_each_time(tmp_path: Path) -> None:
    group = a_pool(tmp_path, 2).acquire(64)
    for pids in (set[int](), {12, 34}):
        Path(group.folder, "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        assert group.members() == pids


def test_those_of_a_launcher_that_was_killed_are_not_used_again(tmp_path: Path) -> None:
    """They have its limits; on version 1 even raising them to those of a new run can fail."""
    base = tmp_path / "base"
    for name in ("0", "1"):
        (base / name).mkdir(parents=True)
    (base / "1" / "dying").touch()
    CgroupPool(str(base), str(tmp_path / "home"), version=1)
    assert os.listdir(base) == ["1"]


def test_a_pool_opened_after_a_launcher_was_killed_leaves_nothing_behind() -> None:
    name = f"batchyard-tests-{os.getpid()}"
    killed = open_cgroups(name)
    if killed is None:
        pytest.skip("kernel: no cgroups with memory limits can be made here")
    killed.acquire(16)
    successor = open_cgroups(name)
    assert successor is not None
    successor.release(successor.acquire(32))
    successor.close()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{name}"))


def test_a_host_without_cgroups_has_none(tmp_path: Path) -> None:
    assert open_cgroups("batchyard-tests", mount=str(tmp_path / "nowhere")) is None
    assert not os.listdir(tmp_path)
