"""Compares two clusters call by call, in turn, both running: what one has and the other has not costs the difference.

Prints one JSON object of lists: figures of the first over those of the second, more is better.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pxcluster
from measure import latency, paired_ratios, rate, wait_until
from session import START_TIMEOUT


def nothing() -> None:
    """The call of the round trip: of this program, so that it travels as code."""


def connect(connection_file: Path, engines: int) -> Any:
    """A client of one of the clusters, warm."""
    wait_until(connection_file.exists, START_TIMEOUT, "the connection file")
    client = pxcluster.Client(connection_info=str(connection_file), timeout=START_TIMEOUT)
    wait_until(lambda: len(client.ids) == engines, START_TIMEOUT, f"{engines} engines")
    client.load_balanced_view().map(abs, range(2_000), block=True)
    client[0].apply_sync(nothing)
    return client


def map_figure(client: Any, tasks: int) -> Callable[[], float]:
    """Tasks per second of one map."""
    balanced = client.load_balanced_view()
    return lambda: rate(lambda n: balanced.map(lambda x: x, range(n), chunksize=1, block=True), tasks, most=1)


def apply_figure(client: Any, calls: int) -> Callable[[], float]:
    """Round trips per second, of the median one."""
    first = client[0]
    return lambda: 1 / latency(lambda: first.apply_sync(nothing), calls)


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=Path, required=True, help="connection file of the cluster with it")
    parser.add_argument("--second", type=Path, required=True, help="connection file of the cluster without it")
    parser.add_argument("--rows", required=True, help="names with commas between; they end with what is measured")
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    options, _ = parser.parse_known_args()
    clients = [connect(path, options.engines) for path in (options.first, options.second)]
    figures = {}
    for row in options.rows.split(","):
        make = map_figure if row.endswith("-map") else apply_figure
        size = options.tasks if row.endswith("-map") else options.calls
        first, second = (make(client, size) for client in clients)
        figures[row] = paired_ratios(first, second, options.pairs)
    print(json.dumps(figures), flush=True)
    for client in clients:
        client.close()


if __name__ == "__main__":
    main()
