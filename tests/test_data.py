"""Data on its way: push, pull, scatter, gather, imports, arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pxcluster as ipp
import pytest
from harness.waiting import wait_for
from pxcluster import Client, interactive
from pxcluster.datapub import publish_data

MEGABYTE = 1 << 20


@pytest.mark.smoke
def test_push_and_pull(rc: Client) -> None:
    view = rc[:]
    view["a"] = 5
    view.push({"b": [1, 2], "c": {"x": 1.5}}, block=True)
    assert view["a"] == [5] * 4
    assert view.pull(["a", "b"], block=True) == [[5, [1, 2]]] * 4
    assert rc[1].pull("c['x'] + a", block=True) == 6.5
    assert rc[2]["b"] == [1, 2]
    view.update({"a": 6})
    assert view.get("a") == [6] * 4


def test_pulling_what_is_not_there(rc: Client) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        rc[:]["nope"]
    assert str(caught.value) == "one or more exceptions raised in: _pull\n" + "\n".join(
        f"[{engine}:apply]NameError: name 'nope' is not defined" for engine in range(4)
    )


def test_dv_items_block_whatever_the_view_says(rc: Client) -> None:
    view = rc[:]
    view.block = False
    view["a"] = 1
    assert view["a"] == [1] * 4
    assert isinstance(view.pull("a"), ipp.AsyncResult)


@pytest.mark.smoke
@pytest.mark.parametrize("length", [0, 1, 4, 10])
@pytest.mark.parametrize("dist", ["b", "r"])
def test_scatter_and_gather_a_list(rc: Client, length: int, dist: str) -> None:
    view = rc[:]
    view.scatter("part", list(range(length)), dist=dist, block=True)
    assert sorted(len(part) for part in view["part"]) == sorted(len(range(n, length, 4)) for n in range(4))
    assert view.gather("part", dist=dist, block=True) == list(range(length))


def test_scatter_flat(rc: Client) -> None:
    view = rc[:]
    view.scatter("rank", rc.ids, flatten=True, block=True)
    assert view["rank"] == [0, 1, 2, 3]


@pytest.mark.smoke
def test_scatter_and_gather_an_array(rc: Client) -> None:
    array = np.arange(22.0).reshape(11, 2)
    view = rc[:]
    view.scatter("part", array, block=True)
    assert [part.shape for part in view["part"]] == [(3, 2), (3, 2), (3, 2), (2, 2)]
    np.testing.assert_array_equal(view.gather("part", block=True), array)


@pytest.mark.smoke
def test_large_arrays_arrive_whole_and_writable(rc: Client) -> None:
    array = np.random.default_rng(1).integers(0, 256, 50 * MEGABYTE, dtype=np.uint8)
    view = rc[:]
    view["array"] = array
    view.execute("total = int(array.sum()); array[0] += 1", block=True).get()
    assert view["total"] == [int(array.sum())] * 4
    pulled = rc[3]["array"]
    assert pulled.flags.writeable
    assert pulled[0] == (int(array[0]) + 1) % 256
    np.testing.assert_array_equal(pulled[1:], array[1:])
    view.execute("del array", block=True)


def test_large_arguments_and_results_of_tasks(rc: Client) -> None:
    arrays = [np.full(MEGABYTE, n, dtype=np.float64) for n in range(6)]
    doubled = rc.load_balanced_view().map_sync(interactive(lambda array: array * 2), arrays)
    assert [array[-1] for array in doubled] == [0, 2, 4, 6, 8, 10]


def test_unusual_arrays(rc: Client) -> None:
    record = np.array([(1, 2.5, "a")], dtype=[("x", "i4"), ("y", "f8"), ("z", "U3")])
    objects = np.array([{"a": 1}, None], dtype=object)
    fortran = np.asfortranarray(np.arange(20_000.0).reshape(100, 200))
    strided = np.arange(100_000)[::7]
    for array in (record, objects, fortran, strided, np.float32(1.5), np.empty((0, 3))):
        back = rc[0].apply_sync(interactive(lambda x: x), array)
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype


@pytest.mark.parametrize("value", [b"", b"x" * 5 * MEGABYTE, bytearray(b"abc"), "ü" * 100_000, {1: {2: (3,)}}, None])
def test_values_come_back_as_they_were(rc: Client, value: Any) -> None:
    back = rc[0].apply_sync(interactive(lambda x: x), value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.smoke
def test_sync_imports(rc: Client, capsys: pytest.CaptureFixture[str]) -> None:
    with rc[:].sync_imports():
        import json  # noqa: F401
        from os import path
    assert capsys.readouterr().out == "importing json on engine(s)\nimporting path from os on engine(s)\n"
    assert rc[:].pull("json.dumps([1])", block=True) == ["[1]"] * 4
    assert rc[0].apply_sync(interactive(lambda: path.join("a", "b"))) == "a/b"


def test_require_imports_where_the_function_runs(rc: Client) -> None:
    wanted = ipp.require("math")(interactive(lambda: math.sqrt(4)))  # noqa: F821
    assert rc[:].apply_sync(wanted) == [2.0] * 4


@pytest.mark.smoke
def test_clear_empties_the_namespace(rc: Client) -> None:
    view = rc[:]
    view["a"] = 1
    view.clear(block=True)
    assert view.pull("'a' in globals()", block=True) == [False] * 4
    assert rc[0].apply_sync(os.getpid) > 0


def test_run_executes_a_file(rc: Client, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from_script = __name__\n")
    rc[:].run(str(script), block=True)
    assert rc[:]["from_script"] == ["__main__"] * 4


def test_queue_status(rc: Client) -> None:
    status = rc.queue_status()
    assert status["unassigned"] == 0
    assert set(status) == {"unassigned", 0, 1, 2, 3}
    before = status[1]["completed"]
    rc[1].apply_sync(abs, 1)
    assert rc.queue_status()[1] == {"queue": 0, "completed": before + 1, "tasks": 0}


# -- published while it runs ------------------------------------------------------------------------------------------


def test_data_that_is_published_is_there_before_the_end(rc: Client, tmp_path: Path) -> None:
    @interactive
    def simulate(stop: str) -> str:
        import os

        import numpy
        from pxcluster.datapub import publish_data

        for step in range(3):
            publish_data({"step": step, "field": numpy.full(4, step)})
        publish_data({"name": "x"})
        while not os.path.exists(stop):
            pass
        return "done"

    ar = rc[0].apply_async(simulate, str(tmp_path / "stop"))
    wait_for(lambda: "name" in ar.data, "what was published is there")
    assert not ar.ready()
    assert ar.data["step"] == 2
    np.testing.assert_array_equal(ar.data["field"], [2, 2, 2, 2])
    (tmp_path / "stop").touch()
    assert ar.get(timeout=60) == "done"
    assert ar.metadata["data"]["name"] == "x"
    assert ar.outputs == []


def test_every_engine_and_every_task_publishes_its_own(rc: Client) -> None:
    ar = rc[:].execute("from pxcluster.datapub import publish_data; import os; publish_data({'pid': os.getpid()})")
    ar.get(timeout=60)
    assert [data["pid"] for data in ar.data] == rc[:].apply_sync(os.getpid)

    @interactive
    def task(number: int) -> int:
        from pxcluster.datapub import publish_data

        publish_data({"number": number})
        return number

    amr = rc.load_balanced_view().map_async(task, range(20))
    assert amr.get(timeout=60) == list(range(20))
    assert [data["number"] for data in amr.data] == list(range(20))


def test_publishing_is_for_engines_and_dictionaries(rc: Client) -> None:
    with pytest.raises(RuntimeError, match="runs on an engine"):
        publish_data({"a": 1})
    with pytest.raises(ipp.RemoteError, match="takes a dict"):
        rc[0].apply_sync(publish_data, 5)
