"""What an agent offers of its host."""

import os
from pathlib import Path

import pytest

from batchyard.agent.capacity import capacity_of_host, offered_capacity, parse_capacity, parse_size

HOST = (2000, 4096, 0)


@pytest.mark.parametrize(
    ("text", "capacity"),
    [
        ("", HOST),
        ("vcpus=64", (64_000, 4096, 0)),
        ("vcpus=0.5", (500, 4096, 0)),
        ("memory=256GiB", (2000, 262_144, 0)),
        ("memory=512MiB", (2000, 512, 0)),
        ("memory=512", (2000, 512, 0)),
        ("vcpus=64, memory=1TiB, gpus=2", (64_000, 1_048_576, 2)),
    ],
)
def test_a_capacity_says_what_it_says_and_leaves_the_rest_to_the_host(
    text: str, capacity: tuple[int, int, int]
) -> None:
    assert parse_capacity(text, HOST) == capacity


@pytest.mark.parametrize("text", ["vcpus", "vcpus=-1", "vcpus=many", "memory=1KB", "memory=GiB", "gpus=0.5", "disks=1"])
def test_what_makes_no_sense_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="capacity: "):
        parse_capacity(text, HOST)


@pytest.mark.parametrize(
    ("text", "mib"), [("512", 512), ("512MiB", 512), ("2GiB", 2048), ("1T", 1_048_576), ("2GB", None), ("", None)]
)
def test_a_size_is_in_mib_unless_it_says_more(text: str, mib: int | None) -> None:
    assert parse_size(text) == mib


def test_what_is_offered_is_less_by_the_reserve() -> None:
    assert offered_capacity("", HOST) == (2000, 4096 - 409, 0)
    assert offered_capacity("", (2000, 100_000, 1)) == (2000, 100_000 - 1024, 1)
    assert offered_capacity("", HOST, reserve_vcpus=0.5, reserve_mib=96) == (1500, 4000, 0)
    assert offered_capacity("", HOST, reserve_mib=0) == HOST


def test_what_the_owner_says_is_offered_whatever_is_reserved() -> None:
    assert offered_capacity("vcpus=64,memory=1TiB", HOST, reserve_vcpus=2, reserve_mib=4096) == (64_000, 1_048_576, 0)


@pytest.mark.parametrize(
    ("reserve_vcpus", "reserve_mib", "reason"),
    [(2.0, 0, "reserve_vcpus: nothing is left of the host's 2 vCPUs"), (0.0, 4096, "reserve_memory: nothing is left")],
)
def test_a_reserve_must_leave_something(reserve_vcpus: float, reserve_mib: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        offered_capacity("", HOST, reserve_vcpus=reserve_vcpus, reserve_mib=reserve_mib)


class AHost:
    """Files as a kernel has them, of a host with 16 GiB."""

    def __init__(self, root: Path, own_cgroups: str) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:        1 kB\n")
        self.write("proc/self/cgroup", own_cgroups)
        self.write("dev/null", "")

    def write(self, path: str, content: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def capacity(self) -> tuple[int, int, int]:
        return capacity_of_host(self.root / "proc", self.root / "cgroup", self.root / "dev")


CPUS = len(os.sched_getaffinity(0)) * 1000


def test_a_host_without_limits_has_all_its_memory(tmp_path: Path) -> None:
    host = AHost(tmp_path, "4:memory:/\n1:cpu:/\n0::/\n")
    host.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    host.write("cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    host.write("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert host.capacity() == (CPUS, 16384, 0)


@pytest.mark.parametrize("visible", [True, False], ids=["whole tree", "in a container"])
def test_limits_of_version_1_count(tmp_path: Path, *, visible: bool) -> None:
    host = AHost(tmp_path, "4:memory:/docker/1\n1:cpu,cpuacct:/docker/1\n0::/\n")
    below = "docker/1/" if visible else ""
    host.write(f"cgroup/memory/{below}memory.limit_in_bytes", "1073741824\n")
    host.write(f"cgroup/cpu/{below}cpu.cfs_quota_us", "50000\n")
    host.write(f"cgroup/cpu/{below}cpu.cfs_period_us", "100000\n")
    assert host.capacity() == (500, 1024, 0)


def test_the_narrowest_limit_of_version_2_counts_wherever_it_is(tmp_path: Path) -> None:
    host = AHost(tmp_path, "0::/system.slice/batchyard.service\n")
    host.write("cgroup/system.slice/memory.max", "2147483648\n")
    host.write("cgroup/system.slice/cpu.max", "max 100000\n")
    host.write("cgroup/system.slice/batchyard.service/memory.max", "max\n")
    host.write("cgroup/system.slice/batchyard.service/cpu.max", "25000 100000\n")
    assert host.capacity() == (250, 2048, 0)


def test_gpus_are_counted_by_their_devices(tmp_path: Path) -> None:
    host = AHost(tmp_path, "0::/\n")
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        host.write(f"dev/{name}", "")
    assert host.capacity() == (CPUS, 16384, 2)


def test_this_host_has_something() -> None:
    vcpus_milli, memory_mib, _ = capacity_of_host()
    assert 0 < vcpus_milli <= CPUS
    assert 0 < memory_mib <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
