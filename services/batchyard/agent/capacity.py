"""What an agent offers to jobs: what the host really has, less a reserve, or what its owner says instead."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchyard.agent.launcher.ledger import Need

_MIB: Final = 1024 * 1024
_MIB_OF: Final = {"": 1, "MiB": 1, "GiB": 1024, "TiB": 1024 * 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_RESERVE_PART: Final = 10
_RESERVE_MAX_MIB: Final = 1024


def offered_capacity(text: str, host: Need, *, reserve_vcpus: float = 0, reserve_mib: int | None = None) -> Need:
    """Return what is offered of a host: what `text` says (see `parse_capacity`), else what it has less the reserve.

    Without a `reserve_mib` a tenth of the memory is kept, at most 1 GiB. Raises ValueError if nothing is left to offer.
    """
    if reserve_mib is None:
        reserve_mib = min(_RESERVE_MAX_MIB, host[1] // _RESERVE_PART)
    capacity = parse_capacity(text, (host[0] - round(reserve_vcpus * 1000), host[1] - reserve_mib, host[2]))
    if capacity[0] <= 0:
        raise ValueError(f"reserve_vcpus: nothing is left of the host's {host[0] / 1000:g} vCPUs")
    if capacity[1] <= 0:
        raise ValueError(f"reserve_memory: nothing is left of the host's {host[1]} MiB")
    return capacity


def parse_capacity(text: str, host: Need) -> Need:
    """Return what `vcpus=64,memory=256GiB,gpus=1` says, and for what it leaves out, what the host has.

    Raises ValueError with the part that is wrong.
    """
    vcpus_milli, memory_mib, gpus = host
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.partition("=")
        if name == "vcpus" and re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value):
            vcpus_milli = round(float(value) * 1000)
        elif name == "memory" and (size := parse_size(value)) is not None:
            memory_mib = size
        elif name == "gpus" and re.fullmatch(r"\d{1,4}", value):
            gpus = int(value)
        else:
            raise ValueError(f"capacity: {part!r} is not vcpus=N, memory=NGiB or gpus=N")
    return (vcpus_milli, memory_mib, gpus)


def check_capacity(text: str) -> None:
    """Raise ValueError, with the part that is wrong, for what `parse_capacity` does not take, or for no room."""
    vcpus_milli, memory_mib, _ = parse_capacity(text, (1, 1, 0))
    if vcpus_milli <= 0 or memory_mib <= 0:
        raise ValueError("capacity: vcpus and memory must be more than nothing")


def parse_size(text: str) -> int | None:
    """Return the MiB of a size like 512, 512MiB, 2GiB or 1TiB; None for anything else."""
    match = re.fullmatch(r"(\d{1,12})([A-Za-z]*)", text)
    return int(match[1]) * _MIB_OF[match[2]] if match and match[2] in _MIB_OF else None


def capacity_of_host(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup"), dev: Path = Path("/dev")
) -> Need:
    """Return what this process may use of its host: CPUs, memory within the limits of its cgroups, NVIDIA's GPUs."""
    memory = [_memory_total(proc), *_memory_limits(proc, cgroups)]
    cpus = [float(len(os.sched_getaffinity(0))), *_cpu_limits(proc, cgroups)]
    return (int(min(cpus) * 1000), min(memory) // _MIB, len(gpus_of_host(dev)))


def gpus_of_host(dev: Path = Path("/dev")) -> list[int]:
    """Return the numbers of NVIDIA's GPUs."""
    return sorted(int(path.name.removeprefix("nvidia")) for path in dev.glob("nvidia[0-9]*"))


def _memory_total(proc: Path) -> int:
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    raise ValueError("/proc/meminfo says no MemTotal")


def _memory_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    # Version 1 has a number of its own for "no limit", which is more than any host has.
    for folder in _own_cgroups("memory", proc, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value.isdigit():
                yield int(value)


def _cpu_limits(proc: Path, cgroups: Path) -> Iterator[float]:
    for folder in _own_cgroups("cpu", proc, cgroups):
        limit = (
            _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        )
        quota, _, period = limit.partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _own_cgroups(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders that limit this process: its cgroup's and those above, as far as they can be seen from here.

    In a container the paths of /proc may be those of the host, and the container's own cgroup be where they all hang.
    """
    version_2 = None
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            yield from _upwards(cgroups / controller, path)
            return
        if not controllers:
            version_2 = path
    if version_2 is not None:
        yield from _upwards(cgroups, version_2)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    folder = mount / path.strip("/")
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
