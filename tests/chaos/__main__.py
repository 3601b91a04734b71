"""Harms real processes for some minutes: `python -m chaos --minutes 30`."""

import argparse
import os
import sys

from chaos.run import run


def main() -> int:
    """Print the report and where it is; return 1 if something was violated."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=os.environ.get("CHAOS_SEED"), help="choose the same faults again")
    arguments = parser.parse_args()
    outcome = run(arguments.minutes, arguments.seed)
    print(f"{outcome.report}\n\nwritten to {outcome.path}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
