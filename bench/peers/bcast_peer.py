"""Measures MPI's broadcast from Python: `mpirun -n 9 python bcast_peer.py`, rank 0 to eight others.

mpi4py's lower-case bcast, which pickles; with --raw MPI_Bcast, from and into arrays that each rank has. Prints one
JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI
from payload import SIZE, WARM_UP, check_sums, make_array, repeat


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--transfers", type=int, required=True)
    parser.add_argument("--raw", action="store_true")
    options, _ = parser.parse_known_args()
    comm = MPI.COMM_WORLD
    ranks = comm.Get_size()
    if ranks != options.engines + 1:
        raise SystemExit("mpi4py's ranks do not see each other under this mpirun")
    array = make_array() if comm.Get_rank() == 0 else None
    buffer = np.empty(SIZE // 8) if options.raw and array is None else array

    def pickled() -> Any:
        return comm.bcast(array)

    def raw() -> Any:
        comm.Bcast(buffer)
        return buffer

    push: Callable[[], Any] = raw if options.raw else pickled

    def call(number: int) -> float:
        """From the moment when all are there until all have it."""
        if array is not None:
            array[0] = number
        comm.Barrier()
        begin = time.perf_counter()
        received = push()
        comm.Barrier()
        seconds = time.perf_counter() - begin
        sums = comm.gather(float(received.sum()))
        if sums is not None:
            check_sums(sums, number, ranks)
        # The same for all ranks, so that they end together.
        agreed: float = comm.bcast(seconds)
        return agreed

    figures = {"data-push-first": call(0), "data-push": repeat(call, most=options.transfers, warm_up=WARM_UP)}
    if array is not None:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
