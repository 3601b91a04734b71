"""What figures depend on: the machine, and the CPU time of an installation's processes."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from support.installation import Installation

_TICK_US: Final = 1_000_000 / os.sysconf("SC_CLK_TCK")


def system() -> dict[str, object]:
    """Describe this machine."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def processes_of(installation: Installation) -> dict[str, int]:
    """Return the pids of `up`, of its agent and of the agent's launcher, as far as they run, by role."""
    pids = {"control plane": installation.processes["up"].pid}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "python" in words[0] and any(str(installation.folder) in word for word in words):
            if "batchyard.cli" in words and "agent" in words:
                pids["agent"] = int(entry.name)
            elif any("launcher/__main__" in word for word in words):
                pids["launcher"] = int(entry.name)
    return pids


def cpu_us(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU time that each process has used by now, without its children's, in microseconds."""
    return {role: _cpu_us(pid) for role, pid in pids.items()}


def _cpu_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_US


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def peak_mib(pid: int) -> int:
    """Return the most memory that a process has ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024
