"""What no system can do better: one plain process on one core that loads, calls and dumps, and that sleeps.

Prints one JSON object of figures. The sleeps are those of the other systems, one after the other, because a sleep
takes longer than it is asked for (by some 60 us on Linux, timer slack and waking), whoever schedules it.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Callable
from typing import Any

from durations import in_order_makespan, least_makespan, uneven, with_straggler
from measure import cores, percentile


def same(x: int) -> int:
    """The task of the map."""
    return x


def one_core(tasks: int) -> float:
    """Tasks per second of one core, each pickled singly; the median of five."""
    rates = []
    items = [pickle.dumps(number, 5) for number in range(tasks)]
    load: Callable[[bytes], Any] = pickle.loads
    dump, call = pickle.dumps, same
    for _ in range(5):
        begin = time.perf_counter()
        results = [dump(call(load(item)), 5) for item in items]
        rates.append(tasks / (time.perf_counter() - begin))
        if results != items:
            raise RuntimeError("pickling changed the items")
    return percentile(rates, 0.5)


def slept(durations: list[float]) -> list[float]:
    """What each of these sleeps takes when a process does nothing else."""
    taken = []
    last = time.perf_counter()
    for seconds in durations:
        time.sleep(seconds)
        now = time.perf_counter()
        taken.append(now - last)
        last = now
    return taken


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, help="names with commas between")
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    options, _ = parser.parse_known_args()
    rows, engines = options.rows.split(","), options.engines
    figures: dict[str, float] = {}
    if "map" in rows:
        figures["map"] = one_core(options.tasks) * cores()
    if {"uneven", "straggler"} & set(rows):
        asked = uneven()
        taken = slept(asked)
        figures["uneven-ideal"] = sum(taken) / engines
        figures["uneven-as-asked"] = sum(asked) / engines
        # One long sleep is as long as it was asked to be.
        last = with_straggler(asked)[-1]
        figures["straggler-in-order"] = in_order_makespan([*taken, last], engines)
        figures["straggler-in-order-as-asked"] = in_order_makespan(with_straggler(asked), engines)
        figures["straggler-clairvoyant"] = least_makespan([*taken, last], engines)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
