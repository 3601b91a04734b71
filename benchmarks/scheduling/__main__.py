"""`make bench-scheduling`: how well the scheduler decides, and at what cost. One JSON line for each figure."""

import argparse
import json
import time
from typing import Final

from benchmarks.scheduling.baselines import Easy, Fifo
from benchmarks.scheduling.figures import figures
from benchmarks.scheduling.production import Production
from benchmarks.scheduling.scale import measure_scale
from benchmarks.scheduling.simulator import simulate
from benchmarks.scheduling.workload import workloads

SCHEDULERS: Final = (Production, Easy, Fifo)


def main() -> None:
    """Run all workloads on all schedulers, then the measurement at scale."""
    parser = argparse.ArgumentParser(prog="make bench-scheduling")
    parser.add_argument("--hosts", type=int, default=16, help="hosts of each workload; jobs go with them")
    parser.add_argument("--agents", type=int, default=10_000, help="agents at scale; 0: leave it out")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="waiting jobs at scale")
    arguments = parser.parse_args()
    for workload in workloads(arguments.hosts):
        for scheduler in SCHEDULERS:
            begin = time.process_time()
            trace = simulate(workload, scheduler(workload))
            took_s = time.process_time() - begin
            line = {
                "workload": workload.name,
                "scheduler": scheduler.name,
                "jobs": len(workload.tasks),
                "hosts": len(workload.hosts),
                **figures(trace).as_json(),
                "cpu_s": round(took_s, 1),
            }
            print(json.dumps(line), flush=True)
    if arguments.agents:
        for line in measure_scale(arguments.agents, arguments.jobs):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
