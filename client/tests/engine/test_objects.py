"""Objects that clients keep on an engine."""

from __future__ import annotations

import operator
import pickle
from typing import Any

import numpy as np
import pytest
from engine_client import Engine, Failed
from pxcluster._engine import objects
from pxcluster.serialize import SerializationError, dumps


class Unloadable:
    """Can be pickled and cannot be loaded."""

    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


class Interrupted:
    """A SIGINT comes while it is loaded."""

    def __reduce__(self) -> Any:
        return _interrupt, ()


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_objects", {})


def test_everybody_gets_the_same_object(engine: Engine) -> None:
    objects.keep("s/1", "list", *dumps([1, 2]))
    first = objects.look_up("s/1", "list")
    assert first == [1, 2]
    assert objects.look_up("s/1", "list") is first
    objects.forget(["s/1", "never/there"])
    assert first == [1, 2]
    with pytest.raises(LookupError, match=r"the shared list is not on engine \d+: it was released or aborted"):
        objects.look_up("s/1", "list")


@pytest.mark.parametrize("size", [1000, 10_000, 300_000])
@pytest.mark.parametrize("mapped", [True, False])
def test_writing_to_a_private_object_is_nobody_elses_affair(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, mapped: bool
) -> None:
    if not mapped:
        monkeypatch.delattr("os.memfd_create")
    objects.keep_packed("s/1", "array", *dumps([np.arange(size), "x"]))
    first: Any = objects.look_up("s/1", "array")
    first[0][:] = -1
    second: Any = objects.look_up("s/1", "array")
    assert (second[0] == np.arange(size)).all()
    second[0][0] = 5
    objects.forget(["s/1"])
    assert (first[0] == -1).all()
    assert second[0][0] == 5
    assert second[1] == "x"


def test_the_reason_why_an_object_cannot_be_loaded_is_told_to_who_uses_it(engine: Engine) -> None:
    data = pickle.dumps(Unloadable())
    objects.keep("s/1", "thing", data)
    with pytest.raises(
        SerializationError, match=r"the thing cannot be loaded on this engine: ZeroDivisionError: division"
    ):
        objects.look_up("s/1", "thing")


def test_an_interrupted_object_is_not_there(engine: Engine) -> None:
    data = pickle.dumps(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        objects.keep("s/1", "thing", data)
    with pytest.raises(SerializationError, match="KeyboardInterrupt"):
        objects.look_up("s/1", "thing")


def test_requests_name_what_is_missing(engine: Engine) -> None:
    class Handle:
        def __reduce__(self) -> Any:
            return objects.look_up, ("s/9", "list")

    with pytest.raises(Failed, match=r"LookupError: the shared list is not on engine \d+"):
        engine.apply(len, Handle())
    [failed] = engine.map_batch(len, [Handle()])
    assert failed["ename"] == "LookupError"


def test_on_a_client_there_are_none() -> None:
    with pytest.raises(LookupError, match="on the engines of its cluster only, not in this process"):
        objects.look_up("s/1", "list")
