"""Engines that die while large data go to several hosts, and hosts with little memory, or none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.cluster import Cluster
from harness.large import (
    LINKS,
    client_over,
    data,
    gone,
    nodes_of,
    pid_of,
    stop,
    sums,
    wait_until_given_back,
)
from harness.memory import (
    MEGA,
    shared_bytes,
)
from harness.waiting import wait_for
from pxcluster import interactive

pytestmark = pytest.mark.usefixtures("needs_hosts")

SIZE = 40 * MEGA


# -- engines die ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.smoke
def test_the_engine_that_serves_a_host_dies_before(new_hosts: Callable[..., Cluster]) -> None:
    cluster = new_hosts(["n1", "n2"], 3)
    rc = cluster.client()
    held = data(SIZE)
    rc[:]["held"] = held
    os.kill(pid_of(rc, 2), signal.SIGKILL)
    gone(rc, 2)
    made = data(SIZE, 2)
    rc[:]["x"] = made
    assert sums(rc, "x.sum()") == [int(made.sum())] * 7
    assert sums(rc, "held.sum()") == [int(held.sum())] * 7
    rc[:].clear(block=True)
    wait_until_given_back(*nodes_of(cluster, rc))


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_engines_that_serve_a_host_die_in_the_middle(new_hosts: Callable[..., Cluster], link: str) -> None:
    cluster = new_hosts(["n1", "n2"], 3)
    rc = client_over(cluster, link)
    watcher, nodes = cluster.client(), nodes_of(cluster, rc)
    victims = [pid_of(rc, 2), pid_of(rc, 3)]
    stop(victims[0])
    arrays = {f"x{seed}": data(SIZE, seed) for seed in range(3)}
    pushes = [rc[:].push({name: made}, block=False) for name, made in arrays.items()]
    # The other host goes on as far as the slowest may be behind.
    wait_for(lambda: shared_bytes(nodes[2]) >= 8 * MEGA, "the push is under way")
    assert not any(part.ready() for push in pushes for part in push.split()[2:5])
    stop(victims[1])  # the next one to serve this host
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    gone(watcher, 2, 3)
    for push in pushes:
        for engine, part in enumerate(push.split()):
            if engine not in (2, 3):
                part.get(timeout=60)
    for name, made in arrays.items():
        assert sums(rc, f"{name}.sum()") == [int(made.sum())] * 6
    rc[:].clear(block=True)
    wait_until_given_back(*nodes)


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("alone", [False, True], ids=["and others of its host go on", "and was the last of its host"])
def test_an_engine_that_serves_other_hosts_dies_in_the_middle(new_hosts: Callable[..., Cluster], alone: bool) -> None:
    """Data go along a tree: some hosts get them through the engine that dies."""
    cluster = new_hosts(["n1", "n2", "n3", "n4", "n5"], 2)
    rc = cluster.client()
    nodes = nodes_of(cluster, rc)
    # Host n1 has engines 1 and 2.
    victims = [1, 2] if alone else [1]
    for engine in victims:
        stop(pid_of(rc, engine))
    arrays = {f"x{seed}": data(SIZE, seed) for seed in range(3)}
    pushes = [rc[:].push({name: made}, block=False) for name, made in arrays.items()]
    wait_for(lambda: any(shared_bytes(pid) >= 8 * MEGA for pid in nodes[2:]), "the push is under way")
    assert not any(part.ready() for push in pushes for part in push.split()[3:])
    for engine in victims:
        os.kill(pid_of(rc, engine), signal.SIGKILL)
    gone(rc, *victims)
    for push in pushes:
        for engine, part in enumerate(push.split()):
            if engine not in victims:
                part.get(timeout=60)
    for name, made in arrays.items():
        assert sums(rc, f"{name}.sum()") == [int(made.sum())] * (11 - len(victims))
    rc[:].clear(block=True)
    wait_until_given_back(*(pid for at, pid in enumerate(nodes) if at != 1 or not alone))


@pytest.mark.smoke
def test_an_engine_that_has_served_its_own_host_dies_while_others_wait_for_it(
    new_hosts: Callable[..., Cluster],
) -> None:
    cluster = new_hosts(["n1", "n2", "n3"], 3)
    rc = cluster.client()
    slow = [pid_of(rc, engine) for engine in (5, 8)]  # each serves its host; one of them is served by engine 2
    for pid in slow:
        stop(pid)
    made = data(24 * MEGA)
    push = rc[:].push({"x": made}, block=False)
    parts = push.split()
    for engine in (2, 3, 4):
        parts[engine].get(timeout=60)
    os.kill(pid_of(rc, 2), signal.SIGKILL)
    gone(rc, 2)
    for pid in slow:
        os.kill(pid, signal.SIGCONT)
    for engine, part in enumerate(parts):
        assert part.wait(60), f"engine {engine} has not got it"
    gone(rc, 2)
    assert sums(rc, "x.sum()") == [int(made.sum())] * 10


@pytest.mark.smoke
def test_engines_are_killed_while_pushes_go_on(new_hosts: Callable[..., Cluster]) -> None:
    cluster = new_hosts(["n1", "n2", "n3"], 3)
    rc = cluster.client()
    everybody = rc.direct_view()
    arrays = {f"x{seed}": data(6 * MEGA, seed) for seed in range(12)}
    pushes = []
    for number, (name, made) in enumerate(arrays.items()):
        pushes.append(everybody.push({name: made}, block=False))
        if number in (3, 6, 9):
            pushes[number - 3].split()[-1].get(timeout=60)
            os.kill(pid_of(rc, {3: 2, 6: 5, 9: 3}[number]), signal.SIGKILL)
    for push in pushes:
        for part in push.split():
            assert part.wait(60)
    gone(rc, 2, 5, 3)
    assert rc.ids == [0, 1, 4, 6, 7, 8, 9, 10]
    for name, made in arrays.items():
        assert sums(rc, f"{name}.sum()") == [int(made.sum())] * 8


# -- a host with little memory ----------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("host", ["n1", "n5"])
def test_a_host_without_room_gets_copies(small: Path, new_hosts: Callable[..., Cluster], host: str) -> None:
    others = ["n1", "n2", "n3", "n4", "n5"]
    cluster = new_hosts(others, 2, {host: {"PXCLUSTER_SHM_DIR": str(small)}})
    rc = cluster.client()
    for seed in range(12):
        made = data(SIZE + 10 * seed, seed)
        rc[:]["x"] = made
        assert sums(rc, "x.sum()") == [int(made.sum())] * 11, seed
        if seed % 4 == 1:
            rc[:].clear(block=True)
    little = data(3 * MEGA)
    rc[:]["little"] = little
    assert sums(rc, "little.sum()") == [int(little.sum())] * 11
    nodes = nodes_of(cluster, rc)
    assert shared_bytes(nodes[1 + others.index(host)]) <= 16 * MEGA
    rc[:].clear(block=True)


@pytest.mark.smoke
def test_a_host_without_room_leaves_no_holes_in_what_it_passes_on(
    small: Path, new_hosts: Callable[..., Cluster]
) -> None:
    cluster = new_hosts(["n1", "n2", "n3"], 3, {"n1": {"PXCLUSTER_SHM_DIR": str(small)}})
    rc = cluster.client()
    rc[:].apply_sync(interactive(lambda array: int(array.sum())), np.ones(10))  # NumPy is imported
    slow = [pid_of(rc, engine) for engine in (5, 8)]  # each serves its host; one of them is served by engine 2
    for pid in slow:
        stop(pid)
    made = np.ones(2 * SIZE, dtype=np.uint8)
    parts = rc[:].apply_async(interactive(lambda array: int(array.sum())), made).split()
    for engine in (2, 3, 4):
        assert parts[engine].get(timeout=60) == 2 * SIZE
    for pid in slow:
        os.kill(pid, signal.SIGCONT)
    assert "no room for a buffer in shared memory" in cluster.log()
    # They add up at once what they have been told is there.
    assert [part.get(timeout=60) for part in parts] == [2 * SIZE] * 11


@pytest.mark.smoke
def test_hosts_without_shared_memory_get_copies(new_hosts: Callable[..., Cluster]) -> None:
    cluster = new_hosts(["n1", "n2"], 2, PXCLUSTER_SHARED_MEMORY="0")
    rc = cluster.client()
    made: Any = data(SIZE)
    rc[:]["x"] = made
    assert sums(rc, "x.sum()") == [int(made.sum())] * 5
    assert (rc[4]["x"] == made).all()
    assert [shared_bytes(pid) for pid in nodes_of(cluster, rc)] == [0, 0, 0]


@pytest.mark.smoke
@pytest.mark.parametrize("way", ["mpi", "tree"])
def test_both_ways_to_other_hosts_bring_the_same(new_hosts: Callable[..., Cluster], way: str) -> None:
    cluster = new_hosts(["n1", "n2"], 3, PXCLUSTER_BROADCAST=way)
    rc = cluster.client()
    for size in (MEGA, 4 * MEGA, 4 * MEGA + 1, SIZE, SIZE + 12_345):
        made = data(size)
        rc[:]["x"] = made
        assert sums(rc, "x.sum()") == [int(made.sum())] * 8
        assert all((rc[engine]["x"] == made).all() for engine in (1, 4, 7))
    results = [rc[:].push({f"y{number}": data(SIZE + number)}, block=False) for number in range(4)]
    rc[[0, 5]].push({"z": data(SIZE)}, block=True)
    for number, result in enumerate(results):
        result.get(timeout=120)
        assert sums(rc, f"y{number}.sum()") == [int(data(SIZE + number).sum())] * 8
    # From here on one of those that took part in MPI's broadcast is dead.
    os.kill(pid_of(rc, 2), signal.SIGKILL)
    gone(rc, 2)
    made = data(SIZE)
    rc[:]["x"] = made
    assert sums(rc, "x.sum()") == [int(made.sum())] * 7
    nodes = nodes_of(cluster, rc)
    rc[:].clear(block=True)
    wait_until_given_back(*nodes)
