"""Large data on several hosts: one copy on each, through one engine of each, which may die; all is given back."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness.cluster import Cluster, Site
from harness.hosts import Hosts
from harness.large import (
    LINKS,
    client_over,
    data,
    gone,
    nodes_of,
    pid_of,
    stop,
    sums,
    uploading_client,
    wait_until_given_back,
)
from harness.memory import (
    MEGA,
    private_bytes,
    shared_bytes,
    shared_part_of,
)
from harness.waiting import wait_for
from harness.work import keep_busy
from pxcluster import AsyncResult, Client, RemoteError, interactive

pytestmark = pytest.mark.usefixtures("needs_hosts")

SIZE = 40 * MEGA
#: Engines by host where three hosts have three ranks each.
HERE, FIRST, SECOND = [0, 1], [2, 3, 4], [5, 6, 7]


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
