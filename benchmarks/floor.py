"""How many processes a second this machine can start and reap when nothing else is done."""

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

IN_FLIGHT: Final = 4
COUNT: Final = 2000


@dataclass(frozen=True, slots=True)
class Floor:
    """The measure that figures are divided by."""

    per_s: float
    how: str

    def between(self, other: "Floor") -> "Floor":
        """Return what is between two floors: those before and after what is measured."""
        return Floor((self.per_s + other.per_s) / 2, self.how)


def measure_floor() -> Floor:
    """Measure with a small C program if there is a compiler, else with os.posix_spawn."""
    if shutil.which("gcc") is None:
        return Floor(_spawn_from_python(), "os.posix_spawn")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "floor"
        source = Path(__file__).with_name("floor.c")
        subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
        done = subprocess.run([str(program), str(COUNT), str(IN_FLIGHT)], check=True, capture_output=True, text=True)
    return Floor(float(done.stdout), "C")


def _spawn_from_python() -> float:
    begin = time.perf_counter()
    started = in_flight = 0
    while started < COUNT or in_flight:
        if started < COUNT and in_flight < IN_FLIGHT:
            os.posix_spawn("/bin/true", ["/bin/true"], os.environ)
            started += 1
            in_flight += 1
        else:
            os.wait()
            in_flight -= 1
    return COUNT / (time.perf_counter() - begin)
