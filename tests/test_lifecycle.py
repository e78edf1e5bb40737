"""Starting, finding and naming clusters, and what the command line says of them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable

import pytest
from harness.cluster import Cluster, Site
from harness.processes import is_alive, is_stopped, parent_of
from harness.waiting import wait_for
from pxcluster import Client

pytestmark = pytest.mark.smoke


def one_sentence(text: str, start: str = "pxcluster: ") -> str:
    """The only line of ours among what mpirun may say besides."""
    lines = [line for line in text.splitlines() if line.startswith(start)]
    assert len(lines) == 1, text
    return lines[0]


def test_start_status_stop(site: Site) -> None:
    started = site.run("pxcluster", "start", "-n", "3")
    assert (started.returncode, started.stderr) == (0, "")
    assert started.stdout.startswith("pxcluster: cluster 'default' is ready: 3 engines, connection file ")
    again = site.run("pxcluster", "start", "-n", "1")
    assert again.returncode == 1
    assert "cluster 'default' is already running" in one_sentence(again.stderr)
    text = site.run("pxcluster", "status")
    assert text.stdout.startswith("cluster 'default': 3 engines, up ")
    status = json.loads(site.run("pxcluster", "status", "--json").stdout)
    assert [engine["id"] for engine in status["engines"]] == [0, 1, 2]
    assert all(is_alive(engine["pid"]) for engine in status["engines"])
    assert (status["cluster_id"], status["host"]) == ("default", socket.gethostname())
    stopped = site.run("pxcluster", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "pxcluster: cluster 'default' is stopped\n"), stopped.stderr
    site.wait_until_nothing_remains()
    for command in ("status", "stop"):
        without = site.run("pxcluster", command)
        assert (without.returncode, without.stdout) == (1, "")
        assert "no cluster 'default' is running" in one_sentence(without.stderr)


def test_status_counts_what_is_done(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2)
    with cluster.client() as client:
        client[:].apply_sync(abs, -1)
        client.load_balanced_view().map_sync(abs, range(10))
        status = json.loads(cluster.command("status", "--json").stdout)
    assert sum(engine["completed"] for engine in status["engines"]) == 12
    assert status["clients"] == 2
    assert status["unassigned"] == 0


def test_one_rank_is_too_few(site: Site) -> None:
    cluster = Cluster(site, 0).launch()
    assert cluster.wait_ended() != 0
    assert "start at least two" in one_sentence(cluster.log())


def test_neither_a_rank_nor_a_command(site: Site) -> None:
    outcome = site.run("pxcluster")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "pxcluster start" in one_sentence(outcome.stderr)


@pytest.mark.parametrize("flags", [["--port", "99999"], ["--cluster-id", "../x"], ["--log", "loud"], ["--nonsense"]])
def test_bad_flags_of_a_rank(site: Site, flags: list[str]) -> None:
    cluster = Cluster(site, 1, *flags).launch()
    assert cluster.wait_ended() != 0
    assert f"error: {'unexpected argument' if flags[0] == '--nonsense' else 'invalid value'}" in cluster.log()
    assert flags[-1] in cluster.log()


def test_two_clusters_with_one_name(site: Site, new_cluster: Callable[..., Cluster]) -> None:
    first = new_cluster(1, site=site)
    second = Cluster(site, 1).launch()
    assert second.wait_ended() != 0
    assert "a cluster named 'default' is running already" in one_sentence(second.log())
    with first.client() as client:
        assert client[:].apply_sync(abs, -1) == [1]


def test_two_clusters_with_two_names(site: Site, new_cluster: Callable[..., Cluster]) -> None:
    clusters = [new_cluster(1, site=site), new_cluster(2, site=site, cluster_id="second")]
    assert [len(cluster.client()) for cluster in clusters] == [1, 2]
    assert clusters[0].command("stop").returncode == 0
    clusters[0].wait_ended()  # its mpirun, which is this process's child
    assert clusters[1].client()[:].apply_sync(abs, -1) == [1, 1]


def test_the_port_can_be_chosen(new_cluster: Callable[..., Cluster]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = new_cluster(1, "--port", str(port)).connection()["addresses"]
    assert addresses[-1] == f"127.0.0.1:{port}"
    assert all(address.endswith(f":{port}") for address in addresses)


def test_a_port_in_use(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cluster = Cluster(site, 2, "--port", str(port)).launch()
        assert cluster.wait_ended() != 0
        sentence = one_sentence(cluster.log())
        assert f"cannot listen on TCP port {port}" in sentence
        assert "--port" in sentence
        started = site.run("pxcluster", "start", "-n", "1", "--port", str(port))
        assert started.returncode == 1
        assert f"cannot listen on TCP port {port}" in started.stderr
    site.wait_until_nothing_remains()


def kill_without_clean_up(cluster: Cluster) -> None:
    """SIGKILL for everything, stopped before so that nobody cleans up; mpirun last, as its end wakes the others."""
    assert cluster.mpirun is not None
    controller = cluster.connection()["pid"]
    first = [controller, parent_of(controller)]
    last = cluster.mpirun.pid
    between = {process.pid for process in cluster.site.processes()} - {*first, last}
    everybody = [*first, *between, last]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(map(is_stopped, everybody)), "all processes stop")
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)
    cluster.mpirun.wait(60)
    wait_for(lambda: not cluster.site.processes(), "all processes end")


def test_what_a_killed_cluster_leaves(site: Site, new_cluster: Callable[..., Cluster]) -> None:
    dead = Cluster(site, 1).start()
    kill_without_clean_up(dead)
    assert dead.connection_file.exists()
    with pytest.raises(OSError, match="is stale") as caught:
        Client(connection_info=str(dead.connection_file), timeout=1)
    assert "\n" not in str(caught.value)
    status = site.run("pxcluster", "status")
    assert status.returncode == 1
    assert "is gone" in one_sentence(status.stderr)
    living = new_cluster(1, site=site)
    assert living.client()[:].apply_sync(abs, -1) == [1]


def test_stop_clears_what_a_killed_cluster_leaves(site: Site) -> None:
    dead = Cluster(site, 1).start()
    kill_without_clean_up(dead)
    assert dead.connection_file.exists()
    stopped = site.run("pxcluster", "stop")
    assert stopped.returncode == 1
    assert "was not running any more" in one_sentence(stopped.stderr)
    assert not dead.connection_file.exists()
    assert site.run("pxcluster", "start", "-n", "1").returncode == 0
    assert site.run("pxcluster", "stop").returncode == 0


def test_a_cluster_stops_while_it_starts(site: Site) -> None:
    cluster = Cluster(site, 2).launch()
    # MPICH's own launcher forgets a signal that comes before it has begun any rank.
    wait_for(lambda: any("pxcluster-rank" in process.command for process in site.processes()), "ranks begin")
    cluster.signal(signal.SIGTERM)
    cluster.wait_ended()
    site.wait_until_nothing_remains()
