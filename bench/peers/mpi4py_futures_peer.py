"""Measures mpi4py.futures: `mpirun -n 5 python -m mpi4py.futures mpi4py_futures_peer.py`, four workers and a master.

Prints one JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from typing import Any

from durations import uneven, with_straggler
from measure import MARK, idle_percent, latency, makespan, rate
from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor
from payload import map_seconds


def same(x: int) -> int:
    """The task of the map: lambdas do not travel here."""
    return x


def increased(array: Any) -> Any:
    """The task of the map of arrays."""
    return array + 1


def nothing() -> None:
    """The call of the round trip."""


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, help="names with commas between")
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--transfers", type=int, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    options, _ = parser.parse_known_args()
    rows = options.rows.split(",")
    figures: dict[str, float | str] = {"mpi": MPI.Get_library_version().splitlines()[0].partition(",")[0].strip("\0 ")}
    if MPI.COMM_WORLD.Get_size() != options.engines + 1:
        raise SystemExit(f"mpi4py uses {figures['mpi']}, and its ranks do not see each other under this mpirun")

    with MPIPoolExecutor(max_workers=options.engines) as executor:
        executor.bootup(wait=True)

        def run_map(tasks: int) -> Iterable[int]:
            results: Iterable[int] = executor.map(same, range(tasks), chunksize=1)
            return results

        list(run_map(100))
        if "idle" in rows:
            figures["idle"] = idle_percent(os.environ[MARK], options.idle_seconds)
        if "apply" in rows:
            figures["apply"] = latency(lambda: executor.submit(nothing).result(), options.calls)
        if "map" in rows:
            figures["map"] = rate(run_map, options.tasks)
        if "uneven" in rows:
            figures["uneven"] = makespan(lambda: executor.map(time.sleep, uneven(), chunksize=1))
        if "straggler" in rows:
            figures["straggler"] = makespan(lambda: executor.map(time.sleep, with_straggler(uneven()), chunksize=1))
        if "data-map" in rows:
            figures["data-map"] = map_seconds(
                lambda arrays: executor.map(increased, arrays, chunksize=1), options.transfers
            )
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
