"""Measures multiprocessing.Pool with chunksize 1: `map`, or `imap_unordered` with --unordered.

Prints one JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from multiprocessing import Pool
from typing import Any

from durations import uneven, with_straggler
from measure import makespan, rate
from payload import map_seconds


def same(x: int) -> int:
    """The task of the map."""
    return x


def increased(array: Any) -> Any:
    """The task of the map of arrays."""
    return array + 1


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, help="names with commas between")
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--transfers", type=int, required=True)
    parser.add_argument("--unordered", action="store_true")
    options, _ = parser.parse_known_args()
    rows = options.rows.split(",")
    figures: dict[str, float] = {}
    with Pool(options.engines) as pool:
        run = pool.imap_unordered if options.unordered else pool.map

        def run_map(tasks: int) -> Iterable[int]:
            return run(same, range(tasks), chunksize=1)

        list(run_map(100))
        if "map" in rows:
            figures["map"] = rate(run_map, options.tasks)
        if "uneven" in rows:
            figures["uneven"] = makespan(lambda: run(time.sleep, uneven(), chunksize=1))
        if "straggler" in rows:
            figures["straggler"] = makespan(lambda: run(time.sleep, with_straggler(uneven()), chunksize=1))
        if "data-map" in rows:
            figures["data-map"] = map_seconds(lambda arrays: run(increased, arrays, chunksize=1), options.transfers)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
