"""Large data on several hosts: one copy on each, through one engine of each, which may die; all is given back."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.cluster import Cluster, Site
from harness.hosts import Hosts, missing
from harness.large import (
    LINKS,
    client_over,
    controller_of,
    data,
    pid_of,
    sums,
    uploading_client,
    wait_until_given_back,
)
from harness.memory import (
    MEGA,
    no_large_file_system,
    no_small_file_system,
    private_bytes,
    shared_bytes,
    shared_part_of,
    small_file_system,
)
from harness.processes import is_stopped
from harness.waiting import wait_for
from harness.work import keep_busy
from pxcluster import AsyncResult, Client, RemoteError, interactive

SIZE = 40 * MEGA
#: Engines by host where three hosts have three ranks each.
HERE, FIRST, SECOND = [0, 1], [2, 3, 4], [5, 6, 7]


@pytest.fixture(scope="module", autouse=True)
def _needs_hosts() -> None:
    if reason := missing() or no_large_file_system():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def spread() -> Iterator[Cluster]:
    """Three hosts: rank 0 and two engines, and twice three engines; for tests that leave it as it was."""
    site = Site()
    hosts = Hosts(site.base, ["n1", "n2"], 3)
    cluster = Cluster(site, hosts.engines, launcher=hosts.launcher)
    try:
        yield cluster.start()
        cluster.stop()
        site.wait_until_nothing_remains()
    finally:
        cluster.kill()
        site.remove()


@pytest.fixture
def everywhere(spread: Cluster) -> Iterator[Client]:
    """A client of it, all namespaces empty."""
    client = spread.client()
    client[:].clear(block=True)
    yield client
    spread.close_clients()


@pytest.fixture
def new_hosts(
    new_site: Callable[..., Site], new_cluster: Callable[..., Cluster], tmp_path: Path
) -> Callable[..., Cluster]:
    """Starts clusters of the test's own: names of the other hosts, ranks on each, variables by host."""

    def start(
        others: list[str], ranks: int, env: Mapping[str, Mapping[str, str]] | None = None, **options: str
    ) -> Cluster:
        hosts = Hosts(tmp_path, others, ranks, env)
        return new_cluster(hosts.engines, launcher=hosts.launcher, env=options)

    return start


def nodes_of(cluster: Cluster, rc: Client) -> list[int]:
    """A process of each host, rank 0's first."""
    engines = rc._session.registry.engines
    by_host = {engine["host"]: engine["pid"] for engine in engines.values()}
    by_host[os.uname().nodename] = controller_of(cluster)
    return [by_host.pop(os.uname().nodename), *(by_host[name] for name in sorted(by_host))]


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid), f"process {pid} is stopped")


def gone(rc: Client, *lost: int) -> None:
    wait_for(lambda: not set(lost) & set(rc.ids), lambda: f"{lost} are gone; there are {rc.ids}")


# -- who has what -----------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_engines_tell_their_hosts(everywhere: Client) -> None:
    names = everywhere[:].apply_sync(socket.gethostname)
    assert names == [os.uname().nodename] * 2 + ["n1"] * 3 + ["n2"] * 3
    assert [engine["host"] for engine in everywhere._session.registry.engines.values()] == names


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_each_host_has_one_copy(spread: Cluster, everywhere: Client, link: str) -> None:
    rc = client_over(spread, link)
    view, nodes = rc[:], nodes_of(spread, rc)
    wait_until_given_back(*nodes)
    view["x"] = data(MEGA)
    view.execute("x += 1; del x", block=True).get()  # what engines import for it is there
    begin = [private_bytes(pid_of(rc, engine)) for engine in range(8)]
    made = data(SIZE)
    view["x"] = made
    assert sums(rc, "x.sum()") == [int(made.sum())] * 8
    rc[3].execute("x[:] = 1", block=True).get()
    assert sums(rc, "x.sum()") == [SIZE if engine == 3 else int(made.sum()) for engine in range(8)]
    for pid in nodes:
        assert SIZE <= shared_bytes(pid) < SIZE + 6 * MEGA
    for engine in range(8):
        grown = private_bytes(pid_of(rc, engine)) - begin[engine]
        assert (grown > 0.9 * SIZE) == (engine == 3), grown
    for engines in (HERE, SECOND):
        parts = sum(shared_part_of(pid_of(rc, engine)) for engine in engines)
        assert 0.9 * SIZE < parts < 1.1 * SIZE
    view.execute("del x", block=True).get()
    wait_until_given_back(*nodes)


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_what_is_uploaded_goes_on_to_other_hosts_meanwhile(spread: Cluster, everywhere: Client, link: str) -> None:
    rc, (_, *others) = everywhere, nodes_of(spread, everywhere)
    wait_until_given_back(*others)

    def have() -> bool:
        return all(shared_bytes(pid) >= 16 * MEGA for pid in others)

    with uploading_client(spread, link) as finish:
        wait_for(have, lambda: f"the client waits until others have 16 MB, not {list(map(shared_bytes, others))} bytes")
        finish()
        assert sums(rc, "sent.sum()") == [200 * MEGA] * 8
        rc[:].clear(block=True)
    wait_until_given_back(*others)
    with uploading_client(spread, link):
        wait_for(have, "others have what the client had sent when it died")
    wait_until_given_back(*nodes_of(spread, rc))
    assert rc[:]["'sent' in globals()"] == [False] * 8
    array = data(SIZE)
    rc[:]["next"] = array
    assert sums(rc, "next.sum()") == [int(array.sum())] * 8


