"""Runs many seeds on all cores: `python -m simulation --seeds 1000 --first-seed 1`."""

import argparse
import sys
import time
from functools import partial

from simulation.parallel import pool
from simulation.profiles import PROFILES
from simulation.world import simulate


def main() -> int:
    """Run the seeds; print every violation with its trace, and a summary. Return 1 if there was one."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--profile", choices=["peace", *sorted(PROFILES)])
    arguments = parser.parse_args()
    began = time.monotonic()
    failed: list[int] = []
    simulated_s, events, starts = 0.0, 0, 0
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    with pool() as processes:
        for outcome in processes.map(partial(simulate, profile=arguments.profile), seeds, chunksize=4):
            simulated_s += outcome.simulated_s
            events += outcome.events
            starts += outcome.starts
            if outcome.violation:
                failed.append(outcome.seed)
                print(outcome, flush=True)
    print(
        f"{len(seeds)} seeds from {seeds[0]}: {simulated_s:,.0f} simulated seconds, {events:,} events, "
        f"{starts:,} starts in {time.monotonic() - began:.0f} s; violations: {failed or 'none'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
