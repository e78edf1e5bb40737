"""Large buffers in the shared memory of one host: one copy for all readers, writes are one's own, all is given back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.cluster import Cluster
from harness.large import (
    LINKS,
    client_over,
    connection_over,
    controller_of,
    data,
    pid_of,
    sums,
    uploading_client,
    wait_until_given_back,
)
from harness.memory import (
    GIGA,
    MEGA,
    Peak,
    available_bytes,
    no_large_file_system,
    private_bytes,
    shared_bytes,
)
from harness.processes import is_stopped
from harness.waiting import wait_for
from harness.work import keep_busy
from pxcluster import Client, interactive


@pytest.fixture(scope="module", autouse=True)
def _needs_shared_memory() -> None:
    if reason := no_large_file_system():
        pytest.skip(reason)


#: What the bookkeeping of processes may take while data pass.
LITTLE = 6 * MEGA


# -- one copy ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.smoke
def test_engines_read_one_copy_and_each_writes_to_its_own(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(4)
    rc = cluster.client()
    view, controller, engines = rc[:], controller_of(cluster), [pid_of(rc, engine) for engine in range(4)]
    size = 40 * MEGA
    assert shared_bytes(controller) == 0
    view["x"] = data(2 * MEGA)
    view.execute("x += 1; del x", block=True).get()  # what engines import for it is there
    begin = [private_bytes(pid) for pid in engines]

    def growth() -> list[int]:
        return [private_bytes(pid) - before for pid, before in zip(engines, begin, strict=True)]

    array = data(size)
    view["x"] = array
    assert sums(rc, "x.sum()") == [int(array.sum())] * 4
    assert size <= shared_bytes(controller) <= size + LITTLE
    assert max(growth()) < LITTLE, growth()
    rc[1].execute("x += 1", block=True).get()
    assert sums(rc, "x[:1000].sum()")[0] == int(array[:1000].sum())
    assert shared_bytes(controller) <= size + LITTLE
    assert [grown > 0.9 * size for grown in growth()] == [False, True, False, False], growth()
    rc[1].execute("del x", block=True).get()
    wait_for(lambda: growth()[1] < LITTLE, lambda: f"engine 1 gives back what it wrote to: {growth()}")


@pytest.mark.slow
@pytest.mark.smoke
def test_what_no_engine_needs_is_given_back(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(4)
    rc = cluster.client()
    view = rc[:]
    view["cleared"] = data(7 * MEGA)
    view.clear(block=True)
    view.push({"deleted": data(11 * MEGA), "overwritten": data(13 * MEGA), "kept": data(17 * MEGA)}, block=True)
    view.execute("del deleted", block=True).get()
    view["overwritten"] = 1
    view.apply_sync(interactive(len), data(19 * MEGA))
    handle = rc.put(data(23 * MEGA))
    assert view.apply_sync(interactive(len), handle) == [23 * MEGA] * 4
    handle.release()
    view.scatter("parts", data(29 * MEGA), block=True)
    view.execute("del parts", block=True).get()
    assert sum(map(len, view.pull("kept", block=True))) == 4 * 17 * MEGA
    controller = controller_of(cluster)
    # The sizes are such that what is left tells what it was.
    wait_for(
        lambda: shared_bytes(controller) == 17 * MEGA, lambda: f"17 MB are left, not {shared_bytes(controller) / MEGA}"
    )
    view.execute("del kept", block=True).get()
    wait_until_given_back(controller)


# -- what is whose ----------------------------------------------------------------------------------------------------


@interactive
def spoil(array: Any, by: int) -> tuple[bool, int, int]:
    before = int(array.sum())
    writeable = array.flags.writeable
    for _ in range(5):
        array += by
    return writeable, before, int(array.astype("i8").sum())


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_what_one_engine_writes_no_other_sees(cluster: Cluster, rc: Client, link: str) -> None:
    rc = client_over(cluster, link)
    view = rc[:]
    made = np.arange(500_000)
    total = int(made.sum())
    as_before = (True, total, total + 5 * 3 * len(made))
    assert view.apply_sync(spoil, made, 3) == [as_before] * 4
    assert view.apply_sync(spoil, made, by=3) == [as_before] * 4
    handle = rc.put(made)
    for engine in range(4):  # what an engine writes to a shared object stays there, and nowhere else
        assert rc[engine].apply_sync(spoil, handle, 3) == as_before
    view["x"] = made
    rc[2].execute("x[:] = 7", block=True).get()
    assert sums(rc, "x.sum()") == [total, total, 7 * len(made), total]
    back = rc[0]["x"]
    back[:] = 9
    assert [int(got.sum()) for got in view["x"]] == [total, total, 7 * len(made), total]
    view.scatter("part", made, block=True)
    rc[1].execute("part[:] = 0", block=True).get()
    expected = made.copy()
    expected[125_000:250_000] = 0
    np.testing.assert_array_equal(view.gather("part", block=True), expected)
    assert int(made.sum()) == total


def test_a_forked_child_keeps_what_it_has(rc: Client, tmp_path: Path) -> None:
    """As it would with memory of its own, although its engine lets go of it and the place is used again."""
    size = 8 * MEGA
    first = data(size, 1)
    rc[0]["x"] = first
    go, answer = tmp_path / "go", tmp_path / "answer"
    rc[0].execute(
        "import os, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        f"    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        f"    open({str(answer)!r}, 'w').write(str(int(x.sum())) + ';')\n"
        "    os._exit(0)\n",
        block=True,
    ).get()
    rc[0].execute("del x", block=True).get()
    for number in range(2, 6):
        rc[0]["y"] = data(size, number)
        assert rc[0]["int(y.sum())"] == int(data(size, number).sum())
    go.touch()
    wait_for(lambda: answer.exists() and answer.read_text().endswith(";"), "the child answers")
    rc[0].execute("os.waitpid(child, 0)", block=True).get()
    assert answer.read_text() == f"{int(first.sum())};"


# -- who pushes, and to whom ------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_subsets_and_a_busy_engine(rc: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    busy = keep_busy(rc, code, tmp_path / "marks", 1)
    arrays = [data(5 * MEGA, seed) for seed in range(4)]
    both = rc[[1, 3]].push({"x": arrays[0]}, block=False)
    rc[[0, 2]].push({"x": arrays[1]}, block=True)
    everybody = rc[:].push({"y": arrays[2]}, block=False)
    rc[3].push({"z": arrays[3]}, block=True)
    for engine, array in ((0, arrays[1]), (2, arrays[1]), (3, arrays[0])):
        np.testing.assert_array_equal(rc[engine]["x"], array)
        np.testing.assert_array_equal(rc[engine]["y"], arrays[2])
    assert not both.ready()
    assert not everybody.ready()
    go.touch()
    for result in (busy, both, everybody):
        result.get(timeout=60)
    np.testing.assert_array_equal(rc[1]["x"], arrays[0])
    np.testing.assert_array_equal(rc[1]["y"], arrays[2])
    assert rc[:]["'z' in globals()"] == [False, False, False, True]


PUSHES = """
import json, sys
import numpy as np
import pxcluster as ipp
rc = ipp.Client(json.loads(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(6):
    made = np.random.default_rng(100 * int(sys.argv[2]) + number).integers(0, 256, (2 + number) << 20, dtype=np.uint8)
    rc[:]["of_process_" + sys.argv[2]] = made
    assert rc[:]["int(of_process_%s.sum())" % sys.argv[2]] == [int(made.sum())] * 4
"""


@pytest.mark.smoke
def test_many_push_at_once(cluster: Cluster, rc: Client) -> None:
    failures: list[BaseException] = []

    def push(client: Client, who: int) -> None:
        try:
            for number in range(6):
                made = data((2 + number) * MEGA, 10 * who + number)
                client[:][f"of_{who}"] = made
                assert sums(client, f"of_{who}.sum()") == [int(made.sum())] * 4
        except BaseException as failure:
            failures.append(failure)

    links = ["unix", "tls", "unix"]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PUSHES, json.dumps(connection_over(cluster, link)), str(who)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who, link in enumerate(links)
    ]
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        own = [client_over(cluster, link) for link in links]
        threads = [
            threading.Thread(target=push, args=(client, who)) for who, client in enumerate([rc, rc, rc, *own], start=1)
        ]
        for thread in threads:
            thread.start()
        for program in programs:
            program.communicate("go\n", timeout=90)
            assert program.returncode == 0
        for thread in threads:
            thread.join(90)
            assert not thread.is_alive()
        assert failures == []
    finally:
        for program in programs:
            program.kill()
            program.wait()


# -- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.smoke
def test_an_engine_that_dies_takes_no_memory_with_it(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(4)
    rc = cluster.client()
    held = data(20 * MEGA)
    rc[:]["held"] = held
    victim = pid_of(rc, 2)
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: is_stopped(victim), "engine 2 is stopped")
    arrays = [data(5 * MEGA, seed) for seed in range(8)]
    pushes = [rc[:].push({f"x{seed}": array}, block=False) for seed, array in enumerate(arrays)]
    wait_for(lambda: shared_bytes(controller_of(cluster)) > 30 * MEGA, "engine 2 is in the middle of pushes")
    os.kill(victim, signal.SIGKILL)
    for push in pushes:
        for engine, part in enumerate(push.split()):
            if engine != 2:
                part.get(timeout=60)
    wait_for(lambda: rc.ids == [0, 1, 3], "engine 2 is gone")
    for seed, array in enumerate(arrays):
        assert sums(rc, f"x{seed}.sum()") == [int(array.sum())] * 3
    assert sums(rc, "held.sum()") == [int(held.sum())] * 3
    rc[:].clear(block=True)
    wait_until_given_back(controller_of(cluster))


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
def test_a_client_that_is_killed_while_it_uploads(
    new_cluster: Callable[..., Cluster], link: str, is_warm: bool
) -> None:
    cluster = new_cluster(2)
    rc, controller = cluster.client(), controller_of(cluster)
    kept = data(3 * MEGA)
    rc[:]["kept"] = kept
    if is_warm:  # a place that has its pages waits for the upload
        rc[:].apply_sync(interactive(len), np.ones(200 * MEGA, dtype=np.uint8))
    with uploading_client(cluster, link):
        wait_for(lambda: shared_bytes(controller) >= 20 * MEGA, "the upload is under way")
    wait_for(
        lambda: shared_bytes(controller) == 3 * MEGA, lambda: f"3 MB are left, not {shared_bytes(controller) / MEGA}"
    )
    assert sums(rc, "kept.sum()") == [int(kept.sum())] * 2
    rc[:]["next"] = kept
    assert sums(rc, "next.sum()") == [int(kept.sum())] * 2
    assert rc[:]["'never' in globals()"] == [False] * 2


# -- little memory, or none -------------------------------------------------------------------------------------------


def everything_works(rc: Client, size: int = 3 * MEGA) -> None:
    view, made = rc[:], data(size)
    view["x"] = made
    assert sums(rc, "x.sum()") == [int(made.sum())] * len(rc)
    rc[1].execute("x[0] ^= 1", block=True).get()
    back = view["x"]
    assert [int(array[0] ^ made[0]) for array in back] == [0, 1, *[0] * (len(rc) - 2)]
    for array in back:
        np.testing.assert_array_equal(array[1:], made[1:])
    view.scatter("part", made, block=True)
    np.testing.assert_array_equal(view.gather("part", block=True), made)
    items = [data(size, seed) for seed in range(8)]
    doubled = rc.load_balanced_view().map_sync(interactive(lambda array: array + array), items)
    for array, item in zip(doubled, items, strict=True):
        np.testing.assert_array_equal(array, item + item)
    handle = rc.put(made)
    assert view.apply_sync(interactive(lambda array: int(array.sum())), handle) == [int(made.sum())] * len(rc)


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("bound", [0, 1, 8_000_000])
def test_bounds(new_cluster: Callable[..., Cluster], bound: int, link: str) -> None:
    cluster = new_cluster(3, env={"PXCLUSTER_SHARED_MEMORY": str(bound)})
    rc = client_over(cluster, link)
    begin = [private_bytes(pid_of(rc, engine)) for engine in range(3)]
    large = data(20 * MEGA)
    rc[:]["large"] = large
    assert sums(rc, "large.sum()") == [int(large.sum())] * 3
    grown = [private_bytes(pid_of(rc, engine)) - before for engine, before in enumerate(begin)]
    assert min(grown) >= 20 * MEGA, grown  # copies, because there is no room
    everything_works(rc)
    assert shared_bytes(controller_of(cluster)) <= bound


@pytest.mark.smoke
def test_a_file_system_that_is_full(small: Path, new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(3, env={"PXCLUSTER_SHM_DIR": str(small)})
    rc, remote = cluster.client(), client_over(cluster, "tls")
    (small / "of somebody else").write_bytes(bytes(12 * MEGA))  # now there is less than the controller saw at the start
    made = data(10 * MEGA)
    with pytest.warns(RuntimeWarning, match="shared memory of the cluster's host is full.*copied to each engine"):
        rc[:]["x"] = made
    assert sums(rc, "x.sum()") == [int(made.sum())] * 3
    remote[:]["y"] = made
    assert sums(rc, "y.sum()") == [int(made.sum())] * 3
    rc[0].execute("x += 1", block=True).get()
    for client in (rc, remote):  # answers find no room either
        np.testing.assert_array_equal(client[0]["x"], made + np.uint8(1))
        for array in client[:]["y"]:
            np.testing.assert_array_equal(array, made)
    assert rc.load_balanced_view().map_sync(interactive(lambda n: bytes(9_000_000 + n)), range(6)) == [
        bytes(9_000_000 + n) for n in range(6)
    ]
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        everything_works(rc)
        everything_works(remote)
    (small / "of somebody else").unlink()
    rc[:].clear(block=True)
    everything_works(rc, 2 * MEGA)


# -- gigabytes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", ["array", "bytes"])
def test_gigabytes_pass_the_controller_by(new_cluster: Callable[..., Cluster], link: str, kind: str) -> None:
    if (there := available_bytes()) < 10 * GIGA:
        pytest.skip(f"only {there / GIGA:.1f} GB of memory are available")
    cluster = new_cluster(2)
    rc = client_over(cluster, link)
    made: Any
    if kind == "array":
        made = np.zeros(3 * GIGA, dtype=np.uint8)
        made[::4096] = np.arange(3 * GIGA // 4096) % 251
        view = rc[:]
        check = (
            "(x.nbytes, (x[::4096] == __import__('numpy').arange(len(x) // 4096) % 251).all(), int(x[1::4096].max()))"
        )
        expected = (3 * GIGA, True, 0)
    else:
        made = data(3 * MEGA).tobytes() * 768  # more than a C int counts
        view = rc[[0]]  # a bytes object is the engine's own
        same = "all(x[at:at + 64] == x[:64] for at in range(0, len(x), 3 << 20))"
        check = f"(type(x).__name__, len(x), {same})"
        expected = ("bytes", 9 * GIGA // 4, True)
    with Peak(controller_of(cluster)) as controller:
        view.push({"x": made}, block=True)
    assert controller.growth <= 200 * MEGA, f"the controller has grown by {controller.growth / MEGA:.0f} MB"
    del made
    assert view[check] == [expected] * len(view)
