"""Results of calls: waiting, values, what is known of them, parts, time, futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.gates import Gate, pass_gate
from harness.waiting import wait_for

from .functions import fail, fail_at_two, only_the_last_waits, pid, shout, square
from .peers import Peer


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.mark.smoke
def test_values(rc: Any) -> None:
    several = rc[:].apply_async(square, 3)
    assert several.get(timeout=60) == [9] * 4
    assert several.get() == several.r == several.result() == several.result(timeout=60) == [9] * 4
    single = rc[0].apply_async(square, 3)
    assert single.get(timeout=60) == single.r == single.result() == 9
    assert rc[[0]].apply_async(square, 3).get(timeout=60) == [9]


@pytest.mark.smoke
def test_states(rc: Any, gate: Gate) -> None:
    result = rc[:2].apply_async(pass_gate, None, gate.folder)
    assert repr(result) == "<AsyncResult(pass_gate): pending>"
    assert (result.ready(), result.done(), result.cancelled()) == (False, False, False)
    assert result.wait(timeout=0.01) is False
    assert result.wait(0) is False
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    with pytest.raises(TimeoutError):
        result.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        result.exception(timeout=0.01)
    with pytest.raises(RuntimeError):
        result.successful()
    with pytest.raises(TimeoutError):
        result[0]
    gate.open()
    assert result.wait(timeout=60) is True
    assert (result.ready(), result.done(), result.running()) == (True, True, False)
    assert result.successful() is True
    assert result.exception() is None
    assert repr(result) == "<AsyncResult(pass_gate): finished>"


@pytest.mark.smoke
def test_failures(rc: Any, ipp: Any) -> None:
    result = rc[:].apply_async(fail, "why")
    assert result.wait(timeout=60) is True
    assert result.successful() is False
    assert repr(result) == "<AsyncResult(fail): failed>"
    for ask in (result.get, result.result, lambda: result.r):
        with pytest.raises(ipp.CompositeError, match="one or more exceptions raised in: fail"):
            ask()
    problem = result.exception()
    assert isinstance(problem, ipp.CompositeError)
    assert len(problem.elist) == 4
    found = result.get(return_exceptions=True)
    assert [type(error) for error in found] == [ipp.RemoteError] * 4
    assert [str(error) for error in found] == [f"[{engine}:apply] ValueError: why" for engine in range(4)]
    single = rc[1].apply_async(fail, "why")
    assert str(single.exception(timeout=60)) == "[1:apply] ValueError: why"
    assert type(single.get(return_exceptions=True)) is ipp.RemoteError


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda rc: rc[:].apply_async(square, 1), "AsyncResult(square)"),
        (lambda rc: rc[0].apply_async(abs, 1), "AsyncResult(abs)"),
        (lambda rc: rc[:].map_async(square, range(4)), "AsyncMapResult(square)"),
        (lambda rc: rc.load_balanced_view().map_async(square, range(4)), "AsyncMapResult(square)"),
        (lambda rc: rc[:].execute("1"), "AsyncResult(execute)"),
        (lambda rc: rc[:].push({"shown": 1}), "AsyncResult(_push)"),
        (lambda rc: rc[:].pull("len"), "AsyncResult(_pull)"),
        (lambda rc: rc[:].scatter("shown", [1]), "AsyncResult(scatter)"),
    ],
)
def test_repr(rc: Any, make: Any, text: str) -> None:
    result = make(rc)
    result.get(timeout=60)
    assert repr(result) == f"<{text}: finished>"


def test_indices_and_slices(rc: Any) -> None:
    result = rc[:].map_async(square, range(8))
    result.wait(timeout=60)
    assert result[0] == 0
    assert result[-1] == 49
    assert result[2:4] == [4, 9]
    assert result[:] == [x * x for x in range(8)]
    assert len(result) == 8
    with pytest.raises(IndexError):
        result[8]
    with pytest.raises(TypeError, match=r"Invalid key type <class 'float'>, must be 'int','slice', or 'str'"):
        result[1.5]
    assert len(rc[:].apply_async(square, 1)) == 4
    assert len(rc[0].apply_async(square, 1)) == 1


def test_iteration(rc: Any) -> None:
    assert list(rc[:].apply_async(square, 2)) == [4] * 4
    assert list(rc[:].map_async(square, range(8))) == [x * x for x in range(8)]
    with pytest.raises(TypeError, match="AsyncResults with a single result are not iterable"):
        list(rc[0].apply_async(square, 2))


def test_iteration_yields_what_is_there(rc: Any, gate: Gate) -> None:
    lbv = rc.load_balanced_view()
    results = iter(lbv.map_async(only_the_last_waits, [(0, gate.folder), (1, gate.folder), (2, gate.folder)]))
    assert [next(results), next(results)] == [0, 1]
    gate.open()
    assert list(results) == [2]


def test_by_engine(rc: Any) -> None:
    result = rc[[1, 3]].apply_async(pid)
    pids = rc[:].apply_sync(pid)
    assert result.get_dict(timeout=60) == {1: pids[1], 3: pids[3]}
    assert result.result_dict == {1: pids[1], 3: pids[3]}
    assert rc[2].apply_async(pid).get_dict(timeout=60) == {2: pids[2]}
    twice = rc.load_balanced_view(0).map_async(square, range(3))
    with pytest.raises(ValueError, match=r"Cannot build dict, 3 jobs ran on engine #0"):
        twice.get_dict(timeout=60)


@pytest.mark.smoke
def test_metadata(rc: Any) -> None:
    result = rc[:].apply_async(square, 2)
    result.get(timeout=60)
    for engine, entry in enumerate(result.metadata):
        assert entry["engine_id"] == entry.engine_id == engine
        assert entry.status == "ok"
        assert entry.msg_id == result.msg_ids[engine]
        times = [entry.submitted, entry.started, entry.completed, entry.received]
        assert all(isinstance(each, datetime.datetime) and each.tzinfo is not None for each in times)
        assert (entry.stdout, entry.stderr, entry.outputs, entry.data) == ("", "", [], {})
        assert (entry.error, entry.execute_input, entry.execute_result, entry.label) == (None, None, None, None)
    assert result.engine_id == result["engine_id"] == [0, 1, 2, 3]
    single = rc[2].apply_async(square, 2)
    single.get(timeout=60)
    assert single.engine_id == single["engine_id"] == 2
    assert single.metadata.engine_uuid == result.engine_uuid[2]
    assert isinstance(single.metadata.engine_uuid, str)
    assert rc[2].apply_async(fail).exception(timeout=60).engine_info["engine_uuid"] == single.metadata.engine_uuid
    with pytest.raises(KeyError):
        result["nonsense"]
    with pytest.raises(AttributeError):
        _ = result.nonsense
    with pytest.raises(KeyError):
        single.metadata["nonsense"]
    with pytest.raises(AttributeError):
        _ = single.metadata.nonsense


def test_the_keys_of_metadata(peer: Peer, rc: Any) -> None:
    single = rc[0].apply_async(square, 1)
    single.get(timeout=60)
    known = {
        *("msg_id", "submitted", "started", "completed", "received", "engine_uuid", "engine_id", "follow", "after"),
        *("status", "execute_input", "execute_result", "error", "stdout", "stderr", "outputs", "data", "label"),
    }
    assert set(single.metadata) == known | (
        {"tries"} if peer.differs("metadata") else {"is_broadcast", "is_coalescing"}
    )


def test_output_of_calls(rc: Any) -> None:
    result = rc[:].apply_async(shout, "hello")
    assert result.get(timeout=60) == ["hello"] * 4
    assert result.wait_for_output(timeout=60) is True
    assert result.stdout == result["stdout"] == ["hello\n"] * 4
    assert result.stderr == ["HELLO\n"] * 4
    single = rc[0].apply_async(shout, "one")
    single.get(timeout=60)
    single.wait_for_output(timeout=60)
    assert (single.stdout, single.stderr, single.outputs) == ("one\n", "ONE\n", [])


def test_output_of_cells(rc: Any) -> None:
    code = "from IPython.display import display\nprint('o')\ndisplay(1)\ndisplay(2)\n'result'"
    result = rc[0].execute(code, silent=False, block=True)
    result.wait_for_output(timeout=60)
    assert result.stdout == "o\n"
    assert [each["data"]["text/plain"] for each in result.outputs] == ["1", "2"]
    assert result.execute_result["data"]["text/plain"] == "'result'"
    assert result.execute_input == code
    assert result.error is None


def test_errors_are_metadata(rc: Any, ipp: Any) -> None:
    result = rc[:2].apply_async(fail)
    result.wait(timeout=60)
    assert result.status == ["error", "error"]


def test_waiting_for_the_first(peer: Peer, rc: Any, gate: Gate) -> None:
    view = rc.load_balanced_view()
    result = view.map_async(only_the_last_waits, [(0, gate.folder), (1, gate.folder), (2, gate.folder)])
    done, pending = result.wait(timeout=60, return_when=concurrent.futures.FIRST_COMPLETED)
    assert len(done) >= 1
    assert len(pending) >= 1
    assert len(done) + len(pending) == 3
    values = [part.get() for part in done]
    alone = peer.differs("parts of a load-balanced map: `split`, `wait(return_when=…)`")
    assert all(value in ((0, 1) if alone else ([[0]], [[1]])) for value in values)
    with pytest.raises(ValueError, match="nonsense"):
        result.wait(return_when="nonsense")
    gate.open()
    done, pending = result.wait(timeout=60, return_when=concurrent.futures.ALL_COMPLETED)
    assert len(done) == 3
    assert not pending


def test_waiting_for_the_first_failure(rc: Any, ipp: Any, gate: Gate) -> None:
    view = rc.load_balanced_view()
    items = [(-1, gate.folder), (0, gate.folder), (2, gate.folder)]
    result = view.map_async(only_the_last_waits, items)
    done, pending = result.wait(timeout=60, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert any(not part.successful() for part in done)
    assert len(pending) >= 1
    with pytest.raises(ipp.RemoteError, match="ValueError: -1"):
        result.get(timeout=60, return_when=concurrent.futures.FIRST_EXCEPTION)
    gate.open()
    assert result.wait(timeout=60) is True


def test_get_when_the_first_has_completed(rc: Any) -> None:
    result = rc[:].apply_async(square, 2)
    with pytest.warns(UserWarning, match="FIRST_COMPLETED"):
        assert result.get(timeout=60, return_when=concurrent.futures.FIRST_COMPLETED) == [4] * 4


def test_split_and_join(rc: Any, ipp: Any) -> None:
    result = rc[:].apply_async(pid)
    parts = result.split()
    assert isinstance(parts, tuple)
    assert [part.get(timeout=60) for part in parts] == result.get(timeout=60)
    assert [part.msg_ids for part in parts] == [[msg_id] for msg_id in result.msg_ids]
    joined = ipp.AsyncResult.join(*parts)
    assert joined.get(timeout=60) == result.get()
    assert joined.msg_ids == result.msg_ids
    both = ipp.AsyncResult.join(rc[0].apply_async(square, 2), rc[:2].apply_async(square, 3))
    assert both.get(timeout=60) == [4, 9, 9]
    with pytest.raises(ValueError, match="Must specify at least one AsyncResult to join"):
        ipp.AsyncResult.join()


def test_times(rc: Any) -> None:
    result = rc[:].apply_async(square, 2)
    result.get(timeout=60)
    assert result.wall_time > 0
    assert result.serial_time >= 0
    assert result.elapsed == pytest.approx(result.wall_time)
    assert result.timedelta(result.submitted, result.received) >= result.timedelta(result.started, result.completed)
    assert result.timedelta(result.metadata[0].submitted, result.metadata[0].received) > 0
    assert result.progress == len(result) == 4


def test_times_need_a_result(rc: Any, gate: Gate) -> None:
    result = rc[0].apply_async(pass_gate, None, gate.folder)
    for name in ("serial_time", "wall_time"):
        with pytest.raises(TimeoutError, match="result not ready"):
            getattr(result, name)
    assert result.elapsed > 0
    assert result.progress == 0
    with pytest.raises(TimeoutError, match="result not ready"):
        result.display_outputs()
    gate.open()
    result.get(timeout=60)


def test_callbacks(rc: Any) -> None:
    called: list[Any] = []
    result = rc[:].apply_async(square, 2)
    result.add_done_callback(called.append)
    result.get(timeout=60)
    wait_for(lambda: called == [result], "the callback is called")
    result.add_done_callback(called.append)
    wait_for(lambda: called == [result, result], "a late callback is called")


def test_futures(rc: Any) -> None:
    results = [rc[0].apply_async(square, 3), rc.load_balanced_view().map_async(square, range(3))]
    assert all(isinstance(result, concurrent.futures.Future) for result in results)
    done, pending = concurrent.futures.wait(results, timeout=60)
    assert (done, pending) == (set(results), set())
    assert set(concurrent.futures.as_completed(results, timeout=60)) == set(results)


@pytest.mark.smoke
def test_asyncio(rc: Any) -> None:
    async def both() -> list[Any]:
        results = [rc[:].apply_async(square, 3), rc.load_balanced_view().map_async(square, range(3))]
        return await asyncio.gather(*map(asyncio.wrap_future, results))

    assert asyncio.run(both()) == [[9] * 4, [0, 1, 4]]


def test_cancel(peer: Peer, rc: Any, gate: Gate) -> None:
    running = rc[0].apply_async(pass_gate, None, gate.folder)
    gate.wait_for_marks(1)
    waiting = rc[0].apply_async(square, 2)
    assert waiting.cancel() is True
    assert waiting.cancelled() is True
    if peer.differs("`AsyncResult.cancel()`"):
        assert running.cancel() is False
        gate.open()
        assert running.get(timeout=60)
    else:
        assert running.cancel() is True


def test_maps_that_fail_in_a_chunk(peer: Peer, rc: Any, ipp: Any) -> None:
    result = rc.load_balanced_view().map_async(fail_at_two, range(6), chunksize=2)
    with pytest.raises(ipp.CompositeError):
        result.get(timeout=60)
    assert repr(result) == "<AsyncMapResult(fail_at_two): failed>"
    if peer.differs("`return_exceptions` with `chunksize`"):
        found = result.get(return_exceptions=True)
        assert [*found[:2], *found[-2:]] == [0, 1, 4, 5]
        assert isinstance(found[2], ipp.RemoteError)
    else:
        with pytest.raises(TypeError):
            result.get(return_exceptions=True)


def test_sending(rc: Any) -> None:
    result = rc[:].apply_async(square, 2)
    result.wait_for_send(timeout=60)
    assert result.sent is True
    assert result.get(timeout=60) == [4] * 4


def test_wait_interactive(rc: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = rc.load_balanced_view().map_async(square, range(6))
    result.wait_interactive(timeout=60)
    assert result.get() == [x * x for x in range(6)]
    shown = capsys.readouterr()
    assert "square: 100%" in shown.out + shown.err
    assert "6/6" in shown.out + shown.err


def test_display_outputs_without_ipython(rc: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = rc[:2].apply_async(shout, "hello")
    result.get(timeout=60)
    result.wait_for_output(timeout=60)
    result.display_outputs()
    shown = capsys.readouterr()
    assert shown.out == "[stdout:0] \nhello\n[stdout:1] \nhello\n"
    assert shown.err == "[stderr:0] \nHELLO\n[stderr:1] \nHELLO\n"
    with pytest.raises(ValueError, match="nonsense"):
        result.display_outputs(groupby="nonsense")
