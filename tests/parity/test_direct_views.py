"""Direct views: calls and data on engines that are named."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Any

import pytest
from harness.gates import Gate, pass_gate

from .functions import add, everything, fail, fail_at_two, pid, square, uses_a_name
from .peers import Peer

RANGES = [range(3), range(3, 6), range(6, 8), range(8, 10)]


@pytest.mark.smoke
def test_apply_on_one_and_on_several(rc: Any, ipp: Any) -> None:
    pids = rc[:].apply_sync(pid)
    assert len(set(pids)) == 4
    assert rc[2].apply_sync(pid) == pids[2]
    assert rc[[2]].apply_sync(pid) == [pids[2]]
    assert rc[[3, 1]].apply_sync(pid) == [pids[3], pids[1]]
    assert rc.direct_view("all").apply_sync(pid) == pids
    assert rc.broadcast_view().apply_sync(pid) == pids
    result = rc[:].apply_async(square, 3)
    assert isinstance(result, ipp.AsyncResult)
    assert result.get(timeout=60) == [9] * 4


def test_apply_takes_any_arguments(rc: Any) -> None:
    assert rc[0].apply_sync(everything, 1, "b", f=[3], x={4}) == ((1, "b"), [3], {"x": {4}})
    assert rc[0].apply_sync(functools.partial(operator.add, 1), 2) == 3
    assert rc[0].apply_sync("{}-{}".format, 1, 2) == "1-2"
    assert rc[0].apply_sync(len, "four") == 4


def test_block_decides_what_apply_returns(rc: Any, ipp: Any) -> None:
    view = rc[:]
    assert isinstance(view.apply(abs, -1), ipp.AsyncResult)
    view.block = True
    assert view.apply(abs, -1) == [1] * 4
    assert isinstance(view.apply_async(abs, -1), ipp.AsyncResult)
    with view.temp_flags(block=False):
        assert view.block is False
        assert view.apply(abs, -2).get(timeout=60) == [2] * 4
    assert view.block is True


def test_flags(rc: Any) -> None:
    view = rc[:]
    assert view.set_flags(block=True, label="mine") is view
    assert (view.block, view.label) == (True, "mine")
    with pytest.raises(KeyError, match="nonsense"):
        view.set_flags(nonsense=1)
    with view.temp_flags(targets=[0, 1], block=True):
        assert view.apply(square, 2) == [4, 4]
        assert len(view) == 2
    assert view.targets == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError), view.temp_flags(label="other"):
        1 / 0  # noqa: B018
    assert view.label == "mine"


def test_labels_are_metadata(rc: Any) -> None:
    view = rc[:]
    assert view.apply_async(square, 1).metadata[0]["label"] is None
    with view.temp_flags(label="squares"):
        result = view.apply_async(square, 2)
    assert result.get(timeout=60) == [4] * 4
    assert result.label == ["squares"] * 4
    mapped = view.map_async(square, range(4), label="a map")
    assert mapped.get(timeout=60) == [0, 1, 4, 9]
    assert mapped.label == ["a map"] * 4
    executed = view.execute("0", label="a cell")
    executed.get(timeout=60)
    assert executed.label == ["a cell"] * 4


def test_map(rc: Any, ipp: Any) -> None:
    view = rc[:]
    result = view.map(square, range(10))
    assert isinstance(result, ipp.AsyncMapResult)
    assert result.get(timeout=60) == [x * x for x in range(10)]
    assert view.map_sync(square, range(10)) == [x * x for x in range(10)]
    assert view.map_sync(add, range(5), [10] * 5) == [10, 11, 12, 13, 14]
    assert view.map(square, [3], block=True) == [9]
    assert list(view.imap(square, range(6))) == [0, 1, 4, 9, 16, 25]
    assert rc[1].map_sync(square, range(3)) == [0, 1, 4]


def test_map_of_generators_unequal_and_empty_sequences(peer: Peer, dv: Any) -> None:
    assert dv.map(square, (x for x in range(3))) == [0, 1, 4]
    assert dv.map(add, [1, 2, 3], [10, 20]) == [11, 22]
    assert dv.map(add, [1, 2, 3], []) == []
    assert dv.map(square, []) == []
    problem = TypeError if peer.differs("a map without sequences") else AssertionError
    with pytest.raises(problem, match="must have some sequences to map onto!"):
        dv.map(square)


def test_map_with_block_twice(dv: Any) -> None:
    for name in ("map_async", "map_sync"):
        with pytest.raises(TypeError, match=f"{name} doesn't take a `block` keyword argument"):
            getattr(dv, name)(square, [1], block=True)


def test_failures_in_maps(rc: Any, ipp: Any) -> None:
    view = rc[:]
    with pytest.raises(ipp.CompositeError, match=r"one or more exceptions raised in: fail_at_two\n\[2:apply\]Value"):
        view.map_sync(fail_at_two, range(4))
    found = view.map_sync(fail_at_two, range(4), return_exceptions=True)
    assert [found[0], found[1], found[3]] == [0, 1, 3]
    assert isinstance(found[2], ipp.RemoteError)


@pytest.mark.smoke
def test_push_and_pull(rc: Any, dv: Any) -> None:
    assert dv.push({"pushed": 5, "other": [1]}) == [None] * 4
    assert dv.pull("pushed") == [5] * 4
    assert dv.pull(["pushed", "other"]) == [[5, [1]]] * 4
    assert dv.pull("pushed + 1") == [6] * 4
    assert dv.pull("other.__len__()") == [1] * 4
    assert dv.pull("pushed", targets=2) == 5
    assert dv.pull("pushed", targets=[1, 2]) == [5, 5]
    assert rc[0].pull("pushed", block=True) == 5
    assert rc[[0]].pull("pushed", block=True) == [5]
    dv.push({"pushed": 6}, targets=[0, 1])
    assert dv.pull("pushed") == [6, 6, 5, 5]
    assert rc[:].push({"pushed": 7}, block=False).get(timeout=60) == [None] * 4


def test_names_in_brackets(rc: Any) -> None:
    view = rc[:]
    assert view.block is False
    view["bracketed"] = {"a": 1}
    assert view["bracketed"] == [{"a": 1}] * 4
    assert rc[3]["bracketed"] == {"a": 1}
    assert view["bracketed['a'] + 1"] == [2] * 4
    assert view.get("bracketed") == [{"a": 1}] * 4
    assert view.update({"bracketed": 2}).get(timeout=60) == [None] * 4
    assert view.get(["bracketed"]) == [[2]] * 4


def test_what_cannot_be_pushed_or_pulled(rc: Any, ipp: Any) -> None:
    with pytest.raises(TypeError, match="Must be a dict, not <class 'list'>"):
        rc[:].push(["a"])
    for names in (1, None, [1]):
        with pytest.raises(TypeError):
            rc[:].pull(names, block=True)
    with pytest.raises(ipp.CompositeError) as caught:
        rc[:]["never_bound"]
    assert str(caught.value) == "one or more exceptions raised in: _pull\n" + "\n".join(
        f"[{engine}:apply]NameError: name 'never_bound' is not defined" for engine in range(4)
    )
    with pytest.raises(ipp.RemoteError, match=r"^\[1:apply\] NameError: name 'never_bound' is not defined$"):
        rc[1]["never_bound"]


@pytest.mark.smoke
def test_scatter_and_gather(dv: Any) -> None:
    assert dv.scatter("parts", list(range(10))) is None
    assert dv["parts"] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert dv.gather("parts") == list(range(10))
    dv.scatter("parts", range(10))
    assert dv["parts"] == RANGES
    dv.scatter("parts", "abcdefgh")
    assert dv["parts"] == ["ab", "cd", "ef", "gh"]


def test_scatter_round_robin(dv: Any) -> None:
    dv.scatter("turns", list(range(10)), dist="r")
    assert dv["turns"] == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert dv.gather("turns", dist="r") == list(range(10))


def test_scatter_few_items_and_flattened(rc: Any, dv: Any) -> None:
    dv.scatter("few", [1, 2])
    assert dv["few"] == [[1], [2], [], []]
    dv.scatter("flat", [1, 2, 3, 4], flatten=True)
    assert dv["flat"] == [1, 2, 3, 4]
    dv.scatter("some", [1, 2, 3, 4], targets=[1, 2])
    assert dv.pull("some", targets=[1, 2]) == [[1, 2], [3, 4]]
    assert dv.gather("some", targets=[1, 2]) == [1, 2, 3, 4]


def test_scatter_and_gather_without_waiting(rc: Any, ipp: Any) -> None:
    view = rc[:]
    scattered = view.scatter("later", [1, 2, 3, 4])
    assert repr(scattered).startswith("<AsyncResult(scatter): ")
    scattered.get(timeout=60)
    gathered = view.gather("later")
    assert isinstance(gathered, ipp.AsyncMapResult)
    assert gathered.get(timeout=60) == [1, 2, 3, 4]
    assert list(gathered) == [1, 2, 3, 4]
    assert repr(gathered) == "<AsyncMapResult(gather): finished>"


def test_arrays(dv: Any) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(2000.0).reshape(1000, 2)
    dv.scatter("rows", array)
    assert dv.pull("rows.shape") == [(250, 2)] * 4
    gathered = dv.gather("rows")
    assert numpy.array_equal(gathered, array)
    dv.push({"whole": array})
    dv.execute("whole[0, 0] = 7")
    pulled = dv.pull("whole", targets=1)
    pulled[0, 1] = 8
    assert (pulled[0, 0], pulled[0, 1], array[0, 0]) == (7.0, 8.0, 0.0)


@pytest.mark.smoke
def test_execute(rc: Any, ipp: Any) -> None:
    view = rc[:]
    result = view.execute("executed = 20", block=True)
    assert isinstance(result, ipp.AsyncResult)
    assert repr(result) == "<AsyncResult(execute): finished>"
    rc[1].execute("executed += 1", block=True)
    assert view["executed"] == [20, 21, 20, 20]
    assert view.execute("executed = 1", targets=[0, 3]).get(timeout=60) is not None
    assert view["executed"] == [1, 21, 20, 1]


def test_errors_of_execute(rc: Any, ipp: Any) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        rc[:].execute("1 / 0", block=True)
    assert str(caught.value) == "one or more exceptions raised in: execute\n" + "\n".join(
        f"[{engine}:execute]ZeroDivisionError: division by zero" for engine in range(4)
    )
    with pytest.raises(ipp.RemoteError, match=r"^\[3:execute\] SyntaxError: "):
        rc[3].execute("a b", block=True)


def test_what_waits_behind_an_error(peer: Peer, rc: Any, ipp: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        rc[0].apply_async(pass_gate, None, gate.folder)
        failing = rc[0].execute("1 / 0", silent=False)
        behind = rc[0].execute("went_on = 1", silent=False)
        gate.open()
        with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
            failing.get(timeout=60)
        if peer.differs("an error in `execute`"):
            behind.get(timeout=60)
            assert rc[0]["went_on"] == 1
        else:
            with pytest.raises(ipp.TaskAborted):
                behind.get(timeout=60)


def test_what_execute_answers(rc: Any) -> None:
    reply = rc[0].execute("6 * 7", silent=False, block=True).get()
    assert reply.data["text/plain"] == "42"
    assert reply.execute_result["data"]["text/plain"] == "42"
    assert repr(reply) == f"<ExecuteReply[{reply.execution_count}]: 42>"
    assert reply.engine_id == reply["engine_id"] == 0
    assert reply.metadata.status == "ok"
    assert reply.source == ""
    again = rc[0].execute("None", silent=False, block=True).get()
    assert again.execution_count == reply.execution_count + 1
    assert again.data == {}
    assert repr(again) == f"<ExecuteReply[{again.execution_count}]: >"
    long = rc[0].execute("'x' * 100", silent=False, block=True).get()
    assert repr(long) == f"<ExecuteReply[{long.execution_count}]: '{'x' * 28}...>"
    silent = rc[0].execute("6 * 7", block=True).get()
    assert silent.data == {}
    with pytest.raises(AttributeError):
        _ = reply.nonsense
    with pytest.raises(KeyError):
        reply["nonsense"]


def test_rich_results(rc: Any) -> None:
    code = "class Rich:\n    def _repr_html_(self): return '<b>x</b>'\nRich()"
    reply = rc[0].execute(code, silent=False, block=True).get()
    assert reply.data["text/html"] == "<b>x</b>"
    assert reply._repr_html_() == "<b>x</b>"
    assert not hasattr(reply, "_repr_png_") or reply._repr_png_() is None


def test_run(rc: Any, dv: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("ran = 'é'\n", encoding="utf-8")
    dv.run(str(script))
    assert dv["ran"] == ["é"] * 4
    with pytest.raises(OSError, match="nowhere"):
        dv.run(str(tmp_path / "nowhere.py"))


def test_sync_imports(dv: Any, ipp: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with dv.sync_imports():
        import colorsys  # noqa: F401
        from wave import open as _wave_open  # noqa: F401
    assert capsys.readouterr().out == "importing colorsys on engine(s)\nimporting open from wave on engine(s)\n"
    assert dv.pull("colorsys.__name__") == ["colorsys"] * 4
    assert dv.pull("open.__module__") == ["wave"] * 4
    dv.execute("del open")
    with dv.sync_imports(quiet=True):
        import sched as renamed  # noqa: F401
    assert capsys.readouterr().out == ""
    assert dv.pull("sched.__name__") == ["sched"] * 4
    assert dv.pull("'renamed' in globals()") == [False] * 4
    with pytest.raises(ModuleNotFoundError), dv.sync_imports():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(NotImplementedError, match="remote-only imports"), dv.sync_imports(local=False):
        import sched  # noqa: F401


def test_a_push_comes_before_what_follows(peer: Peer, rc: Any, lbv: Any) -> None:
    view = rc[:]
    view.push({"ahead": 0}, block=True)
    view.push({"ahead": 1})
    if peer.differs("a task after a push"):
        assert lbv.apply_sync(eval, "__import__('__main__').ahead") == 1
    assert view["ahead"] == [1] * 4


def test_functions_use_the_engines_names(rc: Any, dv: Any, ipp: Any) -> None:
    with pytest.raises(ipp.RemoteError, match="NameError: name 'name_of_engines' is not defined"):
        rc[0].apply_sync(uses_a_name)
    dv["name_of_engines"] = 3
    assert dv.apply(uses_a_name) == [4] * 4


def test_failing_arguments(rc: Any, ipp: Any) -> None:
    with pytest.raises(ipp.CompositeError, match="ValueError: oh"):
        rc[:].apply_sync(fail)
    with pytest.raises(ipp.RemoteError, match=r"TypeError: .*square"):
        rc[0].apply_sync(square)


def test_a_views_own_calls(rc: Any) -> None:
    view = rc[:]
    assert view.history == []
    result = view.apply_async(square, 2)
    assert view.history == result.msg_ids
    assert view.wait(timeout=60) is True
    assert view.outstanding == set()
    assert view.get_result(0).get(timeout=60) == 4
    assert set(view.queue_status()) == {0, 1, 2, 3, "unassigned"}


def test_pickling_switches(rc: Any, dv: Any) -> None:
    dv.use_cloudpickle()
    assert dv.apply(square, 3) == [9] * 4
    dv.use_pickle()
    assert dv.apply(square, 4) == [16] * 4


def test_references(rc: Any, ipp: Any, dv: Any) -> None:
    dv.push({"referred": 5, "function": square})
    assert dv.apply(square, ipp.Reference("referred")) == [25] * 4
    assert dv.apply(ipp.Reference("function"), 3) == [9] * 4
    assert dv.apply(add, ipp.Reference("referred + 1"), 1) == [7] * 4
    assert dv.apply(len, [ipp.Reference("referred")]) == [1] * 4
    assert dv.apply(everything, x=ipp.Reference("referred"))[0] == ((), None, {"x": 5})
    dv.push({"second": ipp.Reference("referred")})
    assert dv["second"] == [5] * 4
    assert repr(ipp.Reference("x")) == "<Reference: 'x'>"
    assert ipp.Reference("x").name == "x"
    with pytest.raises(TypeError):
        ipp.Reference(1)
