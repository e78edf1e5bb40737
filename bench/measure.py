"""What the programs of this folder measure with: repetitions, percentiles, and readings of /proc."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

#: Every process of a cluster inherits this variable, whoever starts it and whichever session it moves to.
MARK = "BENCH_MARK"

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency(call: Callable[[], object], calls: int) -> float:
    """Median seconds of one call, after a tenth as many calls to warm up."""
    for _ in range(max(5, calls // 10)):
        call()
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return percentile(seconds, 0.5)


def rate(call: Callable[[int], Iterable[int]], tasks: int, *, most: int = 5, budget: float = 4.0) -> float:
    """Tasks per second: the median of up to `most` calls, no new one after `budget` seconds.

    `call(n)` runs n tasks that return their index, and must return them all in order.
    """
    rates: list[float] = []
    end = time.perf_counter() + budget
    while not rates or (len(rates) < most and time.perf_counter() < end):
        begin = time.perf_counter()
        results = list(call(tasks))
        rates.append(tasks / (time.perf_counter() - begin))
        if results != list(range(tasks)):
            raise RuntimeError(f"a map of {tasks} tasks returned wrong results")
    return percentile(rates, 0.5)


def makespan(call: Callable[[], Iterable[object]], *, most: int = 3, budget: float = 4.0) -> float:
    """Seconds until a map has all its results: the median of up to `most` calls, no new one after `budget` seconds."""
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while not seconds or (len(seconds) < most and time.perf_counter() < end):
        begin = time.perf_counter()
        for _ in call():
            pass
        seconds.append(time.perf_counter() - begin)
    return percentile(seconds, 0.5)


def paired_ratios(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[float]:
    """Figures of `first` over those of `second`, measured in turn so that both meet the same machine.

    Each pair begins with the other one, and one pair is measured to warm up.
    """
    ratios = []
    for number in range(pairs + 1):
        if number % 2:
            above = first()
            below = second()
        else:
            below = second()
            above = first()
        ratios.append(above / below)
    return ratios[1:]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def marked_processes(mark: str) -> list[int]:
    """Ids of all processes of this user whose environment has the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if wanted in environment.split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)


def command_line(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def parent(pid: int) -> int:
    """The process that a process is a child of."""
    return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time so far of each process that still runs, from /proc/<pid>/stat (proc(5))."""
    used = {}
    for pid in pids:
        try:
            text = (PROC / str(pid) / "stat").read_text()
        except OSError:
            continue
        # The second field is the program's name in parentheses and may hold blanks; utime and stime are 14 and 15.
        fields = text.rpartition(")")[2].split()
        used[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return used


def idle_percent(mark: str, seconds: float, settle: float = 2.0) -> float:
    """Per cent of one core that all marked processes together use while nobody asks them for anything."""
    time.sleep(settle)
    before, begin = cpu_seconds(marked_processes(mark)), time.monotonic()
    if not before:
        raise RuntimeError("no process of the cluster was found")
    time.sleep(seconds)
    after, elapsed = cpu_seconds(marked_processes(mark)), time.monotonic() - begin
    return 100 * sum(used - before.get(pid, 0.0) for pid, used in after.items()) / elapsed


def resident_mb(pid: int) -> float:
    """Resident memory (VmRSS) of a process in millions of bytes."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmRSS")


def proportional_mb(pid: int) -> float:
    """Memory of a process with its share of what others map, too (Pss, proc(5)): millions of bytes, 0 when it ended."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))


def wait_until(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.005) -> None:
    """Polls until the condition holds; an error that names `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)