def catch_in_the_middle(rc: Client, engine: int) -> AsyncResult:
    """Pull ``x`` of the engine, which is stopped when the client has had a part of it and not all has been sent."""
    pid = pid_of(rc, engine)
    for _ in range(20):
        result = rc[engine].pull("x", block=False)
        wait_for(lambda result=result: parts_of(rc) or result.done(), "something comes")  # type: ignore[misc]
        stop(pid)
        if parts_of(rc) and not result.wait(1):
            return result
        os.kill(pid, signal.SIGCONT)
        result.get(timeout=60)
    raise AssertionError("the engine was never stopped in the middle")


def parts_of(rc: Client) -> list[int]:
    """Bytes of each buffer that a client has had before the answer that it belongs to."""
    begun: dict[int, tuple[memoryview, int]] = rc._session._decoder._begun  # type: ignore[attr-defined]
    return [upto for _, upto in list(begun.values()) if upto]


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_answers_of_other_hosts_go_on_to_the_client_meanwhile(new_hosts: Callable[..., Cluster], link: str) -> None:
    cluster = new_hosts(["n1"], 3)
    rc, array = client_over(cluster, link), data(300 * MEGA)
    rc[3, 4].push({"x": array}, block=True)
    rc[3].execute("x[-1] ^= 1", block=True).get()
    result = catch_in_the_middle(rc, 3)
    assert 0 < parts_of(rc)[0] < len(array)
    os.kill(pid_of(rc, 3), signal.SIGCONT)
    pulled = result.get(timeout=60)
    np.testing.assert_array_equal(pulled[:-1], array[:-1])
    assert pulled[-1] == array[-1] ^ 1
    catch = catch_in_the_middle(rc, 4)
    os.kill(pid_of(rc, 4), signal.SIGKILL)
    with pytest.raises(RemoteError, match="engine 4"):
        catch.get(timeout=60)
    wait_for(lambda: not parts_of(rc), "the client has forgotten it")
    rc[3].clear(block=True)
    gone(rc, 4)
    wait_until_given_back(*nodes_of(cluster, rc))
    rc[:]["next"] = array[: 20 * MEGA]
    parts = rc[:]["next"]
    for part in parts:
        np.testing.assert_array_equal(part, array[: 20 * MEGA])


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_a_gather_of_other_hosts_lands_in_the_result(spread: Cluster, everywhere: Client, link: str) -> None:
    rc = client_over(spread, link)
    array = data(8 * 9 * MEGA).view(np.float64)
    rc[:].scatter("part", array, block=True)
    for _ in range(3):
        gathered = rc[:].gather("part", block=True)
        np.testing.assert_array_equal(gathered, array)
        del gathered
    rc[2:7].scatter("uneven", array[:-5], block=True)
    np.testing.assert_array_equal(rc[2:7].gather("uneven", block=True), array[:-5])
    assert not parts_of(rc)


