"""The arrays that are moved, and how every system's copies of them are timed and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from measure import percentile

Sent = TypeVar("Sent")

#: Bytes of the array that is pushed, pulled, scattered and gathered.
SIZE = 100_000_000
#: Arrays of a map, and the bytes of each.
MAP_ARRAYS = 200
MAP_SIZE = 1_000_000
#: Pushes until a system uses memory again that it had before: ray, which keeps `RAY_STORE` bytes, from the fourth.
WARM_UP = 4
RAY_STORE = 5 * SIZE
#: Seconds of transfers, to warm up and then to be counted.
WARM_UP_BUDGET = 2.0
BUDGET = 5.0


def make_array(size: int = SIZE) -> Any:
    """0, 1, 2, … as float64: every partial sum is a whole number below 2⁵³, so that sums are exact in any order."""
    return np.arange(size // 8, dtype=np.float64)


def sum_of(number: int, size: int = SIZE) -> float:
    """The sum of that array with `number` as its first element."""
    count = size // 8
    return float(count * (count - 1) // 2 + number)


def check_sums(sums: Iterable[float], number: int, count: int, size: int = SIZE) -> None:
    """An error unless there are `count` sums, all of the array that was sent as this `number`."""
    found = [float(value) for value in sums]
    if found != [sum_of(number, size)] * count:
        raise RuntimeError(f"array {number} did not arrive everywhere: sums {found}, not {sum_of(number, size)}")


def timed_push(
    array: Any, number: int, push: Callable[[], Sent], sums: Callable[[Sent], Iterable[float]], engines: int
) -> float:
    """Seconds of one push; then, untimed, what `sums` finds on each engine is checked.

    Each push sends another `number` in the array, so that what an earlier one left cannot pass for it.
    """
    array[0] = number
    begin = time.perf_counter()
    sent = push()
    seconds = time.perf_counter() - begin
    check_sums(sums(sent), number, engines, array.nbytes)
    return seconds


def repeat(call: Callable[[int], float], *, most: int, warm_up: int = 0) -> float:
    """Median of the seconds that `call(1)`, `call(2)`, … return, after up to `warm_up` calls that do not count.

    Both end early when their seconds together reach a budget, which all ranks of an MPI program find at the same call
    if their seconds are the same.
    """
    number = 0
    for limit, budget in ((warm_up, WARM_UP_BUDGET), (most, BUDGET)):
        seconds: list[float] = []
        while len(seconds) < limit and sum(seconds) < budget:
            number += 1
            seconds.append(call(number))
    return percentile(seconds, 0.5)


def push_figures(
    push: Callable[[Any], Sent], sums: Callable[[Sent], Iterable[float]], engines: int, transfers: int
) -> dict[str, float]:
    """Of a system that is warm but for its memory: the first push, and the median of those after it."""
    array = make_array()

    def call(number: int) -> float:
        return timed_push(array, number, lambda: push(array), sums, engines)

    return {"data-push-first": call(0), "data-push": repeat(call, most=transfers, warm_up=WARM_UP)}


def map_seconds(run_map: Callable[[Sequence[Any]], Iterable[Any]], transfers: int) -> float:
    """Median seconds of a map that adds 1 to each of many arrays; every result is checked, untimed."""
    arrays = [np.full(MAP_SIZE // 8, float(number)) for number in range(MAP_ARRAYS)]
    wanted = [MAP_SIZE // 8 * (number + 1) for number in range(MAP_ARRAYS)]

    def call(_: int) -> float:
        begin = time.perf_counter()
        results = list(run_map(arrays))
        seconds = time.perf_counter() - begin
        if [float(result.sum()) for result in results] != wanted:
            raise RuntimeError("a map of arrays returned wrong results")
        return seconds

    return repeat(call, most=transfers)
