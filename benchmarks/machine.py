"""What figures depend on: the machine, and what an installation's processes have used of it."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from support.installation import Installation

_TICK_US: Final = 1_000_000 / os.sysconf("SC_CLK_TCK")
JOBS: Final = "jobs"
"""The role of what the launcher has started and reaped."""


def system() -> dict[str, object]:
    """Describe this machine, and how busy it is with other things."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def processes_of(installation: Installation) -> dict[str, int]:
    """Return the pids of an installation's processes by role, the agent and its launcher among them."""
    pids = {"control plane" if name == "up" else name: process.pid for name, process in installation.processes.items()}
    launchers = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = _stat(int(entry.name))[1]
        except OSError:
            continue
        if "python" in words[0] and any(str(installation.folder) in word for word in words):
            if "batchyard.cli" in words and "agent" in words:
                pids["agent"] = int(entry.name)
            elif any("launcher/__main__" in word for word in words):
                launchers[int(entry.name)] = int(parent)
    # Its child of the same name is a copy of it that is to become a job.
    own = [pid for pid, parent in launchers.items() if parent not in launchers]
    return pids | ({"launcher": own[-1]} if own else {})


def cpu_us(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU time that each process has used by now, in microseconds, and that of the jobs that have ended."""
    used = {}
    for role, pid in pids.items():
        own, children = _cpu_us(pid)
        used[role] = own
        if role == "launcher":
            used[JOBS] = children
    return used


def _cpu_us(pid: int) -> tuple[float, float]:
    fields = _stat(pid)
    user, system_, children_user, children_system = (int(field) for field in fields[11:15])
    return (user + system_) * _TICK_US, (children_user + children_system) * _TICK_US


def _stat(pid: int) -> list[str]:
    """Return what stands in /proc/PID/stat after the name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def resident_mib(pid: int) -> float:
    """Return the memory that a process has resident."""
    return _status(pid, "VmRSS:")


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has ever had resident."""
    return _status(pid, "VmHWM:")


def _status(pid: int, member: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith(member))
    return round(int(line.split()[1]) / 1024, 1)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