@pytest.mark.slow
@pytest.mark.smoke
def test_subsets_several_at_once_and_again(spread: Cluster, everywhere: Client) -> None:
    rc, nodes = everywhere, nodes_of(spread, everywhere)
    wait_until_given_back(*nodes)
    one = data(SIZE)
    rc[FIRST]["x"] = one
    assert [shared_bytes(pid) // SIZE for pid in nodes] == [1, 1, 0]
    rc[[4, 5]]["y"] = one
    assert [shared_bytes(pid) // SIZE for pid in nodes] == [2, 2, 1]
    rc[FIRST]["x"] = one
    rc[[4, 5]]["y"] = one
    several = {f"z{seed}": data(5 * MEGA + seed, seed) for seed in range(8)}
    subsets = [HERE, FIRST, SECOND, [1, 2, 7], [4, 6], [0, 3, 5], [7], list(range(8))]
    pushes = [
        rc[subset].push({name: several[name]}, block=False) for name, subset in zip(several, subsets, strict=True)
    ]
    for push in pushes:
        push.get(timeout=60)
    for name, subset in zip(several, subsets, strict=True):
        assert rc[:][f"{name!r} in globals()"] == [engine in subset for engine in range(8)]
        assert rc[subset][f"int({name}.sum())"] == [int(several[name].sum())] * len(subset)
    assert rc[FIRST]["int(x.sum())"] == [int(one.sum())] * 3
    assert rc[[4, 5]]["int(y.sum())"] == [int(one.sum())] * 2
    assert rc[:]["'y' in globals()"] == [engine in (4, 5) for engine in range(8)]
    rc[:].clear(block=True)
    wait_until_given_back(*nodes)


@pytest.mark.smoke
def test_many_push_at_once(spread: Cluster, everywhere: Client) -> None:
    failures: list[BaseException] = []

    def push(client: Client, who: int) -> None:
        try:
            for number in range(5):
                made = data((2 + number) * MEGA, 10 * who + number)
                client[:][f"of_{who}"] = made
                assert sums(client, f"of_{who}.sum()") == [int(made.sum())] * 8
        except BaseException as failure:
            failures.append(failure)

    clients = [everywhere, everywhere, *(client_over(spread, link) for link in LINKS)]
    threads = [threading.Thread(target=push, args=(client, who)) for who, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert failures == []


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_answers_come_from_all_hosts(spread: Cluster, everywhere: Client, link: str) -> None:
    rc = client_over(spread, link)
    view = rc[:]
    rows = data(16 * MEGA + 5)
    view.scatter("part", rows, block=True)
    assert (view.gather("part", block=True) == rows).all()
    view.scatter("who", range(8), flatten=True, block=True)
    view["x"] = rows
    rc[6].execute("x += who", block=True).get()
    for engine, got in enumerate(view["x"]):
        assert (got == rows + np.uint8(6 if engine == 6 else 0)).all()
    several = [rc[engine].pull(["x", "part"], block=False) for engine in (1, 3, 6, 7)]
    for engine, result in zip((1, 3, 6, 7), several, strict=True):
        x, part = result.get(timeout=60)
        assert (x == rows + np.uint8(6 if engine == 6 else 0)).all()
        assert (part == np.array_split(rows, 8)[engine]).all()


@pytest.mark.slow
@pytest.mark.smoke
def test_maps_and_shared_objects(spread: Cluster, everywhere: Client) -> None:
    table = np.arange(2_000_000)
    tasks = everywhere.load_balanced_view()
    assert tasks.map_sync(interactive(lambda n: int(table[n])), range(400)) == list(range(400))
    items = [np.full(400_000, n) for n in range(40)]
    for n, got in enumerate(tasks.map(interactive(lambda item: item + item), items)):
        assert (got.shape, bool((got == 2 * n).all())) == ((400_000,), True)
    handle = everywhere.put(table)
    assert everywhere[:].apply_sync(interactive(lambda t: int(t.sum())), handle) == [int(table.sum())] * 8
    everywhere[5].apply_sync(interactive(lambda t: t.fill(0)), handle)
    assert tasks.map_sync(interactive(lambda n, t: len(t) + n), range(200), [handle] * 200) == list(
        range(2_000_000, 2_000_200)
    )
    everywhere[:].push({"t": handle}, block=True)
    assert sums(everywhere, "t.sum()") == [0 if engine == 5 else int(table.sum()) for engine in range(8)]
    handle.release()
    everywhere[:].clear(block=True)
    wait_until_given_back(*nodes_of(spread, everywhere))


def test_an_engine_that_is_busy_serves_its_host(everywhere: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    busy = keep_busy(everywhere, code, tmp_path / "marks", [2, 5])
    made = data(SIZE)
    push = everywhere[:].push({"x": made}, block=False)
    others = [0, 1, 3, 4, 6, 7]
    assert everywhere[others]["int(x.sum())"] == [int(made.sum())] * 6
    assert not push.ready()
    go.touch()
    push.get(timeout=60)
    busy.get(timeout=60)
    assert sums(everywhere, "x.sum()") == [int(made.sum())] * 8


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


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB in memory."""
    if reason := no_small_file_system(tmp_path / "small"):
        pytest.skip(reason)
    with small_file_system(tmp_path / "small", 16) as path:
        yield path


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
