"""Views and apply: what every session uses, against a real cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import functools
import operator
import os
import re
import types
from pathlib import Path
from typing import Any

import pxcluster as ipp
import pytest
from pxcluster import Client, interactive


@interactive
def fail(message: str) -> None:
    raise ValueError(message)


@pytest.mark.smoke
def test_ids_and_views(rc: Client) -> None:
    assert rc.ids == [0, 1, 2, 3]
    assert len(rc) == 4
    assert [view.targets for view in rc] == [0, 1, 2, 3]
    views = [rc[:], rc[0], rc[-1], rc[::2], rc[[1, 3]], rc.direct_view("all"), rc.load_balanced_view()]
    assert [repr(view) for view in [*views, rc.broadcast_view()]] == [
        "<DirectView [0, 1, 2, 3]>",
        "<DirectView 0>",
        "<DirectView 3>",
        "<DirectView [0, 2]>",
        "<DirectView [1, 3]>",
        "<DirectView all>",
        "<LoadBalancedView None>",
        "<BroadcastView [0, 1, 2, 3]>",
    ]


def test_engines_that_do_not_exist(rc: Client) -> None:
    with pytest.raises(IndexError, match="No such engine: 99"):
        rc[99]
    with pytest.raises(TypeError):
        rc["0"]


@pytest.mark.smoke
def test_apply_on_each_engine(rc: Client) -> None:
    pids = rc[:].apply_sync(os.getpid)
    assert len(set(pids)) == 4
    assert rc[2].apply_sync(os.getpid) == pids[2]
    assert rc[[3, 1]].apply_sync(os.getpid) == [pids[3], pids[1]]
    assert rc[[1]].apply_sync(os.getpid) == [pids[1]]
    assert rc.broadcast_view().apply_sync(os.getpid) == pids
    assert rc.load_balanced_view().apply_sync(os.getpid) in pids


def test_apply_takes_any_arguments(rc: Client) -> None:
    everything = interactive(lambda *args, f=None, **named: (args, f, named))
    assert rc[0].apply_sync(everything, 1, "b", f=[3], x={4}) == ((1, "b"), [3], {"x": {4}})
    assert rc[0].apply_sync(functools.partial(operator.add, 1), 2) == 3
    assert rc[0].apply_sync("{}-{}".format, 1, 2) == "1-2"


def test_block_decides_what_apply_returns(rc: Client) -> None:
    view = rc[:]
    assert isinstance(view.apply(abs, -1), ipp.AsyncResult)
    view.block = True
    assert view.apply(abs, -1) == [1] * 4
    with view.temp_flags(block=False):
        assert view.apply(abs, -2).get() == [2] * 4
    assert view.apply(abs, -3) == [3] * 4


@pytest.mark.smoke
def test_errors_of_several_engines_are_one_composite_error(rc: Client) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        rc[:].apply_sync(fail, "oh")
    assert str(caught.value) == "one or more exceptions raised in: fail\n" + "\n".join(
        f"[{engine}:apply]ValueError: oh" for engine in range(4)
    )
    assert [(ename, evalue) for ename, evalue, _, _ in caught.value.elist] == [("ValueError", "oh")] * 4
    with pytest.raises(ipp.RemoteError) as single:
        caught.value.raise_exception(2)
    assert single.value.engine_info["engine_id"] == 2


@pytest.mark.smoke
def test_the_error_of_one_engine_is_a_remote_error(rc: Client) -> None:
    with pytest.raises(ipp.RemoteError) as caught:
        rc[1].apply_sync(fail, "oh")
    assert str(caught.value) == "[1:apply] ValueError: oh"
    assert (caught.value.ename, caught.value.evalue) == ("ValueError", "oh")
    assert "raise ValueError(message)" in re.sub(r"\x1b\[[\d;]*m", "", caught.value.traceback)
    assert "pxcluster" not in caught.value.traceback
    results = rc[:].apply_async(fail, "oh").get(return_exceptions=True)
    assert [type(error) for error in results] == [ipp.RemoteError] * 4


@pytest.mark.smoke
def test_execute_keeps_state_on_each_engine(rc: Client) -> None:
    view = rc[:]
    view.execute("n = 20", block=True)
    rc[1].execute("n += 1", block=True)
    assert view["n"] == [20, 21, 20, 20]
    with pytest.raises(ipp.CompositeError, match=r"\[2:execute\]NameError: name 'missing' is not defined"):
        view.execute("missing", block=True).get()


def test_execute_returns_the_displayed_value(rc: Client) -> None:
    result = rc[0].execute("print('out'); 6 * 7", silent=False, block=True)
    reply = result.get()
    assert reply.data["text/plain"] == "42"
    assert result.stdout == "out\n"
    count = reply.execution_count
    assert rc[0].execute("0", silent=False, block=True).get().execution_count == count + 1


def test_prints_of_apply_are_kept(rc: Client) -> None:
    result = rc[:].apply_async(print, "hello")
    result.get()
    result.wait_for_output(timeout=30)
    assert result.stdout == ["hello\n"] * 4


def test_functions_of_main_use_the_engines_globals(rc: Client, main: types.ModuleType) -> None:
    exec("SCALE = 1\ndef scaled(x):\n    return SCALE * x", vars(main))
    with pytest.raises(ipp.RemoteError, match="NameError: name 'SCALE' is not defined"):
        rc[0].apply_sync(vars(main)["scaled"], 3)
    rc[0]["SCALE"] = 7
    assert rc[0].apply_sync(vars(main)["scaled"], 3) == 21


def test_classes_of_main_travel_there_and_back(rc: Client, main: types.ModuleType) -> None:
    exec(
        "class Point:\n    def __init__(self, x): self.x = x\n    def moved(self): return type(self)(self.x + 1)",
        vars(main),
    )
    point = rc[0].apply_sync(operator.methodcaller("moved"), vars(main)["Point"](1))
    assert point.x == 2


def test_closures_and_lambdas_deep_in_containers(rc: Client) -> None:
    factor = 3
    times = interactive(lambda x: factor * x)
    apply_all = interactive(lambda table, x: [f(x) for f in table["deep"][0]])
    assert rc[0].apply_sync(apply_all, {"deep": [[times, abs]]}, -2) == [-6, 2]


def test_references_are_resolved_on_the_engine(rc: Client) -> None:
    rc[:].scatter("part", range(8)).get()
    assert rc[:].apply_sync(sum, ipp.Reference("part")) == [1, 5, 9, 13]
    assert rc[:].apply_sync(ipp.Reference("part.count"), 5) == [0, 0, 1, 0]


def test_decorators(rc: Client) -> None:
    view = rc[:]

    @view.remote(block=True)
    @interactive
    def pid() -> int:
        import os

        return os.getpid()

    @view.parallel(block=True)
    @interactive
    def double(x: Any) -> Any:
        return x * 2

    assert len(set(pid())) == 4
    assert double.map(range(8)) == list(range(0, 16, 2))


def test_result_surface(rc: Client) -> None:
    result = rc[:].apply_async(operator.add, 1, 2)
    assert result.wait(60)
    assert (result.ready(), result.done(), result.successful()) == (True, True, True)
    assert result.r == result.get() == result.result() == [3] * 4
    assert (len(result), result.progress, result[1], result[1:3]) == (4, 4, 3, [3, 3])
    assert list(result) == [3] * 4
    assert result.get_dict() == dict.fromkeys(range(4), 3)
    assert result.engine_id == [0, 1, 2, 3]
    assert result.exception() is None
    assert repr(result) == "<AsyncResult(add): finished>"
    assert all(isinstance(moment, datetime.datetime) for moment in [*result.started, *result.completed])
    assert result.metadata[0]["status"] == "ok"
    assert result.serial_time >= 0 <= result.wall_time
    with pytest.raises(KeyError):
        result["nonsense"]


def test_a_result_is_a_future(rc: Client) -> None:
    done: list[Any] = []
    result = rc[0].apply_async(abs, -1)
    result.add_done_callback(done.append)
    concurrent.futures.wait([result], timeout=60)
    assert asyncio.run(_awaited(rc)) == 2
    assert done == [result]


async def _awaited(rc: Client) -> Any:
    return await asyncio.wrap_future(rc[0].apply_async(abs, -2))


def test_a_pending_result_times_out_and_arrives_later(rc: Client) -> None:
    waiting = rc[0].apply_async(interactive(lambda: __import__("time").sleep(0.5)))
    assert not waiting.ready()
    assert repr(waiting).endswith(": pending>")
    with pytest.raises(TimeoutError):
        waiting.get(timeout=0.01)
    assert waiting.get(timeout=60) is None


def test_system_exit_in_a_task_is_an_error_like_others(rc: Client) -> None:
    import sys

    with pytest.raises(ipp.RemoteError, match="SystemExit: 3"):
        rc[0].apply_sync(sys.exit, 3)
    assert rc[0].apply_sync(abs, -1) == 1


# -- event loops ------------------------------------------------------------------------------------------------------


def test_results_are_awaited_while_the_event_loop_goes_on(rc: Client, tmp_path: Path) -> None:
    @interactive
    def wait_for_file(path: str) -> int:
        import os

        while not os.path.exists(path):
            pass
        return 5

    async def main() -> tuple[Any, ...]:
        first = rc[0].apply_async(wait_for_file, str(tmp_path / "go"))
        others = [rc[1:].apply_async(abs, -1), rc.load_balanced_view([1, 2]).map_async(abs, [-1, -2])]
        values = [await other for other in others]
        assert not first.done()
        (tmp_path / "go").touch()
        assert await asyncio.wrap_future(first) == 5
        with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
            await rc[0].apply_async(operator.truediv, 1, 0)
        return await first, *values, await asyncio.gather(*map(asyncio.wrap_future, others))

    assert asyncio.run(main()) == (5, [1] * 3, [1, 2], [[1] * 3, [1, 2]])


def test_a_coroutine_that_is_cancelled_takes_its_call_back(rc: Client, tmp_path: Path) -> None:
    @interactive
    def wait_for_file(path: str) -> None:
        import os

        while not os.path.exists(path):
            pass

    async def main() -> ipp.AsyncResult:
        busy = rc[0].apply_async(wait_for_file, str(tmp_path / "go"))
        queued = rc[0].apply_async(abs, -1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queued, 0.01)
        (tmp_path / "go").touch()
        await busy
        return queued

    queued = asyncio.run(main())
    with pytest.raises(ipp.TaskAborted):
        queued.get(timeout=60)


def test_views_of_any_engine_are_views_of_all(rc: Client) -> None:
    for targets in (None, "all", "any"):
        assert repr(rc.load_balanced_view(targets)) == "<LoadBalancedView None>"
    with pytest.raises(TypeError, match="must be 'all'"):
        rc.direct_view("any")
