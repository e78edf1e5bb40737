"""Tasks that refuse the engine."""

from __future__ import annotations

from typing import Any

import pxcluster as ipp
import pytest
from engine_client import Engine, Failed
from pxcluster import error
from pxcluster._engine.state import ERROR, UNMET
from pxcluster._engine.unmet import status_of


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ipp.UnmetDependency("why"), UNMET),
        (ipp.TaskRejectError("why"), UNMET),
        (ipp.ImpossibleDependency("why"), ERROR),
        (ipp.DependencyTimeout("why"), ERROR),
        (error.RemoteUnmetDependency("UnmetDependency", "why", None), ERROR),
        (ImportError("why"), ERROR),
        (KeyboardInterrupt(), ERROR),
    ],
)
def test_status_of(raised: BaseException, status: int) -> None:
    assert status_of(raised) == status


def test_checks_refuse_the_engine(engine: Engine) -> None:
    space = engine.cell("def even(n): return n % 2 == 0\ndef f(n): return n\ndef reject(n): raise TaskRejectError(n)")
    space["TaskRejectError"] = ipp.TaskRejectError
    assert engine.map_batch(ipp.depend(space["even"], 2)(space["f"]), [5, 6]) == [5, 6]
    assert statuses(engine) == 0
    [payload] = engine.map_batch(ipp.depend(space["even"], 1)(space["f"]), [5], key=2)
    assert (payload["ename"], payload["engine_id"], statuses(engine)) == ("UnmetDependency", 3, UNMET)


def test_users_reject_tasks_themselves(engine: Engine) -> None:
    space = engine.cell("def f(n):\n  from pxcluster import TaskRejectError\n  raise TaskRejectError(n)")
    [payload] = engine.map_batch(space["f"], [5])
    assert (payload["ename"], payload["evalue"], statuses(engine)) == ("TaskRejectError", "5", UNMET)


def test_requirements(engine: Engine) -> None:
    space = engine.cell("def helper(): return 1\ndef f(n): return json.dumps([n, helper(), value])")
    required: Any = ipp.require("json", space["helper"], value=7)
    assert engine.map_batch(required(space["f"]), [5]) == ["[5, 1, 7]"]
    missing = ipp.require("no_such_module_at_all")(space["f"])
    [payload] = engine.map_batch(missing, [5], key=2)
    assert payload["ename"] == "UnmetDependency"
    assert "no_such_module_at_all" in payload["evalue"]
    assert statuses(engine) == UNMET
    with pytest.raises(Failed, match="UnmetDependency"):
        engine.apply(missing, 5)


def statuses(engine: Engine) -> int:
    """The status of the last batch, of one task or of tasks that ended alike."""
    return int(engine.runtime.replies[engine.token][0])
