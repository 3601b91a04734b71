"""What the launcher does with cgroups: on folders that stand for the two versions' file systems, and on this host."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from batchyard.agent.launcher import cgroups, wire
from batchyard.agent.launcher.cgroups import MIB, Cgroup, CgroupPool, Layout, Tree, open_cgroups
from batchyard.agent.launcher.ledger import Run
from batchyard.agent.launcher.processes import Process
from batchyard.agent.launcher.starting import PLACED_AFTER_S, Starter
from batchyard.agent.launcher.workfolders import WorkFolders
from support.cgroups import cgroups_named
from support.waiting import soon

FILES = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"),
    2: ("memory.max", "memory.swap.max", "memory.events"),
}


def a_pool(root: Path, version: int) -> CgroupPool:
    """Return a pool whose first two cgroups have the files that a kernel puts in."""
    for folder in (root / "base", root / "home"):
        folder.mkdir()
    for door in ("cgroup.procs", "tasks"):
        (root / "home" / door).touch()
    shared = Tree(version, str(root / "base"), str(root / "home"))
    pool = CgroupPool(Layout(version, shared, shared, shared))
    for folder in (root / "base" / "0", root / "base" / "1"):
        folder.mkdir()
        for name in ("cgroup.procs", "tasks", *FILES[version]):
            (folder / name).touch()
    return pool


def content(group: Cgroup, name: str) -> str:
    return Path(group.folder, name).read_text()


@pytest.mark.parametrize(("version", "swap"), [(1, str(64 * MIB)), (2, "0")])
def test_memory_is_limited_swap_included(tmp_path: Path, version: int, swap: str) -> None:
    group = a_pool(tmp_path, version).acquire(64, 1000)
    memory_file, swap_file, _ = FILES[version]
    assert content(group, memory_file) == str(64 * MIB)
    assert content(group, swap_file) == swap


@pytest.mark.parametrize("version", [1, 2])
def test_an_out_of_memory_kill_counts_for_the_run_it_befell_only(tmp_path: Path, version: int) -> None:
    pool = a_pool(tmp_path, version)
    group = pool.acquire(64, 1000)
    events = Path(group.folder, FILES[version][2])
    events.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert group.was_out_of_memory()
    pool.release(group)
    assert pool.acquire(64, 1000) is group
    assert not group.was_out_of_memory()


def test_a_cgroup_is_used_again_and_a_second_run_at_once_gets_its_own(tmp_path: Path) -> None:
    pool = a_pool(tmp_path, 2)
    first, second = pool.acquire(64, 1000), pool.acquire(64, 1000)
    assert first is not second
    pool.release(second)
    assert pool.acquire(32, 1000) is second
    assert content(second, "memory.max") == str(32 * MIB)


@pytest.mark.parametrize(("version", "door", "other"), [(1, "tasks", "cgroup.procs"), (2, "cgroup.procs", "tasks")])
def test_the_launcher_steps_in_and_out(tmp_path: Path, version: int, door: str, other: str) -> None:
    group = a_pool(tmp_path, version).acquire(64, 1000)
    group.enter()
    assert content(group, door) == "0"
    group.leave()
    assert (tmp_path / "home" / door).read_text() == "0"
    assert not content(group, other)


def test_members_are_read_anew_each_time(tmp_path: Path) -> None:
    group = a_pool(tmp_path, 2).acquire(64, 1000)
    for pids in (set[int](), {12, 34}):
        Path(group.folder, "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        assert group.members() == pids


def test_those_of_a_launcher_that_was_killed_are_not_used_again(tmp_path: Path) -> None:
    """They have its limits; on version 1 even raising them to those of a new run can fail."""
    base = tmp_path / "base"
    for name in ("0", "1"):
        (base / name).mkdir(parents=True)
    (base / "1" / "dying").touch()
    (tmp_path / "tasks").touch()
    assert CgroupPool(Layout(1, Tree(1, str(base), str(tmp_path))))._made == 2
    assert os.listdir(base) == ["1"]


class FakeKernel:
    """A tree of version 2: what stands in its files follows the rules of the kernel's."""

    def __init__(self, mount: Path, own_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mount = mount
        self.delegated: set[str] = set()
        """Where cgroups may be made, and controllers enabled."""
        self._mkdir = os.mkdir
        mount.mkdir()
        self.populate(mount, "cpu memory pids")
        monkeypatch.setattr(cgroups, "_own_paths", lambda: {"": own_path})
        monkeypatch.setattr(cgroups, "_write", self.write)
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        self._rmdir = os.rmdir
        monkeypatch.setattr(os, "rmdir", self.rmdir)

    def add(self, path: str, *, controllers: str = "cpu memory", processes: str = "") -> None:
        """Add a cgroup with what enabled it above."""
        self._mkdir(self.mount / path)
        self.populate(self.mount / path, controllers)
        (self.mount / path / "cgroup.procs").write_text(processes)
        (self.mount / path).parent.joinpath("cgroup.subtree_control").write_text(controllers)

    def populate(self, folder: Path, controllers: str) -> None:
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.kill", "memory.events"):
            (folder / name).touch()
        (folder / "cgroup.controllers").write_text(controllers)

    def mkdir(self, path: str | Path, mode: int = 0o777) -> None:
        parent = Path(path).parent
        if self.mount not in Path(path).parents:
            self._mkdir(path, mode)
            return
        if not any(parent.is_relative_to(self.mount / each) for each in self.delegated):
            raise PermissionError(errno.EACCES, "Permission denied")
        self._mkdir(path, mode)
        self.populate(Path(path), (parent / "cgroup.subtree_control").read_text())

    def rmdir(self, path: str) -> None:
        for file in [] if any(each.is_dir() for each in Path(path).iterdir()) else list(Path(path).iterdir()):
            file.unlink()
        self._rmdir(path)

    def write(self, path: str, content: str) -> None:
        file = Path(path)
        if file.name == "cgroup.subtree_control":
            controller = content.removeprefix("+")
            if controller not in (file.parent / "cgroup.controllers").read_text().split():
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            if (file.parent / "cgroup.procs").read_text():
                raise OSError(errno.EBUSY, "Device or resource busy")
            content = " ".join({*file.read_text().split(), controller})
        file.write_text(content)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """Return a host on which this process is in a cgroup of its own below one of a service."""
    kernel = FakeKernel(tmp_path / "mount", "/service/agent", monkeypatch)
    kernel.add("service")
    kernel.add("service/agent", processes="1\n")
    return kernel


def test_on_version_2_one_cgroup_limits_memory_shares_cpu_and_kills(service: FakeKernel) -> None:
    service.delegated = {"service"}
    pool = open_cgroups("jobs", str(service.mount))
    assert pool is not None
    group = pool.acquire(64, 2500)
    # The one of this process has processes, so nothing below it can be limited.
    assert group.folder == str(service.mount / "service" / "jobs" / "0")
    assert content(group, "memory.max") == str(64 * MIB)
    assert content(group, "memory.swap.max") == "0"
    assert content(group, "cpu.weight") == "250"
    together = (service.mount / "service" / "jobs" / "cpu.weight").read_text()
    assert together == str(min(10_000, 100 * (os.cpu_count() or 1)))
    Path(group.folder, "cgroup.procs").write_text("12\n")
    assert group.kill()
    assert content(group, "cgroup.kill") == "1"
    Path(group.folder, "cgroup.procs").write_text("")
    assert not group.kill()


def test_the_root_is_taken_where_all_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(tmp_path / "mount", "/service", monkeypatch)
    kernel.add("service", processes="1\n")
    kernel.delegated = {""}
    pool = open_cgroups("jobs", str(kernel.mount))
    assert pool is not None
    assert pool.acquire(64, 1000).folder == str(kernel.mount / "jobs" / "0")
    assert not (kernel.mount / "service" / "jobs").exists()


def test_where_cpu_is_not_ours_to_share_memory_is_limited_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = FakeKernel(tmp_path / "mount", "/service/agent", monkeypatch)
    kernel.add("service", controllers="memory")
    kernel.add("service/agent", controllers="memory", processes="1\n")
    kernel.delegated = {"service"}
    pool = open_cgroups("jobs", str(kernel.mount))
    assert pool is not None
    assert str(pool.layout) == "version 2: memory, killing"
    assert content(pool.acquire(64, 2500), "memory.max") == str(64 * MIB)


def test_where_no_cgroup_is_ours_there_are_none(service: FakeKernel) -> None:
    assert open_cgroups("jobs", str(service.mount)) is None
    service.delegated = {"service/agent"}
    assert open_cgroups("jobs", str(service.mount)) is None
    assert not list(service.mount.glob("**/jobs"))


@pytest.mark.parametrize(("vcpus_milli", "shares", "weight"), [(1, 2, 1), (500, 512, 50), (10**6, 262_144, 10_000)])
def test_a_share_of_cpu_is_by_the_vcpu(tmp_path: Path, vcpus_milli: int, shares: int, weight: int) -> None:
    for version, name, expected in ((1, "cpu.shares", shares), (2, "cpu.weight", weight)):
        (tmp_path / name).touch()
        cgroups.share_cpu(str(tmp_path), version, vcpus_milli)
        assert (tmp_path / name).read_text() == str(expected)


def test_a_host_without_cgroups_has_none(tmp_path: Path) -> None:
    assert open_cgroups("batchyard-tests", mount=str(tmp_path / "nowhere")) is None
    assert not os.listdir(tmp_path)


@pytest.fixture
def real() -> Iterator[CgroupPool]:
    """Return a pool of this host."""
    name = f"batchyard-tests-{os.getpid()}"
    pool = open_cgroups(name)
    if pool is None:
        pytest.skip("kernel: no cgroups with memory limits can be made here")
    yield pool
    pool.close()
    assert not cgroups_named([name])


def test_a_pool_opened_after_a_launcher_was_killed_leaves_nothing_behind() -> None:
    name = f"batchyard-tests-{os.getpid()}"
    killed = open_cgroups(name)
    if killed is None:
        pytest.skip("kernel: no cgroups with memory limits can be made here")
    killed.acquire(16, 1000)
    successor = open_cgroups(name)
    assert successor is not None
    successor.release(successor.acquire(32, 1000))
    successor.close()
    assert not cgroups_named([name])


def test_a_cgroup_that_is_empty_once_it_was_killed_had_a_process(
    real: CgroupPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, write = real.acquire(16, 1000), cgroups._write

    def write_and_wait(path: str, text: str) -> None:
        write(path, text)
        soon(lambda: not group.members(), "it is dead")

    group.enter()
    try:
        process = subprocess.Popen(["sleep", "600"])
    finally:
        group.leave()
    try:
        group.place(process.pid)
        monkeypatch.setattr(cgroups, "_write", write_and_wait)
        assert group.kill()
        assert not group.kill()
    finally:
        process.kill()
        process.wait()


BOMB = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if not os.fork():
        os.setsid()
        time.sleep(600)
    time.sleep(0.001)
"""


@pytest.mark.parametrize("by", ["what is there", "what is there, before it is placed", "freezer", "signals"])
def test_what_forks_all_the_time_is_killed_whole(real: CgroupPool, by: str) -> None:
    pool = real
    name = Path(real.layout.memory.base).name
    if not by.startswith("what is there"):
        if real.layout.version == 2:
            pytest.skip("kernel: on version 2 there is but one way")
        freezer = cgroups._made_tree(1, name, "/sys/fs/cgroup/freezer", "") if by == "freezer" else None
        pool = CgroupPool(Layout(1, real.layout.memory, None, freezer))
    group = pool.acquire(256, 1000)
    group.enter()
    try:
        bomb = subprocess.Popen([sys.executable, "-S", "-c", BOMB])
    finally:
        group.leave()
    try:
        soon(lambda: len(group.members()) > 20, "it forks")
        if by == "what is there":
            group.place(bomb.pid)
        assert group.kill()
        soon(lambda: not group.kill(), "all of it is dead")
    finally:
        bomb.kill()
        bomb.wait()
        if pool is not real:
            group.remove()
            for each in pool.layout.trees[1:]:
                cgroups._discard(each)
        else:
            pool.release(group)


def test_shares_of_cpu_are_set_on_this_host(real: CgroupPool) -> None:
    if real.layout.cpu is None:
        pytest.skip("kernel: shares of CPU cannot be set here")
    group = real.acquire(16, 3000)
    folder = Path(real.layout.cpu.base, Path(group.folder).name)
    found = {}
    for name in ("cpu.shares", "cpu.weight"):
        with suppress(FileNotFoundError):
            found[name] = int((folder / name).read_text())
    assert found in ({"cpu.shares": 3072}, {"cpu.weight": 300})
    real.release(group)


def test_what_was_forked_before_its_parent_was_placed_has_the_same_share_of_cpu(real: CgroupPool) -> None:
    if real.layout.cpu is None:
        pytest.skip("kernel: shares of CPU cannot be set here")
    group = real.acquire(64, 1000)
    group.enter()
    try:
        job = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600 & wait"])
    finally:
        group.leave()
    try:
        soon(lambda: len(group.members()) == 3, "it has forked")
        group.place(job.pid)
        for tree in real.layout.trees:
            there = Path(tree.base, Path(group.folder).name, "cgroup.procs").read_text()
            assert set(map(int, there.split())) == group.members()
    finally:
        soon(lambda: not group.kill(), "all of it is dead")
        job.wait()
        real.release(group)


def test_a_run_that_goes_on_forking_is_moved_to_its_share_of_cpu_in_the_end(
    real: CgroupPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not real.layout.joined_later:
        pytest.skip("kernel: nothing has to be placed after its start here")
    group = real.acquire(64, 1000)
    places = [Path(tree.base, Path(group.folder).name, "cgroup.procs") for tree in real.layout.joined_later]
    children: list[subprocess.Popen[bytes]] = []

    def members() -> set[int]:
        # One more each time, which begins where its parent has been moved to.
        children.append(subprocess.Popen(["sleep", "600"]))
        for procs in places:
            procs.write_text(f"{children[-1].pid}")
        return {child.pid for child in children}

    monkeypatch.setattr(group, "members", members)
    first = subprocess.Popen(["sleep", "600"])
    try:
        group.place(first.pid)
        assert len(children) == len(places)
    finally:
        for child in (first, *children):
            child.kill()
            child.wait()
        monkeypatch.undo()
        real.release(group)


def test_a_process_that_lasts_gets_its_share_of_cpu_by_a_move(real: CgroupPool, tmp_path: Path) -> None:
    if real.layout.cpu is None or real.layout.cpu in real.layout.entered:
        pytest.skip("kernel: processes get their shares of CPU by their start here")
    starter = Starter(WorkFolders(f"{tmp_path}/work"), real)

    def started(number: int, *argv: str) -> Process:
        order = wire.StartOrder(argv=list(argv), env={"PATH": os.defpath}, log=f"{tmp_path}/log", memory_mib=64)
        return starter.start(Run((1, number), (1000, 64, 0), {}, order), (4000, 4096, 0))

    over, lasts = started(1, "true"), started(2, "sleep", "600")
    cgroup = lasts.cgroup
    assert cgroup is not None
    begun = wire.now()
    over.exit_code = os.waitstatus_to_exitcode(os.waitpid(over.pid, 0)[1])
    try:
        starter.place(starter.place_due() - PLACED_AFTER_S / 2)
        assert shared_by(real, lasts) == []
        assert starter.place_due() <= begun + PLACED_AFTER_S
        starter.place(begun + PLACED_AFTER_S)
        assert shared_by(real, lasts) == [lasts.pid]
        assert starter.place_due() == float("inf")
    finally:
        soon(lambda: not cgroup.kill(), "all of it is dead")
        os.waitpid(lasts.pid, 0)
        for process in (over, lasts):
            starter.take_back(process)


def test_none_stands_by_where_a_move_waits_for_nobody(real: CgroupPool, tmp_path: Path) -> None:
    starter = Starter(WorkFolders(f"{tmp_path}/work"), real)
    assert starter.may_stand_by == (real.layout.version == 2)


def shared_by(pool: CgroupPool, process: Process) -> list[int]:
    """Return the processes that share the CPU as a run."""
    assert pool.layout.cpu is not None
    assert process.cgroup is not None
    return list(
        map(int, Path(pool.layout.cpu.base, Path(process.cgroup.folder).name, "cgroup.procs").read_text().split())
    )
