"""Sleeping tasks of very different length, and the makespans that they allow. Pure: nothing here sleeps."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence

TASKS = 2_000
MEAN = 0.002
SIGMA = 1.5
SEED = 1


def uneven() -> list[float]:
    """Seconds per task: lognormal, mean `MEAN`. The mean of a lognormal is median · exp(sigma² / 2)."""
    source = random.Random(SEED)
    median = MEAN * math.exp(-(SIGMA**2) / 2)
    return [source.lognormvariate(math.log(median), SIGMA) for _ in range(TASKS)]


def with_straggler(durations: Sequence[float]) -> list[float]:
    """The same tasks and, last, one of a quarter of their sum."""
    return [*durations, sum(durations) / 4]


def in_order_makespan(durations: Sequence[float], engines: int) -> float:
    """The optimum of who knows no duration: whenever an engine is free it starts the next task of the list.

    Nothing that starts tasks in order ends sooner (list scheduling; Graham 1966).
    """
    busy_until = [0.0] * engines
    for seconds in durations:
        heapq.heapreplace(busy_until, busy_until[0] + seconds)
    return max(busy_until)


def least_makespan(durations: Sequence[float], engines: int) -> float:
    """A bound for those who know all durations beforehand: no engine idles, and the longest task is not cut."""
    return max(sum(durations) / engines, max(durations))
