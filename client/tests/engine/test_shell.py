"""execute: what a cell shows, returns and leaves behind."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_client import Engine, Failed
from pxcluster._engine import ipython_shell, shell


def test_results_and_counts(engine: Engine) -> None:
    assert engine.execute("1 + 1") == "2"
    assert engine.execute("x = 3") is None
    with pytest.raises(Failed) as error:
        engine.execute("1 / 0")
    assert (error.value.payload["method"], error.value.payload["execution_count"]) == ("execute", 3)
    assert engine.execute("x", silent=True) is None
    assert engine.execute("") is None
    assert engine.execute("x;") is None
    assert engine.execute("x, _") == "(3, 2)"
    assert engine.count == 7


def test_shell_is_made_at_the_first_execute(engine: Engine) -> None:
    engine.direct("push", {"x": 1})
    assert engine.map_batch(len, ["abc"]) == [3]
    assert shell._shell is None
    engine.execute("1")
    assert shell._shell is not None


def test_an_interrupt_waits_for_the_shell_to_be_made(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    make, steps = ipython_shell.make_shell, []

    def interrupted() -> Any:
        steps.append("begun")
        signal.raise_signal(signal.SIGINT)
        steps.append("interrupted")
        return make()

    monkeypatch.setattr(ipython_shell, "make_shell", interrupted)
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        engine.execute("1")
    assert steps == ["begun", "interrupted"]
    assert engine.execute("1 + 1") == "2"


def test_error_in_a_cell(engine: Engine) -> None:
    with pytest.raises(Failed) as error:
        engine.execute("np.random.random()")
    assert error.value.traceback == (
        "\x1b[31m---------------------------------------------------------------------------\x1b[39m\n"
        "\x1b[31mNameError\x1b[39m                                 Traceback (most recent call last)\n"
        "\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[1]\x1b[39m\x1b[32m, line 1\x1b[39m\n"
        "\x1b[32m----> \x1b[39m\x1b[32m1\x1b[39m np.random.random()\n\n"
        "\x1b[31mNameError\x1b[39m: name 'np' is not defined"
    )


def test_no_color(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(Failed) as error:
        engine.execute("1 / 0")
    assert "\x1b" not in error.value.traceback
    assert "Cell In[1], line 1" in error.value.traceback


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = (", "SyntaxError"),
        ("x = (", "was never closed"),
        ("  x = 1\n y = 2", "IndentationError"),
        ("%nothing", "UsageError: Line magic function `%nothing` not found."),
        ("%%nothing\n1", "UsageError: Cell magic `%%nothing` not found."),
        ("await 3", "TypeError"),
        ("exit()", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_failures(engine: Engine, code: str, expected: str) -> None:
    with pytest.raises(Failed) as error:
        engine.execute(code)
    assert expected in error.value.traceback
    assert "IPython/core" not in error.value.traceback
    assert engine.runtime.text("stderr") == ""
    assert engine.execute("1") == "1"
    assert engine.count == 2


def test_errors_shown_within_a_cell_are_printed(engine: Engine) -> None:
    engine.execute("try: 1 / 0\nexcept Exception: get_ipython().showtraceback()")
    assert "ZeroDivisionError" in engine.runtime.text("stderr")
    engine.execute("get_ipython().run_cell('1 / 0'); None")
    assert engine.runtime.text("stderr").count("division by zero") == 2


def test_magics(engine: Engine) -> None:
    engine.execute("%timeit -r 2 -n 1 sum(range(10))")
    assert re.search(r"per loop \(mean ± std. dev. of 2 runs, 1 loop each\)\n", engine.runtime.text())
    engine.execute("!echo hi")
    assert engine.runtime.text().endswith("hi\r\n")


def test_top_level_await(engine: Engine) -> None:
    assert engine.execute("import asyncio\nawait asyncio.sleep(0, 5)") == "5"


def test_display(engine: Engine) -> None:
    engine.execute("from IPython.display import display, HTML, Image\nprint('o'); display(HTML('<b>x</b>'))")
    assert [name for _, _, name, _ in engine.runtime.outputs] == ["stdout", "stdout", "display"]
    (shown,) = engine.runtime.displays()
    assert shown["data"] == {"text/plain": "<IPython.core.display.HTML object>", "text/html": "<b>x</b>"}
    assert shown["update"] is False
    engine.execute("d = display(1, display_id='one'); d.update(2)")
    first, second = engine.runtime.displays()[1:]
    assert first["transient"] == second["transient"] == {"display_id": "one"}
    assert second["update"] is True
    assert engine.execute("display({'image/png': b'x'}, raw=True)") is None
    assert engine.runtime.displays()[-1]["data"] == {"image/png": "eA=="}


def test_several_results_of_one_cell(engine: Engine) -> None:
    assert engine.execute("get_ipython().ast_node_interactivity = 'all'") is None
    assert engine.execute("1\n2") == "2"
    assert [shown["data"]["text/plain"] for shown in engine.runtime.displays()] == ["1"]


def test_display_in_an_applied_function(engine: Engine) -> None:
    pytest.importorskip("IPython")
    engine.execute("1")
    space = engine.cell("def f():\n  from IPython.display import display\n  display(3)")
    engine.apply(space["f"])
    assert engine.runtime.displays()[0]["data"] == {"text/plain": "3"}


def test_matplotlib_inline(engine: Engine) -> None:
    pytest.importorskip("matplotlib")
    engine.execute("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    (shown,) = engine.runtime.displays()
    assert shown["data"]["image/png"].startswith("iVBOR")


def test_cython(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("Cython")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    engine.execute("%load_ext cython")
    engine.execute("%%cython\ndef foo(int i):\n    return i + 1\n")
    assert engine.execute("foo(3)") == "4"
    assert engine.runtime.outputs == []


def test_nothing_is_written_at_home(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("IPYTHONDIR", raising=False)
    engine.execute("x = 1\nx")
    with pytest.raises(Failed):
        engine.execute("1 / 0")
    assert list(tmp_path.iterdir()) == []


def test_missing_ipython(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "IPython" or "ipython_shell" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(Failed, match=r"engine 3 cannot execute code, .*pip install ipython there") as error:
        engine.execute("1")
    assert "pip install" in error.value.traceback


def test_namespace_is_main(engine: Engine) -> None:
    engine.execute("import __main__\nx = 5")
    assert engine.execute("__main__.x, __name__") == "(5, '__main__')"
    assert engine.space["x"] == 5
    assert engine.apply(os.getpid) == os.getpid()


def test_functions_of_the_engine_come_back_with_their_cell(engine: Engine) -> None:
    engine.execute("def f(n):\n    return 1 / n")
    f: Any = engine.direct("pull", "f")
    with pytest.raises(Failed) as error:
        engine.apply(f, 0)
    assert "In[1]" in error.value.traceback
