"""A host that says nothing any more, its power or its cable gone: its engines are lost, and the rest goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from harness.processes import parent_of
from harness.waiting import wait_for
from pxcluster import Client, interactive

pytestmark = [pytest.mark.usefixtures("needs_hosts"), pytest.mark.timeout(300)]


@interactive
def squared(number: int, mark: str) -> int:
    import pathlib
    import time

    pathlib.Path(f"{mark}-{number}").touch()
    time.sleep(0.02)
    return number * number


def processes_of(rc: Client, host: str) -> tuple[list[int], list[int]]:
    """The engines on a host, and the processes of them and of their nannies."""
    engines = [engine for engine in rc._session.registry.engines.values() if engine["host"] == host]
    pids = [engine["pid"] for engine in engines]
    return [engine["id"] for engine in engines], pids + [parent_of(pid) for pid in pids]


@pytest.fixture
def cut() -> Iterator[Callable[[list[int]], None]]:
    """Cuts processes off as a pulled cable does: nothing comes from them, nothing says that they are gone."""
    stopped: list[int] = []

    def cut(pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)

    yield cut
    for pid in stopped:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the end of the job was faster


@pytest.mark.smoke
def test_a_silent_host_is_lost_and_its_tasks_run_elsewhere(
    new_hosts: Callable[..., Cluster], cut: Callable[[list[int]], None], tmp_path: Path
) -> None:
    cluster = new_hosts(["n1", "n2"], 2, PXCLUSTER_LOST_AFTER="10")
    rc = cluster.client()
    engines, pids = processes_of(rc, "n2")
    assert engines == [3, 4]
    mark = str(tmp_path / "task")
    squares = rc.load_balanced_view().map_async(squared, range(600), [mark] * 600)
    wait_for(lambda: len(list(tmp_path.glob("task-*"))) > 50, "the map is under way")
    cut(pids)
    asked = rc[3].apply_async(abs, -1)
    assert squares.get(timeout=200) == [number * number for number in range(600)]
    wait_for(lambda: rc.ids == [0, 1, 2], lambda: f"two engines are lost: {rc.ids}")
    for call in (lambda: asked.get(timeout=60), lambda: rc[3].apply_sync(abs, -1)):
        with pytest.raises(ipp.EngineError, match="nothing has been heard of its host for 10 s"):
            call()
    assert rc[:].apply_sync(abs, -1) == [1] * 3
    assert cluster.log().count("is lost: nothing has been heard of its host") == 2


def test_hosts_that_have_nothing_to_say_are_not_lost(new_hosts: Callable[..., Cluster]) -> None:
    cluster = new_hosts(["n1"], 2, PXCLUSTER_LOST_AFTER="6")
    rc = cluster.client()
    assert rc[:].apply_sync(time.sleep, 13.0) == [None] * 3  # longer than twice that time
    assert rc.ids == [0, 1, 2]
    assert "is lost" not in cluster.log()
