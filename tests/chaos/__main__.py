"""Many runs and a report: `python -m chaos [--seeds N] [--first SEED] [--kills K]`. Ends with 1 if one went wrong."""

from __future__ import annotations

import argparse
import sys

from .driver import LIMIT, run_seed
from .report import report


def main() -> int:
    """Prints a line for each run, all about those that went wrong, and the report."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="number of runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kills", type=int, help="engines killed in each run, instead of one to three")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a run hangs")
    options = parser.parse_args()
    outcomes = []
    for seed in range(options.first, options.first + options.seeds):
        outcome = run_seed(seed, options.kills, options.limit)
        outcomes.append(outcome)
        print(outcome.line() if outcome.ok else outcome.failure(), flush=True)
    print(f"\n{report(outcomes)}")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
