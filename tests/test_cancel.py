"""Cancelling calls: what has not started never will, what runs runs on."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pxcluster as ipp
import pytest
from harness.gates import Gate, pass_gate
from harness.waiting import wait_for
from pxcluster import AsyncResult, Client


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def busy(rc: Client, gate: Gate) -> AsyncResult:
    """A call that keeps every engine busy until the gate is opened."""
    result: AsyncResult = rc[:].apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(len(rc))
    return result


def is_cancelled(result: AsyncResult) -> bool:
    """cancel() of what nobody has started; it may not wait as long as a slow machine needs to confirm it."""
    return result.cancel() or wait_for(result.cancelled, "everything is aborted")


def test_queued_tasks_are_cancelled(rc: Client, gate: Gate, busy: AsyncResult) -> None:
    view = rc.load_balanced_view()
    queued, stays = view.map_async(operator.neg, range(1000)), view.map_async(operator.neg, range(10))
    assert is_cancelled(queued)
    assert queued.done()
    with pytest.raises(ipp.CompositeError, match="TaskAborted"):
        queued.get(timeout=60)
    assert not stays.cancelled()
    gate.open()
    assert stays.get(timeout=60) == [-n for n in range(10)]
    busy.get(timeout=60)
    assert queued.cancelled()


def test_queued_direct_calls_are_cancelled(rc: Client, gate: Gate, busy: AsyncResult) -> None:
    queued = rc[:].apply_async(operator.neg, 1)
    single = rc[1].apply_async(operator.neg, 1)
    behind = rc[:].apply_async(operator.neg, 2)
    assert is_cancelled(queued)
    assert is_cancelled(single)
    assert not behind.ready()
    assert not busy.ready()
    gate.open()
    assert behind.get(timeout=60) == [-2] * 4
    busy.get(timeout=60)
    with pytest.raises(ipp.TaskAborted):
        single.get(timeout=60)
    with pytest.raises(ipp.CompositeError, match="TaskAborted"):
        queued.get(timeout=60)
    assert queued.cancelled()
    assert single.cancelled()
    assert rc[:].apply_sync(operator.neg, 1) == [-1] * 4


def test_what_waits_for_another_is_cancelled(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    first = view.apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(1)
    with view.temp_flags(after=first):
        second = view.apply_async(operator.neg, 1)
    assert is_cancelled(second)
    gate.open()
    assert isinstance(first.get(timeout=60), int)


def test_what_runs_is_not_cancelled(rc: Client, gate: Gate, busy: AsyncResult) -> None:
    assert busy.cancel() is False
    assert not busy.done()
    gate.open()
    assert len(busy.get(timeout=60)) == 4
    assert busy.cancelled() is False
    assert busy.cancel() is False


def test_the_rest_of_a_running_map_is_aborted(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    result = view.map_async(pass_gate, range(50), [gate.folder] * 50)
    gate.wait_for_marks(len(rc))
    assert result.cancel() is False
    gate.open()
    result.wait(60)
    states = [entry["status"] for entry in result.metadata]
    assert states.count("ok") >= 1
    assert states.count("ok") + states.count("aborted") == 50
    assert states.count("aborted") >= 1
    assert result.cancelled() is False


def test_futures_of_the_executor(rc: Client, gate: Gate, busy: AsyncResult) -> None:
    with rc.executor() as executor:
        future = executor.submit(operator.neg, 1)
        assert is_cancelled(future)
        gate.open()
        assert executor.submit(operator.neg, 2).result(timeout=60) == -2


def test_an_interrupt_hits_the_running_tasks_of_one_call_alone(rc: Client, gate: Gate) -> None:
    hit = rc.load_balanced_view(targets=[0, 1]).map_async(pass_gate, [0, 1], [gate.folder] * 2)
    spared = rc.load_balanced_view(targets=[2, 3]).map_async(pass_gate, [0, 1], [gate.folder] * 2)
    direct = rc[0].apply_async(operator.neg, 1)
    gate.wait_for_marks(4)
    hit.interrupt()
    with pytest.raises(ipp.CompositeError, match="KeyboardInterrupt"):
        hit.get(timeout=60)
    assert direct.get(timeout=60) == -1
    assert not spared.done()
    gate.open()
    assert len(spared.get(timeout=60)) == 2
    hit.interrupt()  # nothing of it runs
    assert rc[:].apply_sync(operator.neg, 1) == [-1] * 4
