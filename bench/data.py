"""Moving arrays between a client and its engines: the same code for pxcluster and for ipyparallel."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import latency, marked_processes, percentile, proportional_mb
from payload import SIZE, WARM_UP, check_sums, make_array, repeat, timed_push

PUSHER = Path(__file__).resolve().parent / "pusher.py"
#: Seconds that a cluster gets to give back what it needed for a moment.
SETTLE = 1.0
#: Engines that answer round trips while the others receive.
ANSWERING = 4


def sums_of(view: Any, name: str) -> Callable[[Any], Iterable[float]]:
    """Reads the whole array of this name on every engine of a view."""

    def sums(_: Any) -> Iterable[float]:
        view.execute(f"{name}_sum = float({name}.sum())", block=True)
        found: Iterable[float] = view.pull(f"{name}_sum", block=True)
        return found

    return sums


def cluster_mb(mark: str) -> float:
    """Memory of all processes of the cluster: a page that n processes share counts once, not n times."""
    return sum(proportional_mb(pid) for pid in marked_processes(mark))


@contextmanager
def copies() -> Iterator[list[float]]:
    """Adds the seconds that our client takes to copy arrays into shared memory to the first number of the list."""
    from pxcluster.sharedmemory import SharedMemory

    seconds, write = [0.0], SharedMemory.write

    def timed_write(*args: Any) -> None:
        begin = time.perf_counter()
        write(*args)
        seconds[0] += time.perf_counter() - begin

    SharedMemory.write = timed_write  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        SharedMemory.write = write  # type: ignore[method-assign]


def pushes(client: Any, rows: list[str], options: Namespace) -> Iterator[tuple[str, float]]:
    """The first push with the memory that it takes, and those after it, to all engines as `a`."""
    every = client[:]
    sums = sums_of(every, "a")
    array = make_array()
    # Engines that have numpy and know all that is asked of them: what is cold is the memory for the array.
    every.execute("import numpy", block=True)
    small = make_array(8_000)
    timed_push(small, 0, lambda: every.push({"a": small}, block=True), sums, options.engines)

    def timed(view: Any) -> Callable[[int], float]:
        return lambda number: timed_push(
            array, number, lambda: view.push({"a": array}, block=True), sums, options.engines
        )

    time.sleep(SETTLE)
    before = cluster_mb(options.mark)
    yield "data-push-first", timed(every)(0)
    time.sleep(SETTLE)
    yield "data-memory", (cluster_mb(options.mark) - before) * 1e6 / SIZE
    if "data-push" in rows:
        yield "data-push", repeat(timed(every), most=options.transfers, warm_up=WARM_UP)
        if type(client).__module__.startswith("pxcluster"):
            with copies() as copied:

                def without_copy(number: int) -> float:
                    copied[:] = [0.0]
                    return timed(every)(number) - copied[0]

                yield "data-push-warm", repeat(without_copy, most=options.transfers)
        broadcast = client.broadcast_view()
        yield "data-push-broadcast", repeat(timed(broadcast), most=options.transfers, warm_up=WARM_UP)


def timed_fetch(fetch: Callable[[], Any], number: int) -> float:
    """Seconds until this array is here."""
    begin = time.perf_counter()
    array = fetch()
    seconds = time.perf_counter() - begin
    check_sums([array.sum()], number, 1)
    return seconds


def fetches(client: Any, rows: list[str], transfers: int, suffix: str = "") -> Iterator[tuple[str, float]]:
    """One engine's whole array, and an array of which every engine has a part."""
    array = make_array()
    array[0] = transfers
    if f"data-pull{suffix}" in rows:
        client[0].push({"p": array}, block=True)
        yield f"data-pull{suffix}", repeat(lambda _: timed_fetch(lambda: client[0]["p"], transfers), most=transfers)
        client[0].execute("del p", block=True)
    if f"data-gather{suffix}" in rows:
        every = client[:]
        every.scatter("x", array, block=True)
        yield (
            f"data-gather{suffix}",
            repeat(lambda _: timed_fetch(lambda: every.gather("x", block=True), transfers), most=transfers),
        )
        every.execute("del x", block=True)


def round_trips_during_pushes(client: Any, options: Namespace) -> Iterator[tuple[str, float]]:
    """`%px x = 1` on some engines, while nothing else happens and while another client pushes to the other engines."""
    view = client[:ANSWERING]

    def call() -> None:
        view.execute("x = 1", silent=False, block=True)

    idle = latency(call, options.calls)
    yield "data-px-idle", idle
    command = [
        sys.executable,
        str(PUSHER),
        f"--system={options.system}",
        f"--directory={options.directory}",
        f"--engines={options.engines}",
        f"--first={ANSWERING}",
    ]
    trips = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pusher:
        assert pusher.stdin is not None
        assert pusher.stdout is not None
        if pusher.stdout.readline() != "ready\n":
            raise RuntimeError("the second client did not get ready to push")
        pusher.stdin.close()
        while pusher.poll() is None:
            begin = time.perf_counter()
            call()
            trips.append((begin, time.perf_counter() - begin))
        windows = [json.loads(line) for line in pusher.stdout]
    if pusher.returncode != 0:
        raise RuntimeError(f"the second client ended with {pusher.returncode}")
    during = [seconds for begin, seconds in trips if any(start <= begin < end for start, end in windows)]
    if not during:
        raise RuntimeError("no round trip began during a push")
    pushing = percentile(during, 0.5)
    yield "data-px-pushing", pushing
    yield "data-px", pushing / idle


def data(
    client: Any, connect_by_tls: Callable[[], Any], rows: list[str], options: Namespace
) -> Iterator[tuple[str, float]]:
    """What is asked for of all this; memory first, while no earlier push has left any to be used again."""
    if {"data-push", "data-push-first", "data-memory"} & set(rows):
        yield from pushes(client, rows, options)
    yield from fetches(client, rows, options.transfers)
    if any(row.endswith("-tls") for row in rows):
        remote = connect_by_tls()
        yield from fetches(remote, rows, options.transfers, "-tls")
        remote.close()
    if any(row.startswith("data-px") for row in rows):
        yield from round_trips_during_pushes(client, options)
