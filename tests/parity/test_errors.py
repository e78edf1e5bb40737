"""Errors: the tree of classes, what they print, how they travel."""

from __future__ import annotations

import builtins
import pickle
import re
from typing import Any

import pytest

from .functions import fail, fails_with
from .peers import Peer

TREE = {
    "IPythonError": "Exception",
    "KernelError": "IPythonError",
    "EngineError": "KernelError",
    "NoEnginesRegistered": "KernelError",
    "TaskAborted": "KernelError",
    "TaskTimeout": "KernelError",
    "TaskRejectError": "KernelError",
    "UnmetDependency": "KernelError",
    "ImpossibleDependency": "UnmetDependency",
    "DependencyTimeout": "ImpossibleDependency",
    "InvalidDependency": "ImpossibleDependency",
    "RemoteError": "KernelError",
    "CompositeError": "RemoteError",
    "AlreadyDisplayedError": "RemoteError",
}


@pytest.mark.parametrize(("name", "base"), TREE.items())
def test_the_tree(ipp: Any, name: str, base: str) -> None:
    kind = getattr(ipp.error, name)
    assert kind.__mro__[1].__name__ == base
    assert getattr(ipp, name) is kind


def test_timeouts_are_pythons(ipp: Any) -> None:
    assert ipp.TimeoutError is ipp.error.TimeoutError is builtins.TimeoutError


def entry(engine: int, name: str = "E") -> tuple[str, str, str, dict[str, Any]]:
    return name, f"why {engine}", f"Traceback of {engine}\nsecond line", info(engine)


def info(engine: int, method: str = "apply") -> dict[str, Any]:
    return {"engine_id": engine, "engine_uuid": "u", "method": method}


def test_remote_error(ipp: Any, capsys: pytest.CaptureFixture[str]) -> None:
    error = ipp.RemoteError(*entry(3, "ValueError"))
    assert (error.ename, error.evalue, error.args) == ("ValueError", "why 3", ("ValueError", "why 3"))
    assert error.traceback == "Traceback of 3\nsecond line"
    assert error.engine_info == info(3)
    assert str(error) == "[3:apply] ValueError: why 3"
    assert repr(error) == "<RemoteError[3]:ValueError(why 3)>"
    assert error.render_traceback() == ["[3:apply]", "Traceback of 3", "second line"]
    assert error._render_traceback_() == error.render_traceback()
    error.print_traceback()
    assert capsys.readouterr().out == "[3:apply]\nTraceback of 3\nsecond line\n"


def test_remote_error_of_no_engine(ipp: Any) -> None:
    error = ipp.RemoteError("EngineError", "died", None)
    assert str(error) == "[Engine Exception] EngineError: died"
    assert error.engine_info == {}
    assert error.render_traceback() == ["[Engine Exception]", "No traceback available"]


def test_composite_error(ipp: Any, capsys: pytest.CaptureFixture[str]) -> None:
    error = ipp.CompositeError("one or more", [entry(0), entry(1)])
    assert (error.msg, error.tb_limit, len(error.elist)) == ("one or more", 4, 2)
    assert str(error) == "one or more\n[0:apply]E: why 0\n[1:apply]E: why 1"
    assert repr(error) == "CompositeError(2)"
    assert error.args == ("E", "E")
    shown = ["[0:apply]:", "Traceback of 0", "second line", "", "[1:apply]:", "Traceback of 1", "second line", ""]
    assert error.render_traceback() == shown
    error.print_traceback()
    assert capsys.readouterr().out == "\n".join(shown) + "\n"
    error.print_traceback(1)
    assert capsys.readouterr().out == "[1:apply]:\nTraceback of 1\nsecond line\n"
    with pytest.raises(ipp.RemoteError, match=r"^\[1:apply\] E: why 1$") as caught:
        error.raise_exception(1)
    assert type(caught.value) is ipp.RemoteError
    with pytest.raises(ipp.RemoteError, match="why 0"):
        error.raise_exception()
    for method in (error.raise_exception, error.print_traceback):
        with pytest.raises(IndexError, match="an exception with index 2 does not exist"):
            method(2)


