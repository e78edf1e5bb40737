"""Functions that run on engines: remote, parallel, require, depend, interactive, Reference."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest

from .functions import add, double_all, is_engine, pid, square, total, uses_colorsys, uses_modules, uses_names
from .peers import Peer

REFUSED = "a load-balanced task that every engine refuses"


def test_remote_functions(rc: Any, ipp: Any) -> None:
    function = rc[:].remote(block=True)(square)
    assert isinstance(function, ipp.RemoteFunction)
    assert function(3) == [9] * 4
    assert function(x=4) == [16] * 4
    assert (function.func, function.block, function.view.targets) == (square, True, [0, 1, 2, 3])
    later = rc[:].remote(block=False)(square)
    assert later(3).get(timeout=60) == [9] * 4
    assert rc[0].remote(block=True)(square)(5) == 25
    assert rc.load_balanced_view().remote(block=True)(square)(5) == 25
    assert ipp.remote(rc[:], block=True)(square)(2) == [4] * 4


def test_names_and_docstrings(rc: Any, ipp: Any) -> None:
    def documented(x: int) -> int:
        """What it does."""
        return x

    remote = rc[:].remote()(documented)
    parallel = rc[:].parallel()(documented)
    assert remote.__name__ == parallel.__name__ == "documented"
    assert remote.__doc__ == "RemoteFunction wrapping:\nWhat it does."
    assert parallel.__doc__ == "ParallelFunction wrapping:\nWhat it does."


def test_flags_of_remote_functions(rc: Any) -> None:
    view = rc[:]
    function = view.remote(block=False, label="flagged")(square)
    result = function(2)
    result.get(timeout=60)
    assert result.label == ["flagged"] * 4
    assert view.label is None
    balanced = rc.load_balanced_view()
    assert balanced.remote(block=True, retries=2)(square)(2) == 4
    assert balanced.retries == 0


@pytest.mark.smoke
def test_parallel_functions(rc: Any, ipp: Any) -> None:
    function = rc[:].parallel(block=True)(square)
    assert isinstance(function, ipp.ParallelFunction)
    assert function.map(range(10)) == [x * x for x in range(10)]
    assert function.map([]) == []
    parts = rc[:].parallel(block=True)(double_all)
    assert parts(list(range(10))) == [2 * x for x in range(10)]
    assert ipp.parallel(rc[:], block=True)(add).map([1, 2, 3], [10, 20, 30]) == [11, 22, 33]
    assert rc[:].parallel(block=False)(square).map(range(3)).get(timeout=60) == [0, 1, 4]


def test_parallel_functions_by_parts(rc: Any) -> None:
    assert rc[:].parallel(block=True)(total)(list(range(10))) == [3, 12, 13, 17]
    assert rc[:].parallel(dist="r", block=True)(total)(list(range(10))) == [12, 15, 8, 10]
    assert rc[:].parallel(dist="r", block=True)(square).map(range(10)) == [x * x for x in range(10)]


def test_parallel_functions_of_unequal_sequences(rc: Any) -> None:
    function = rc[:].parallel(block=True)(add)
    with pytest.raises(ValueError, match="all sequences must have equal length"):
        function([1, 2, 3], [1, 2])
    assert function.map([1, 2, 3], [10, 20]) == [11, 22]
    with pytest.raises(TypeError, match="Unexpected keyword arguments"):
        function([1], y=[2])


@pytest.mark.parametrize("ordered", [True, False])
def test_parallel_functions_that_balance(rc: Any, ipp: Any, ordered: bool) -> None:
    view = rc.load_balanced_view()
    function = view.parallel(block=True, ordered=ordered, chunksize=2)(square)
    assert (function.ordered, function.chunksize) == (ordered, 2)
    assert sorted(function.map(range(10))) == [x * x for x in range(10)]
    waiting = ipp.parallel(view, ordered=ordered)(square).map(range(6))
    assert isinstance(waiting, ipp.AsyncMapResult)
    assert sorted(waiting) == [0, 1, 4, 9, 16, 25]


def test_require(rc: Any, ipp: Any, dv: Any) -> None:
    assert dv.apply(ipp.require("string", "textwrap")(uses_modules)) == ["ab", "ab", "ab", "ab"]
    assert dv.apply(ipp.require(colorsys)(uses_colorsys)) == [(0.0, 0.0, 1.0)] * 4
    assert dv.apply(ipp.require(square, factor=3)(uses_names), 2) == [12] * 4
    assert rc.load_balanced_view().apply_sync(ipp.require("string", "textwrap")(uses_modules)) == "ab"
    with pytest.raises(TypeError):
        ipp.require(5)


def test_require_what_is_nowhere(peer: Peer, rc: Any, ipp: Any) -> None:
    function = ipp.require("no_such_module")(square)
    with pytest.raises(ipp.error.KernelError, match="UnmetDependency"):
        rc[0].apply_sync(function, 2)
    if peer.differs(REFUSED):
        problem = rc.load_balanced_view().apply_async(function, 2).exception(timeout=60)
        assert isinstance(problem, ipp.ImpossibleDependency)
    direct = rc[0].apply_async(function, 2).exception(timeout=60)
    by_class = isinstance(direct, ipp.UnmetDependency)
    assert by_class is peer.differs("errors of the scheduler, UnmetDependency of a direct call")


@pytest.mark.smoke
def test_depend(rc: Any, ipp: Any) -> None:
    rc[:].push({"engine": -1}, block=True)
    for engine in rc.ids:
        rc[engine].push({"engine": engine}, block=True)
    pids = rc[:].apply_sync(pid)
    only_there = ipp.depend(is_engine, 2)(pid)
    assert isinstance(only_there, ipp.dependent)
    view = rc.load_balanced_view()
    assert [view.apply_sync(only_there) for _ in range(4)] == [pids[2]] * 4
    assert only_there.__name__ == "pid"


def test_depend_on_what_is_nowhere(peer: Peer, rc: Any, ipp: Any) -> None:
    nowhere = ipp.depend(is_engine, number=99)(pid)
    rc[:].push({"engine": 0}, block=True)
    if peer.differs(REFUSED):
        problem = rc.load_balanced_view().apply_async(nowhere).exception(timeout=60)
        assert isinstance(problem, ipp.ImpossibleDependency)
    with pytest.raises(ipp.error.KernelError, match="UnmetDependency"):
        rc[0].apply_sync(nowhere)


def test_interactive(ipp: Any, rc: Any) -> None:
    def here() -> str:
        return __name__

    marked = ipp.interactive(here)
    assert marked.__module__ == "__main__"
    assert marked.__name__ == "here"
    assert rc[0].apply_sync(marked) == "__main__"


def test_references_in_maps(rc: Any, ipp: Any) -> None:
    rc[:].push({"base": 10}, block=True)
    assert rc[:].map_sync(add, [1, 2, 3, 4], [ipp.Reference("base")] * 4) == [11, 12, 13, 14]
    assert rc.load_balanced_view().map_sync(ipp.Reference("abs"), [-1, -2]) == [1, 2]


def test_references_to_nothing(rc: Any, ipp: Any) -> None:
    with pytest.raises(ipp.RemoteError, match=r"\[0:apply\] NameError: name 'refers_to_nothing' is not defined"):
        rc[0].apply_sync(square, ipp.Reference("refers_to_nothing"))


def test_deep_references(peer: Peer, rc: Any, ipp: Any) -> None:
    rc[0]["deep"] = 3
    nested = {"a": [{"b": ipp.Reference("deep")}]}
    if peer.differs("`Reference`"):
        assert rc[0].apply_sync(str, nested) == "{'a': [{'b': 3}]}"
    else:
        assert "Reference" in rc[0].apply_sync(str, nested)
