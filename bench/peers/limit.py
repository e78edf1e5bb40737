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

from durations import in_order_makespan, least_makespan, uneven, with_straggler
from measure import cores, percentile


def same(x: int) -> int:
    """The task of the map."""
    return x


def one_core(call: Callable[[bytes], bytes], tasks: list[bytes]) -> float:
    """Tasks per second of one core; the median of five."""
    rates = []
    for _ in range(5):
        begin = time.perf_counter()
        results = [call(task) for task in tasks]
        rates.append(len(tasks) / (time.perf_counter() - begin))
        if list(map(pickle.loads, results)) != list(range(len(tasks))):
            raise RuntimeError("pickling changed the items")
    return percentile(rates, 0.5)


def run_task(task: bytes) -> bytes:
    """A task that is pickled singly, as one is that is sent alone: its function, its arguments."""
    function, args, kwargs = pickle.loads(task)
    return pickle.dumps(function(*args, **kwargs), 5)


def run_item(item: bytes) -> bytes:
    """The same with a function that is known already."""
    return pickle.dumps(same(pickle.loads(item)), 5)


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
        numbers = range(options.tasks)
        tasks = [pickle.dumps((same, (number,), {}), 5) for number in numbers]
        figures["map"] = one_core(run_task, tasks) * cores()
        figures["map-items"] = one_core(run_item, [pickle.dumps(number, 5) for number in numbers]) * cores()
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
