"""`make bench`: one JSON line for each case, and a report of all of them.

Jobs a second are those of whole lives, from submission to the end that a client sees. A ratio is the figure divided by
the floor, which is measured right before and right after it.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import durability, latency, submission, throughput, waiting
from benchmarks.bench import Figures, Folders
from benchmarks.floor import measure_floor
from benchmarks.machine import system
from benchmarks.report import write_report

Case = Callable[[Folders, int], Awaitable[Figures]]

CASES: Final[dict[str, tuple[Case, int]]] = {
    "array-1000": (throughput.array, 1000),
    "array-10000": (throughput.array, 10_000),
    "batch": (throughput.batch, 10_000),
    "singles-http": (throughput.singles, 10_000),
    "array-six": (throughput.array_six, 10_000),
    "one-second": (throughput.one_second, 80),
    "containers": (throughput.containers, 60),
    "submit-http": (submission.http, 6000),
    "submit-http-one": (submission.http_one, 2000),
    "submit-grpc": (submission.by_grpc, 6000),
    "submit-grpc-six": (submission.by_grpc_six, 6000),
    "submit-batch": (submission.in_batches, 20_000),
    "latency": (latency.idle, 300),
    "waiting": (waiting.separate, 1_000_000),
    "waiting-arrays": (waiting.arrays, 100),
    "kill": (durability.kill, 5000),
}


def main() -> None:
    """Run all cases, or those named."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the work of each case")
    parser.add_argument("--to", type=Path, default=Path("build/bench"), help="folder of the lines and the report")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    folders = Folders()
    failed = []
    try:
        for name in arguments.names or CASES:
            case, n = CASES[name]
            try:
                line = measure(name, case, max(2, round(n * arguments.scale)), folders)
            except Exception as error:
                failed.append(name)
                traceback.print_exception(error)
                continue
            print(json.dumps(line), flush=True)
            with (arguments.to / "results.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
    finally:
        folders.close()
    if len(failed) < len(arguments.names or CASES):
        print(f"report: {write_report(arguments.to)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measure(name: str, case: Case, n: int, folders: Folders) -> dict[str, Any]:
    """Run a case between two measurements of the floor, and put its line together."""
    before = measure_floor()
    figures = uvloop.run(_run(case, folders, n))
    floor = before.between(measure_floor())
    per_s = figures.n / figures.seconds if figures.seconds else 0.0
    return {
        "case": name,
        "product": "batchyard",
        "system": system(),
        "n": figures.n,
        "seconds": round(figures.seconds, 3),
        "per_s": round(per_s, 1),
        "floor_per_s": round(floor.per_s, 1),
        "floor_by": floor.how,
        "ratio": round(per_s / floor.per_s, 3),
        "cpu_us_each": {role: round(used / figures.n) for role, used in figures.cpu_us.items()},
        "peak_mib": figures.peak_mib,
        **figures.more,
        "checks": figures.checks,
    }


async def _run(case: Case, folders: Folders, n: int) -> Figures:
    return await case(folders, n)


if __name__ == "__main__":
    main()
