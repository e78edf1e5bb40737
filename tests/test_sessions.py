"""Clients that vanish and return, that ask for what others did, and that do not read: every result, once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.cluster import Cluster
from harness.waiting import wait_for
from pxcluster import Client

PROGRAM = """
import json, sys, time
import pxcluster as ipp
rc = ipp.Client(sys.argv[1])
lbv = rc.load_balanced_view()
def square(n):
    import time
    time.sleep(0.0005)
    return n * n
result = lbv.map_async(square, range(20_000), chunksize=1)
pushed = rc[:].apply_async(str.upper, "afterwards")
while result.progress < 1000:
    rc.wait(timeout=0.01)
print(json.dumps([rc.session_name, result.msg_ids, pushed.msg_ids]), flush=True)
time.sleep(1000)
"""


def test_another_process_takes_the_place_of_one_that_was_killed_in_the_middle_of_a_map(cluster: Cluster) -> None:
    command = [sys.executable, "-c", PROGRAM, str(cluster.connection_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        name, mapped, pushed = json.loads(client.stdout.readline())
        client.kill()
    other = cluster.client()
    rc = cluster.client(resume=name)
    assert rc.session_name == name
    assert rc.get_result(mapped).get(timeout=120) == [n * n for n in range(20_000)]
    assert rc.get_result(pushed).get(timeout=60) == ["AFTERWARDS"] * 4
    assert rc.get_result(mapped[5]).get(timeout=60) == 25
    assert rc[:].apply_sync(abs, -1) == [1] * 4
    assert other.get_result(pushed[2]).get(timeout=60) == "AFTERWARDS"


def test_a_connection_that_breaks_in_the_middle_of_a_map_costs_nothing(cluster: Cluster, rc: Client) -> None:
    session = rc._session
    result = rc.load_balanced_view().map_async(abs, range(50_000), chunksize=1)
    arrived: list[int] = []
    for number, value in enumerate(result):
        arrived.append(value)
        if number % 10_000 == 500:
            session._channel.shutdown()
    assert arrived == list(range(50_000))
    assert rc[:].apply_sync(abs, -1) == [1] * 4
    assert session.lost is None


def test_another_client_fetches_by_msg_id_while_it_runs_and_afterwards(cluster: Cluster, rc: Client) -> None:
    result = rc.load_balanced_view().map_async(str, range(2000), chunksize=1)
    names = result.msg_ids
    other = cluster.client()
    assert other.get_result(names).get(timeout=60) == [str(n) for n in range(2000)]
    assert result.get(timeout=60) == [str(n) for n in range(2000)]
    executed = rc[0].execute("print('printed'); 6 * 7", silent=False)
    executed.get(timeout=60)
    rc.close()
    again = cluster.client().get_result(executed.msg_ids[0])
    assert again.get(timeout=60).data["text/plain"] == "42"
    assert again.stdout == "printed\n"
    with pytest.raises(KeyError, match="results are not kept any more"):
        other.get_result(f"{rc.session_name}_999")


def test_results_that_nobody_reads_wait_in_a_file(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(2, env={"PXCLUSTER_RESULTS_MEMORY": "1000000", "PXCLUSTER_SPILL_DIR": str(tmp_path)})
    rc = cluster.client()
    with rc._session._reading:  # nobody reads
        results = [rc[:].apply_async(bytes, 1 << 20) for _ in range(40)]
        watcher = cluster.client()
        wait_for(lambda: all(watcher.queue_status()[engine]["completed"] >= 40 for engine in (0, 1)), "all has run")
        assert list(tmp_path.iterdir()) == []
    for result in results:
        assert [len(value) for value in result.get(timeout=60)] == [1 << 20] * 2


def test_requests_beyond_the_bound_wait_in_the_client(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2, env={"PXCLUSTER_REQUESTS_MEMORY": "3000000"})
    rc = cluster.client()
    data = bytes(1 << 20)
    items = [bytes(1 << 20) for _ in range(100)]  # not one object, which would be sent once
    assert rc.load_balanced_view().map_sync(len, items) == [1 << 20] * 100
    results = [rc[:].apply_async(len, data) for _ in range(30)]
    assert [result.get(timeout=60) for result in results] == [[1 << 20] * 2] * 30
