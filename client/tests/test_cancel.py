"""AsyncResult.cancel: what it sends, and what it says of tasks that had started or had not."""

from __future__ import annotations

import asyncio

import pxcluster as ipp
import pytest
from fake_controller import columns


@pytest.fixture
def answers(controller):
    """A controller that runs nothing: an abort answers tasks with these statuses, then is done."""
    statuses = []

    def on_abort(header, buffers):
        for number in header["requests"]:
            entries = [(slot, 0, status, 1.0, 2.0, b"") for slot, status in enumerate(statuses) if status is not None]
            if entries:
                controller.send({"type": "results", "id": number}, columns(entries))
        controller.send({"type": "done", "id": header["id"]})

    controller._on_map = lambda header, buffers: None
    controller._on_abort = on_abort
    return statuses


def test_what_has_not_started_is_cancelled(lbv, controller, answers):
    answers += [2, 2, 2]
    result = lbv.map_async(len, ["a", "b", "c"])
    called = []
    result.add_done_callback(called.append)
    assert result.cancelled() is False
    assert result.cancel() is True
    assert controller.expect("abort")[0]["requests"] == [1]
    assert (result.cancelled(), result.done(), result.cancel()) == (True, True, True)
    assert {entry["status"] for entry in result.metadata} == {"aborted"}
    with pytest.raises(ipp.CompositeError, match="TaskAborted"):
        result.get()
    result.wait()
    assert controller.received.empty()


@pytest.mark.parametrize("statuses", [[2, 1], [2, None], []])
def test_what_runs_or_has_run_is_not(lbv, answers, statuses):
    answers += statuses
    result = lbv.map_async(len, ["a", "b"])
    assert result.cancel() is False
    assert result.cancelled() is False
    assert [entry["status"] for entry in result.metadata][: len(statuses)] == [
        {2: "aborted", 1: "error", None: None}[status] for status in statuses
    ]


def test_finished_calls_are_not_cancelled(lbv, controller):
    result = lbv.apply_async(len, "a")
    assert result.get() == 1
    assert result.cancel() is False
    assert controller.expect("map")
    assert controller.received.empty()


def test_parts_are_not_cancelled_alone(rc, lbv, controller, answers):
    answers += [2, 2]
    result = lbv.map_async(len, ["a", "b"])
    part = rc.get_result(result.msg_ids[0])
    assert part.cancel() is False
    assert controller.expect("map")
    assert controller.received.empty()
    assert rc.get_result(result.msg_ids).cancel() is True
    assert part.cancelled()
    with pytest.raises(ipp.TaskAborted):
        part.get()


def test_asyncio_sees_the_cancellation(lbv, answers):
    answers.append(2)
    result = lbv.apply_async(len, "a")

    async def wait():
        waiting = asyncio.wrap_future(result)
        asyncio.get_running_loop().call_soon(result.cancel)
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(wait())
