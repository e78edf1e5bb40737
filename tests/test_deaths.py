"""Engines die in every way, at work and idle: the others go on, every result arrives, the end is an ordinary one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from harness.processes import is_alive, is_stopped, parent_of
from harness.waiting import wait_for
from harness.work import SLEEP, keep_busy
from pxcluster import Client, interactive

#: How an engine dies: what its own process does (None: it is killed from outside), and what is said of it.
WAYS: dict[str, tuple[str | None, str]] = {
    "kill": (None, r"was killed by SIGKILL \(signal 9"),
    "segfault": ("import ctypes; ctypes.string_at(0)", r"was killed by SIGSEGV \(signal 11, a segmentation fault\)"),
    "exit": ("os._exit(3)", r"ended with exit code 3"),
    "exit-0": ("os._exit(0)", r"ended with exit code 0"),
    "suicide": ("os.kill(os.getpid(), 9)", r"SIGKILL \(signal 9, which the kernel sends, too, when memory"),
}


def pid_of(client: Client, engine: int) -> int:
    pid: int = client._session.registry.engines[engine]["pid"]
    return pid


@interactive
def square_slowly(number: int) -> int:
    import time

    time.sleep(0.001)
    return number * number


class Doomed:
    """An engine that dies when it is told, whatever it does then."""

    def __init__(self, client: Client, engine: int, way: str, directory: Path) -> None:
        self.client, self.engine = client, engine
        self.pid = pid_of(client, engine)
        self._go = directory / "go"
        code, self.sentence = WAYS[way]
        self._outside = code is None
        if code is not None:
            wait = f"def _die():\n while not os.path.exists({str(self._go)!r}): time.sleep(0.002)\n {code}\n"
            start = "threading.Thread(target=_die, daemon=True).start()"
            client[engine].execute("import os, threading, time\n" + wait + start, block=True)

    def die(self) -> None:
        """Does not wait."""
        if self._outside:
            os.kill(self.pid, signal.SIGKILL)
        else:
            self._go.touch()

    def wait_until_gone(self) -> None:
        """Until the client has heard of it; not a moment before the process is gone."""
        wait_for(lambda: self.engine not in self.client.ids, f"the client hears that engine {self.engine} is dead")
        assert not is_alive(self.pid)


def goes_on_without(cluster: Cluster, client: Client, lost: list[int]) -> None:
    """What is left works, and the end is that of a cluster in which nobody has died."""
    left = [engine for engine in range(cluster.engines) if engine not in lost]
    wait_for(lambda: client.ids == left, f"{left} are left")
    everybody = client.direct_view()
    assert sorted(everybody.apply_sync(os.getpid)) == sorted(pid_of(client, engine) for engine in left)
    client[:]["after"] = 5
    assert client[:]["after"] == [5] * len(left)
    assert client.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
    for engine in lost:
        with pytest.raises(ipp.EngineError, match=f"Engine {engine} is gone: engine {engine} "):
            client[engine]
    status = cluster.command("status")
    assert status.returncode == 0, status.stderr
    assert f"{len(left)} engine" in status.stdout
    ends_well(cluster)


def ends_well(cluster: Cluster) -> None:
    cluster.close_clients()
    stopped = cluster.command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.wait_ended() == 0, cluster.log()
    cluster.site.wait_until_nothing_remains()
    assert "internal error" not in cluster.log()


# -- what the engine is at when it dies -----------------------------------------------------------------------------


def idle(_cluster: Cluster, doomed: Doomed, _directory: Path) -> None:
    doomed.die()
    doomed.wait_until_gone()


def in_a_direct_request(_cluster: Cluster, doomed: Doomed, directory: Path) -> None:
    client = doomed.client
    view = client[:]
    pending = keep_busy(client, SLEEP, directory / "marks", doomed.engine)
    queued = view.apply_async(os.getpid)
    doomed.die()
    for result in (pending, queued):
        with pytest.raises(ipp.EngineError, match=f"engine {doomed.engine} .*{doomed.sentence}"):
            result.split()[-1 if result is pending else doomed.engine].get(timeout=30)
    others = [part for engine, part in enumerate(queued.split()) if engine != doomed.engine]
    assert [part.get(timeout=30) for part in others] == [pid_of(client, engine) for engine in client.ids]
    with pytest.raises(ipp.EngineError, match=r"rc\[:\]"):
        view.apply(os.getpid)


def in_a_map(_cluster: Cluster, doomed: Doomed, _directory: Path) -> None:
    result = doomed.client.load_balanced_view().map_async(square_slowly, range(3000))
    wait_for(lambda: result.progress > 100, "the map is under way")
    doomed.die()
    assert result.get(timeout=60) == [number * number for number in range(3000)]
    doomed.wait_until_gone()


def in_a_push(_cluster: Cluster, doomed: Doomed, _directory: Path) -> None:
    client = doomed.client
    lazy = client.direct_view()
    data = os.urandom(5_000_000)
    pushes = [lazy.push({f"data_{number}": data}, block=False) for number in range(6)]
    doomed.die()
    for push in pushes:
        for part, engine in zip(push.split(), range(4), strict=False):
            if engine != doomed.engine:
                part.get(timeout=60)
    doomed.wait_until_gone()
    lengths = lazy.apply_sync(interactive(lambda: [len(globals()[f"data_{number}"]) for number in range(6)]))
    assert lengths == [[len(data)] * 6] * 3


SITUATIONS = [idle, in_a_direct_request, in_a_map, in_a_push]
#: These run on MPICH, too.
SMOKE = [("kill", in_a_map), ("segfault", in_a_push), ("exit", in_a_direct_request), ("exit-0", idle)]


@pytest.mark.parametrize(
    ("way", "situation"),
    [
        pytest.param(
            way,
            situation,
            marks=[pytest.mark.smoke] if (way, situation) in SMOKE else [],
            id=f"{way}-{situation.__name__}",
        )
        for way in WAYS
        for situation in SITUATIONS
    ],
)
def test_an_engine_dies_and_the_others_go_on(
    new_cluster: Callable[..., Cluster],
    tmp_path: Path,
    way: str,
    situation: Callable[[Cluster, Doomed, Path], None],
) -> None:
    cluster = new_cluster(4)
    client = cluster.client()
    # Engine 0 passes broadcasts on to engine 1, engine 2 to engine 3.
    doomed = Doomed(client, 2, way, tmp_path)
    situation(cluster, doomed, tmp_path)
    wait_for(lambda: "pxcluster: engine 2 (" in cluster.log(), "the log tells")
    assert cluster.log().count("pxcluster: engine 2 (") == 1
    late = cluster.client()
    wait_for(lambda: 2 in late._session.registry.gone, "who comes later hears of it, too")
    with pytest.raises(ipp.EngineError, match=doomed.sentence):
        late[2]
    goes_on_without(cluster, client, [2])


@pytest.mark.smoke
def test_two_die_at_once_while_broadcasts_go_on(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(6)
    client = cluster.client()
    lazy = client.direct_view()
    broadcasts: list[Any] = []
    stop = threading.Event()

    def broadcast() -> None:
        while not stop.is_set():
            broadcasts.append(lazy.apply_async(abs, -len(broadcasts)))
            client.send_signal(signal.SIGCONT, block=True)
            if len(broadcasts) > 50:
                broadcasts[-50].wait(30)

    thread = threading.Thread(target=broadcast)
    thread.start()
    try:
        wait_for(lambda: len(broadcasts) > 100, "broadcasts go on")
        pids = [pid_of(client, engine) for engine in (0, 3)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(client.ids) == 4, "both are seen to be dead")
        some = len(broadcasts)
        wait_for(lambda: len(broadcasts) > some + 100, "broadcasts go on among those that are left")
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    for number, result in enumerate(broadcasts):
        parts = result.split()
        for part in parts:
            assert part.wait(60), f"{result} is not answered"
        answers = [part.get() for part in parts if part.exception() is None]
        assert len(answers) >= 4
        assert set(answers) == {number}
    goes_on_without(cluster, client, [0, 3])


@pytest.mark.smoke
def test_all_die_and_the_controller_stays(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2)
    client = cluster.client()
    view = client.load_balanced_view()
    tasks = view.map_async(time.sleep, [1000] * 10)
    for engine in list(client.ids):
        os.kill(pid_of(client, engine), signal.SIGKILL)
    wait_for(lambda: client.ids == [], "all are seen to be dead")
    with pytest.raises(
        ipp.CompositeError, match=r"EngineError: no engine is left that may run this task; engine . .*SIGKILL"
    ):
        tasks.get(timeout=30)
    for call in (lambda: client[:], lambda: view.apply_async(abs, 1).get(timeout=30), lambda: client[0]):
        with pytest.raises((ipp.NoEnginesRegistered, ipp.EngineError), match=r"engines|gone"):
            call()
    assert "0 engines" in cluster.command("status").stdout
    ends_well(cluster)


def test_without_a_nanny_the_cluster_ends(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2, "--no-nanny")
    client = cluster.client()
    with pytest.raises(ipp.EngineError, match="--no-nanny"):
        client.kill_engines(0)
    pending = client[:].execute(SLEEP, block=False)
    os.kill(pid_of(client, 1), signal.SIGKILL)
    with pytest.raises((OSError, ipp.error.IPythonError)):
        pending.get(timeout=60)
    assert cluster.wait_ended() != 0


def test_a_nanny_never_outlives_its_engine_nor_the_engine_its_nanny(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2)
    client = cluster.client()
    pid = pid_of(client, 0)
    os.kill(parent_of(pid), signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the engine ends with its nanny")
    cluster.wait_ended()
    cluster.site.remove_shared_memory_of_open_mpi()


@pytest.mark.smoke
def test_a_hung_engine_is_reported_heard_again_and_killed(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(3, "--hung-after", "2")
    client = cluster.client()
    pid = pid_of(client, 1)
    assert client.silent == {}
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid), "the engine is stopped")
    wait_for(lambda: client.silent, "the engine is silent")
    assert list(client.silent) == [1]
    assert f"engine 1 (host {os.uname().nodename}, pid {pid}) has said nothing for" in client.silent[1]
    assert "rc.kill_engines(1) ends it" in client.silent[1]
    assert client.ids == [0, 1, 2]
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not client.silent, "the engine is heard again")
    assert "is heard again" in cluster.log()
    assert client[:].apply_sync(abs, -1) == [1, 1, 1]

    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: client.silent, "the engine is silent again")
    tasks = client.load_balanced_view().map_async(abs, range(-20, 0))
    late = cluster.client()
    wait_for(lambda: list(late.silent) == [1], "who comes later hears of it, too")
    client.kill_engines(1, block=True)
    assert client.silent == {}
    assert tasks.get(timeout=30) == list(range(20, 0, -1))
    goes_on_without(cluster, client, [1])


@pytest.mark.smoke
def test_engines_are_killed_whatever_they_do(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(4)
    client = cluster.client()
    pending = keep_busy(client, "while True: pass", tmp_path / "marks", [1, 3])
    client.kill_engines([1, 3], block=True)
    with pytest.raises(ipp.error.RemoteError, match=r"SIGKILL"):
        pending.get(timeout=30)
    with pytest.raises(ipp.EngineError):
        client.kill_engines(1)
    goes_on_without(cluster, client, [1, 3])
