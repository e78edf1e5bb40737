"""However a cluster ends, and whatever its engines do then: nothing remains, and clients hear of it at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from harness.processes import parent_of
from harness.work import SLEEP, SPIN, keep_busy
from pxcluster import Client

pytestmark = pytest.mark.smoke


def stop(cluster: Cluster, _client: Client) -> None:
    outcome = cluster.command("stop")
    assert outcome.returncode == 0, outcome.stderr


def shutdown(_cluster: Cluster, client: Client) -> None:
    client.shutdown(hub=True)


def terminate_mpirun(cluster: Cluster, _client: Client) -> None:
    cluster.signal(signal.SIGTERM)


def interrupt_mpirun(cluster: Cluster, _client: Client) -> None:
    cluster.signal(signal.SIGINT)


def kill_mpirun(cluster: Cluster, _client: Client) -> None:
    cluster.signal(signal.SIGKILL)


def kill_controller(cluster: Cluster, _client: Client) -> None:
    os.kill(cluster.connection()["pid"], signal.SIGKILL)


def terminate_controller(cluster: Cluster, _client: Client) -> None:
    os.kill(cluster.connection()["pid"], signal.SIGTERM)


def terminate_rank_0(cluster: Cluster, _client: Client) -> None:
    os.kill(parent_of(cluster.connection()["pid"]), signal.SIGTERM)


ENDINGS = [
    stop,
    shutdown,
    terminate_mpirun,
    interrupt_mpirun,
    kill_mpirun,
    kill_controller,
    terminate_controller,
    terminate_rank_0,
]


def name_of(value: object) -> str:
    return str(getattr(value, "__name__", value))


def fails_at_once(client: Client) -> None:
    """A request to a cluster that has ended raises and does not wait."""
    with pytest.raises((OSError, ipp.error.IPythonError)) as caught:
        client.direct_view("all").apply_async(abs, -1).get(timeout=30)
    assert not isinstance(caught.value, TimeoutError)
    assert str(caught.value)


@pytest.mark.parametrize("end", ENDINGS, ids=name_of)
@pytest.mark.parametrize("code", [None, SLEEP, SPIN], ids=["idle", "sleeping", "spinning"])
def test_nothing_remains(
    new_cluster: Callable[..., Cluster], tmp_path: Path, code: str | None, end: Callable[[Cluster, Client], None]
) -> None:
    cluster = new_cluster(2)
    client = cluster.client()
    pending = [] if code is None else [keep_busy(client, code, tmp_path / "marks")]
    pending += [client[:].apply_async(abs, -1)] if code else []
    pending += [client.load_balanced_view().map_async(abs, range(100))] if code else []
    end(cluster, client)
    for result in pending:
        with pytest.raises((OSError, ipp.error.IPythonError)) as caught:
            result.get(timeout=30)
        assert not isinstance(caught.value, TimeoutError), f"{result} is still pending"
        assert str(caught.value)
    exit_code = cluster.wait_ended()
    if end is kill_mpirun:
        cluster.site.remove_shared_memory_of_open_mpi()
    cluster.site.wait_until_nothing_remains()
    fails_at_once(client)
    if end in (stop, shutdown) and code is None:
        assert exit_code == 0, cluster.log()
    assert "internal error" not in cluster.log()


def test_every_client_hears_of_the_end(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(1)
    first, second = cluster.client(), cluster.client()
    pending = keep_busy(first, SLEEP, tmp_path / "marks")
    second.shutdown(hub=True)
    cluster.wait_ended()
    with pytest.raises((OSError, ipp.error.IPythonError), match=r"stopped|ended|lost|closed"):
        pending.get(timeout=30)
    for client in (first, second):
        fails_at_once(client)
        client.close()
        client.close()


def test_a_client_that_leaves_stops_nothing(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(1)
    with cluster.client() as first:
        first[:]["kept"] = 1
        first.load_balanced_view().map_async(abs, range(10_000))
    with cluster.client() as second:
        assert second[:]["kept"] == [1]
        assert second.load_balanced_view().map_async(abs, range(10)).get(timeout=60) == list(range(10))
