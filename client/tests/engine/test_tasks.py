"""Batches of load-balanced tasks."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from engine_client import Engine, Failed
from pxcluster._engine import main, tasks
from pxcluster.serialize import dumps_task


def test_results_in_order_of_items(engine: Engine) -> None:
    space = engine.cell("def f(n): return n * n")
    assert engine.map_batch(space["f"], range(5)) == [0, 1, 4, 9, 16]
    assert engine.map_batch(None, [5], known=True) == [25]


@pytest.mark.parametrize(
    ("star", "chunked", "items", "expected"),
    [
        (True, False, [(1, 2), (3, 4)], [-1, -1]),
        (True, True, [[(1, 2), (5, 2)], [(0, 1)]], [[-1, 3], [-1]]),
        (False, True, [[1, 2], []], [[1, 2], []]),
    ],
)
def test_shapes_of_items(engine: Engine, star: bool, chunked: bool, items: Any, expected: Any) -> None:
    space = engine.cell("def f(a, b=0): return a - b")
    assert engine.map_batch(space["f"], items, star=star, chunked=chunked) == expected


def test_failures_are_results(engine: Engine) -> None:
    space = engine.cell("def f(n): return 1 // n")
    one, failed, two = engine.map_batch(space["f"], [1, 0, 1])
    assert (one, two) == (1, 1)
    assert failed["ename"] == "ZeroDivisionError"
    assert failed["method"] == "apply"


def test_only_the_first_failures_are_rendered_whole(engine: Engine) -> None:
    space = engine.cell("def f(n): return 1 // n", label=("Cell", "In[2]"))
    payloads = engine.map_batch(space["f"], [0] * (tasks.FULL_TRACEBACKS + 2))
    assert "----> 1" in _plain(payloads[tasks.FULL_TRACEBACKS - 1]["traceback"])
    assert payloads[-1]["traceback"].endswith("in f\nZeroDivisionError: integer division or modulo by zero")


def _plain(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_function_that_cannot_be_loaded(engine: Engine) -> None:
    data = b"cno_such_module\nf\n."
    engine.runtime.work = iter([("tasks", 50, 9, data, [dumps_task(1)] * 2, 0), ("forget", 9)])
    main.serve(engine.runtime.next())
    status, payloads = engine.runtime.replies[50]
    assert status == 1
    assert [payload["ename"] for payload in payloads] == ["ModuleNotFoundError"] * 2
    main.serve(engine.runtime.next())
    assert tasks._maps == {}


def test_unpicklable_results_and_exits(engine: Engine) -> None:
    space = engine.cell("import sys\ndef f(n):\n  if n: return (i for i in 'ab')\n  raise SystemExit(1)")
    generator, exited = engine.map_batch(space["f"], [1, 0])
    assert generator["ename"] == "SerializationError"
    assert exited["ename"] == "SystemExit"


def test_output_names_its_task(engine: Engine) -> None:
    space = engine.cell("def f(n): print(n)")
    engine.map_batch(space["f"], [7, 8], first=20)
    assert [(task, text) for _, task, _, text in engine.runtime.outputs if text != "\n"] == [(20, "7"), (21, "8")]


def test_interrupt_ends_one_task(engine: Engine) -> None:
    space = engine.cell("def f(n):\n  if n == 1:\n    kick()\n    while True: pass\n  return n")
    main_thread = threading.main_thread().ident or 0
    engine.space["kick"] = lambda: threading.Thread(
        target=signal.pthread_kill, args=(main_thread, signal.SIGINT), daemon=True
    ).start()
    first, second, third = engine.map_batch(space["f"], [0, 1, 2])
    assert (first, third) == (0, 2)
    assert second["ename"] == "KeyboardInterrupt"


def interrupted_half_way() -> Any:
    signal.raise_signal(signal.SIGINT)
    return abs


def test_an_interrupt_waits_for_a_function_to_be_loaded(engine: Engine) -> None:
    """It may import modules, and a half import can be final."""

    class Interrupted:
        def __reduce__(self) -> Any:
            return interrupted_half_way, ()

    first, second = engine.map_batch(Interrupted(), [-1, -2])
    assert first["ename"] == "KeyboardInterrupt"
    assert second == 2


def test_interrupt_between_tasks_loses_nothing(engine: Engine) -> None:
    """The runtime's own call is the latest moment at which a signal can still hit the loop."""
    space = engine.cell("def f(n): return n")
    hits = iter([True])

    def on_user_code(on: bool) -> None:
        if on and next(hits, False):
            raise KeyboardInterrupt

    engine.runtime.on_user_code = on_user_code
    first, second = engine.map_batch(space["f"], [1, 2])
    assert first["ename"] == "KeyboardInterrupt"
    assert second == 2


def test_second_interrupt_still_answers(engine: Engine) -> None:
    space = engine.cell("def f(n): return n")
    hits = iter([True, True])

    def on_user_code(_on: bool) -> None:
        if next(hits, False):
            raise KeyboardInterrupt

    engine.runtime.on_user_code = on_user_code
    assert [payload["ename"] for payload in engine.map_batch(space["f"], [1, 2])] == ["KeyboardInterrupt"] * 2
    hits = iter([True, True])
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        engine.apply(len, "a")
    assert engine.apply(len, "a") == 1
