"""Measures dask.distributed: a scheduler and worker processes on this machine, all settings its defaults.

Prints one JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from distributed import Client, LocalCluster
from payload import make_array, push_figures


def sum_on_worker(key: str, dask_worker: Any) -> float:
    """Of the copy that a worker holds."""
    return float(dask_worker.data[key].sum())


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--transfers", type=int, required=True)
    options, _ = parser.parse_known_args()
    workers = {"n_workers": options.engines, "threads_per_worker": 1, "processes": True}
    with LocalCluster(**workers, dashboard_address=None) as cluster, Client(cluster) as client:
        client.wait_for_workers(options.engines)

        def push(array: Any) -> Any:
            # Otherwise it hashes the array for a name, which takes longer.
            return client.scatter(array, broadcast=True, hash=False)

        def sums(future: Any) -> Iterable[float]:
            found: Iterable[float] = client.run(sum_on_worker, future.key).values()
            return found

        sums(push(make_array(8_000)))
        print(json.dumps(push_figures(push, sums, options.engines, options.transfers)), flush=True)


if __name__ == "__main__":
    main()
