"""Measures a cluster from its client: the same code for pxcluster and for ipyparallel.

Started together with the cluster, in a process of its own. Prints JSON objects of figures; the last has them all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from clusters import Cluster
from data import data
from durations import uneven, with_straggler
from measure import (
    idle_percent,
    latency,
    makespan,
    marked_processes,
    paired_ratios,
    percentile,
    rate,
    resident_mb,
    wait_until,
)
from million import million
from ours import PxCluster
from payload import map_seconds
from peers.ipyparallel_peer import IPyParallel

CLUSTERS: dict[str, Cluster] = {cluster.module: cluster for cluster in (PxCluster(), IPyParallel())}

START_TIMEOUT = 120.0
#: A map of all tasks is measured only if it will take less than this many seconds.
LONGEST_MAP = 90.0


def nothing() -> None:
    """The call of the round trip."""


def connect(module: Any, connection_file: Path, engines: int) -> Any:
    """A client, as soon as it sees all engines."""
    make_client = module.Client
    wait_until(connection_file.exists, START_TIMEOUT, "the connection file")
    end = time.monotonic() + START_TIMEOUT
    while True:
        try:
            client = make_client()
            break
        except Exception:
            # The file may be there before it is whole, or before anybody listens.
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
    wait_until(lambda: len(client.ids) == engines, START_TIMEOUT, f"{engines} engines")
    return client


def connect_by_tls(cluster: Cluster, directory: Path) -> Any:
    """A client as on another machine, where the socket file in the connection file is not."""
    content = json.loads(cluster.connection_file(directory).read_text())
    return importlib.import_module(cluster.module).Client({**content, "socket": ""}, timeout=START_TIMEOUT)


def interpreter_mb() -> float:
    """Resident memory of this interpreter when it has nothing to do."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        resident = resident_mb(process.pid)
        process.stdin.close()
    return resident


def memory(cluster: Cluster, mark: str) -> dict[str, float]:
    """Resident memory of the controller, and of the median engine above a bare interpreter."""
    processes = marked_processes(mark)
    controller, engines = cluster.controller(processes), cluster.engines(processes)
    if not controller or not engines:
        raise RuntimeError("the processes of the controller and the engines were not found")
    engine = percentile([resident_mb(pid) for pid in engines], 0.5)
    return {
        "memory-controller": sum(resident_mb(pid) for pid in controller),
        "memory-engine": engine - interpreter_mb(),
    }


def map_rate(run_map: Callable[[int], Iterable[int]], tasks: int, sample: int) -> float:
    """Tasks per second of a map of `tasks`, or of `sample` tasks where all would take too long."""
    sampled = rate(run_map, sample, most=1)
    return sampled if tasks <= sample or tasks / sampled > LONGEST_MAP else rate(run_map, tasks)


def measure(client: Any, rows: list[str], options: argparse.Namespace) -> Iterator[tuple[str, float | list[float]]]:
    """What is measured after the start, in an order in which nothing disturbs what follows."""
    first, every, balanced = client[0], client[:], client.load_balanced_view()

    def run_map(tasks: int) -> Iterable[int]:
        results: Iterable[int] = balanced.map(lambda x: x, range(tasks), chunksize=1, block=True)
        return results

    first.apply_sync(nothing)
    every.execute("1+1", block=True)
    if "idle" in rows:
        yield "idle", idle_percent(options.mark, options.idle_seconds)
    if "apply" in rows:
        yield "apply", latency(lambda: first.apply_sync(nothing), options.calls)
    if "execute" in rows:
        yield "execute", latency(lambda: every.execute("1+1", block=True), options.calls)
    if "map" in rows:
        list(run_map(100))
        yield "map", map_rate(run_map, options.tasks, options.sample)
    for name, durations in (("uneven", uneven()), ("straggler", with_straggler(uneven()))):
        if name in rows:
            list(run_map(100))
            yield name, makespan(lambda: balanced.map(time.sleep, durations, chunksize=1, block=True))  # noqa: B023
    if "retries" in rows:
        again = client.load_balanced_view(retries=3)

        def run_again(tasks: int) -> Iterable[int]:
            results: Iterable[int] = again.map(lambda x: x, range(tasks), chunksize=1, block=True)
            return results

        yield (
            "retries",
            paired_ratios(
                lambda: rate(run_again, options.tasks, most=1),
                lambda: rate(run_map, options.tasks, most=1),
                options.pairs,
            ),
        )
    cluster = CLUSTERS[options.system]
    if any(row.startswith("million-") for row in rows):
        list(run_map(options.tasks))
        yield from million(run_map, cluster.controller(marked_processes(options.mark)))
    if "data-map" in rows:
        # The function is of this program, so that it travels as code.
        yield (
            "data-map",
            map_seconds(lambda arrays: balanced.map(lambda a: a + 1, arrays, block=True), options.transfers),
        )
    if any(row.startswith("data-") for row in rows):
        yield from data(client, lambda: connect_by_tls(cluster, options.directory), rows, options)


def main() -> None:
    """Measures what is asked for, and prints all figures so far whenever there is a new one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=CLUSTERS, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--mark", required=True, help="mark of the cluster's processes")
    parser.add_argument("--spawned", type=float, required=True, help="when it was started, by the monotonic clock")
    parser.add_argument("--rows", required=True, help="names with commas between")
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--sample", type=int, required=True, help="tasks of the first map")
    parser.add_argument("--transfers", type=int, required=True, help="most repetitions where arrays are moved")
    parser.add_argument("--pairs", type=int, required=True, help="pairs of measurements where two are compared")
    parser.add_argument("--idle-seconds", type=float, required=True)
    options = parser.parse_args()
    rows = options.rows.split(",")
    cluster = CLUSTERS[options.system]

    client = connect(
        importlib.import_module(cluster.module), cluster.connection_file(options.directory), options.engines
    )
    figures: dict[str, float | list[float]] = {f"start-{options.engines}": time.monotonic() - options.spawned}
    if (map_row := f"start-{options.engines}-map") in rows:
        begin = time.monotonic()
        list(client.load_balanced_view().map(lambda x: x, range(1000), block=True))
        figures[map_row] = time.monotonic() - begin
    if any(row.startswith("memory-") for row in rows):
        figures.update(memory(cluster, options.mark))
    print(json.dumps(figures), flush=True)
    if any(not row.startswith(("start-", "memory-")) for row in rows):
        for name, figure in measure(client, rows, options):
            figures[name] = figure
            print(json.dumps(figures), flush=True)
    client.close()


if __name__ == "__main__":
    main()
