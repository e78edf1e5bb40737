"""Measures ray: an object put once and got by as many actors, each a process on this machine.

Prints one JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from typing import Any

import ray
from payload import RAY_STORE, make_array, push_figures


class Keeper:
    """What an engine is here: it keeps what it got last."""

    def __init__(self) -> None:
        self._array: Any = None

    def take(self, references: list[Any]) -> None:
        """In a list the reference itself arrives, not the object."""
        self._array = ray.get(references[0])

    def sum(self) -> float:
        """Of the whole array."""
        return float(self._array.sum())


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--transfers", type=int, required=True)
    options, _ = parser.parse_known_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=options.engines,
        object_store_memory=RAY_STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        actor = ray.remote(Keeper)
        actors = [actor.remote() for _ in range(options.engines)]

        def push(array: Any) -> None:
            reference = ray.put(array)
            ray.get([keeper.take.remote([reference]) for keeper in actors])

        def sums(_: None) -> Iterable[float]:
            found: Iterable[float] = ray.get([keeper.sum.remote() for keeper in actors])
            return found

        push(make_array(8_000))
        sums(None)
        print(json.dumps(push_figures(push, sums, options.engines, options.transfers)), flush=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
