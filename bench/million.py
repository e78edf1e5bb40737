"""What a map of a million tasks costs the controller: memory while it runs and afterwards, and CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from measure import cpu_seconds, resident_mb

TASKS = 1_000_000
#: Seconds between two readings of the controller's memory.
PAUSE = 0.01
#: Seconds that the controller gets to give memory back.
SETTLE = 5.0


class Peak(threading.Thread):
    """Reads the resident memory of some processes, together, until it is stopped."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._stopping = threading.Event()
        self.start_mb = self.now()
        self.peak_mb = self.start_mb

    def now(self) -> float:
        """Resident memory of all of them, millions of bytes."""
        return sum(resident_mb(pid) for pid in self._pids)

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stopping.wait(PAUSE):
            self.peak_mb = max(self.peak_mb, self.now())

    def stop(self) -> None:
        """No more readings."""
        self._stopping.set()
        self.join()


def million(run_map: Callable[[int], Iterable[int]], controller: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Growth of the controller's processes over the start, what is left of it, and microseconds of CPU per task."""
    peak = Peak(controller)
    before = cpu_seconds(controller)
    peak.start()
    try:
        results = run_map(TASKS)
    finally:
        peak.stop()
    after = cpu_seconds(controller)
    if results != list(range(TASKS)):
        raise RuntimeError("a map of a million tasks returned wrong results")
    yield "million-growth", peak.peak_mb - peak.start_mb
    yield "million-cpu", 1e6 * sum(after[pid] - before[pid] for pid in controller) / TASKS
    del results
    left = peak.now()
    end = time.monotonic() + SETTLE
    while time.monotonic() < end:
        time.sleep(0.1)
        left = min(left, peak.now())
    yield "million-left", left - peak.start_mb