def test_many_errors(ipp: Any) -> None:
    error = ipp.CompositeError("many", [entry(engine) for engine in range(7)])
    lines = "\n".join(f"[{engine}:apply]E: why {engine}" for engine in range(4))
    assert str(error) == f"many\n{lines}\n.... 3 more exceptions ..."
    assert error.render_traceback()[-1] == "... 3 more exceptions ..."
    assert error.render_traceback().count("second line") == 4


def test_already_displayed(ipp: Any) -> None:
    original = ipp.CompositeError("many", [entry(0), entry(1)])
    error = ipp.error.AlreadyDisplayedError(original)
    assert error.original_error is original
    assert error.n == 2
    assert repr(error) == "<AlreadyDisplayedError(2 errors)>"
    assert error.render_traceback() == ["2 errors"]


def test_no_engines(ipp: Any) -> None:
    assert str(ipp.NoEnginesRegistered()) == (
        "This operation requires engines. Try client.wait_for_engines(n) to wait for engines to register."
    )


@pytest.mark.smoke
def test_a_failed_call(rc: Any, ipp: Any) -> None:
    with pytest.raises(ipp.RemoteError) as caught:
        rc[1].apply_sync(fails_with, "KeyError", "missing")
    error = caught.value
    assert (error.ename, error.evalue) == ("KeyError", "'missing'")
    assert {key: error.engine_info[key] for key in ("engine_id", "method")} == {"engine_id": 1, "method": "apply"}
    assert isinstance(error.engine_info["engine_uuid"], str)
    assert error.render_traceback()[0] == "[1:apply]"
    assert re.sub(r"\x1b\[[\d;]*m", "", error.traceback).splitlines()[-1] == "KeyError: 'missing'"
    assert not isinstance(error, KeyError)


def test_a_failed_cell(rc: Any, ipp: Any) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        rc[:2].execute("raise RuntimeError('in a cell')", block=True)
    error = caught.value
    assert error.msg == "one or more exceptions raised in: execute"
    assert [(ename, evalue) for ename, evalue, _, _ in error.elist] == [("RuntimeError", "in a cell")] * 2
    assert [each["engine_id"] for *_, each in error.elist] == [0, 1]
    assert {each["method"] for *_, each in error.elist} == {"execute"}
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.render_traceback()))
    assert text.count("RuntimeError: in a cell") == 2
    assert "raise RuntimeError('in a cell')" in text


def test_where_tracebacks_lead(peer: Peer, rc: Any, ipp: Any) -> None:
    problem = rc[0].apply_async(fail).exception(timeout=60)
    text = re.sub(r"\x1b\[[\d;]*m", "", problem.traceback)
    if peer.differs("remote tracebacks"):
        assert "raise ValueError(message)" in text
        assert "pxcluster" not in text
    else:
        assert "ipyparallel" in text


@pytest.mark.parametrize("make", ["remote", "composite"])
def test_errors_are_pickled(peer: Peer, ipp: Any, make: str) -> None:
    error = ipp.RemoteError(*entry(1)) if make == "remote" else ipp.CompositeError("m", [entry(0), entry(1)])
    if make == "remote" and not peer.differs("a RemoteError that is pickled"):
        with pytest.raises(TypeError):
            pickle.loads(pickle.dumps(error))
        return
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.render_traceback() == error.render_traceback()


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "StopIteration", "MemoryError"])
def test_engines_survive(rc: Any, ipp: Any, name: str) -> None:
    with pytest.raises(ipp.RemoteError, match=name):
        rc[0].apply_sync(fails_with, name, "x")
    assert rc[0].apply_sync(abs, -1) == 1


def test_errors_with_odd_texts(rc: Any, ipp: Any) -> None:
    for text in ("", "é\n\x00", "x" * 10_000):
        problem = rc[0].apply_async(fails_with, "ValueError", text).exception(timeout=60)
        assert problem.evalue == text
