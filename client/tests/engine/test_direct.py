"""apply, push, pull, clear, and what the engine says when they fail."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

import pytest
from engine_client import Engine, Failed
from pxcluster._engine import main
from pxcluster.serialize import Reference


def test_apply_uses_the_engines_globals(engine: Engine) -> None:
    space = engine.cell("CONSTANT = 7\ndef f(n): return CONSTANT * n")
    with pytest.raises(Failed, match="NameError: name 'CONSTANT' is not defined"):
        engine.apply(space["f"], 2)
    engine.direct("push", {"CONSTANT": 5})
    assert engine.apply(space["f"], 2) == 10
    assert engine.apply(space["f"], n=3) == 15


def test_pull_takes_expressions(engine: Engine) -> None:
    engine.direct("push", {"a": 2, "b": [1, 2]})
    assert engine.direct("pull", "a + b[1]") == 4
    assert engine.direct("pull", ["a", " b "]) == [2, [1, 2]]
    with pytest.raises(Failed, match="NameError") as error:
        engine.direct("pull", "missing")
    assert error.value.payload["method"] == "apply"


def test_references(engine: Engine) -> None:
    engine.direct("push", {"a": 2, "double": 0})
    engine.execute("def double(n): return 2 * n")
    assert engine.apply(Reference("double"), Reference("a + 1")) == 6
    assert engine.apply(len, [Reference("a"), 1]) == 2
    space = engine.cell("def same(*args, **kwargs): return args, kwargs")
    assert engine.apply(space["same"], (Reference("a"),), {"k": Reference("a")}, x={Reference("a")}) == (
        ((2,), {"k": 2}),
        {"x": {2}},
    )
    engine.direct("push", {"c": Reference("a * 10")})
    assert engine.direct("pull", "c") == 20
    assert engine.map_batch(Reference("double"), [1, Reference("a")]) == [2, 4]
    with pytest.raises(Failed, match="NameError"):
        engine.apply(len, Reference("nothing"))


def test_clear_leaves_a_usable_engine(engine: Engine) -> None:
    engine.execute("import os\nx = 1\nx")
    engine.direct("clear", None)
    with pytest.raises(Failed, match="name 'x' is not defined"):
        engine.execute("print(x)")
    assert engine.execute("In[-1], _") == "('In[-1], _', '')"
    assert engine.execute("get_ipython() is not None") == "True"
    assert engine.count == 4
    assert "os" not in engine.space


def test_clear_before_any_shell(engine: Engine) -> None:
    engine.direct("push", {"x": 1})
    engine.direct("clear", None)
    assert "x" not in engine.space
    assert engine.space["__name__"] == "__main__"


def test_payload(engine: Engine) -> None:
    space = engine.cell("def outer(n):\n  return inner(n)\ndef inner(n):\n  return 1 / n", label=("Cell", "In[5]"))
    engine.direct("push", {"inner": space["inner"]})
    with pytest.raises(Failed) as error:
        engine.apply(space["outer"], 0)
    payload = error.value.payload
    assert payload["ename"] == "ZeroDivisionError"
    assert payload["evalue"] == "division by zero"
    assert (payload["engine_id"], payload["engine_uuid"], payload["method"]) == (3, "3c1e", "apply")
    plain = _uncoloured(error.value.traceback)
    assert "Cell In[5], line 2, in outer(n)" in plain
    assert "----> 4   return 1 / n" in plain
    assert "pxcluster" not in plain
    assert plain.endswith("ZeroDivisionError: division by zero")


def _uncoloured(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_chained_errors(engine: Engine) -> None:
    space = engine.cell(
        "def f():\n  try:\n    {}['k']\n  except KeyError as e:\n    raise ValueError('second') from e\n"
    )
    with pytest.raises(Failed, match="ValueError: second") as error:
        engine.apply(space["f"])
    plain = _uncoloured(error.value.traceback)
    assert "KeyError: 'k'" in plain
    assert "direct cause" in plain


@pytest.mark.parametrize(
    "body",
    [
        "def __str__(self): raise ValueError('no')",
        "def __repr__(self): raise ValueError('no')",
        "def _render_traceback_(self): raise ValueError('no')",
        "def __str__(self): return 3",
        "def __getattribute__(self, name): raise ValueError('no')",
    ],
)
def test_rude_exceptions(engine: Engine, body: str) -> None:
    with pytest.raises(Failed) as error:
        engine.execute(f"class Rude(Exception):\n  {body}\nraise Rude('x')")
    assert error.value.payload["ename"] == "Rude"
    assert isinstance(error.value.traceback, str)
    assert error.value.traceback
    assert engine.execute("1") == "1"


def test_lone_surrogates_and_groups(engine: Engine) -> None:
    with pytest.raises(Failed):
        engine.execute("raise ValueError('\\ud800')")
    with pytest.raises(Failed) as error:
        engine.execute("raise ExceptionGroup('many', [ValueError('a'), KeyError('b')])")
    assert "ValueError: a" in error.value.traceback


def test_exit_is_an_error_reply(engine: Engine) -> None:
    space = engine.cell("import sys\ndef f():\n  raise SystemExit(3)")
    with pytest.raises(Failed, match="SystemExit: 3"):
        engine.apply(space["f"])
    with pytest.raises(Failed, match="SystemExit"):
        engine.execute("import sys\nsys.exit()")
    assert engine.apply(len, "ab") == 2


def test_unpicklable_result_is_named(engine: Engine) -> None:
    space = engine.cell("def f():\n  import threading\n  return {'lock': threading.Lock()}")
    with pytest.raises(Failed, match=r"SerializationError: A 'lock' object, .*\(value of 'lock'\)"):
        engine.apply(space["f"])


def test_unknown_kind(engine: Engine) -> None:
    with pytest.raises(Failed, match="no request of kind 'dance'"):
        engine.direct("dance", None)


def test_arrays_arrive_writable(engine: Engine) -> None:
    numpy = pytest.importorskip("numpy")
    engine.direct("push", {"a": numpy.zeros(10000)})
    engine.execute("a[0] = 3")
    assert engine.direct("pull", "a")[0] == 3


def test_input_is_refused(engine: Engine) -> None:
    with pytest.raises(Failed, match=r"StdinNotImplementedError: .*push it"):
        engine.apply(input, "name? ")


def _interrupt() -> None:
    """What the comm thread does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(100)"])
def test_interrupt(engine: Engine, code: str) -> None:
    engine.runtime.on_user_code = lambda on: _once(engine) if on else None
    started = time.monotonic()
    with pytest.raises(Failed, match="KeyboardInterrupt") as error:
        engine.execute(code)
    assert error.value.payload["ename"] == "KeyboardInterrupt"
    assert time.monotonic() - started < 50
    _interrupt()  # a late one is swallowed
    assert engine.execute("2") == "2"


def _once(engine: Engine) -> None:
    engine.runtime.on_user_code = lambda _on: None
    ready = threading.Event()

    def send() -> None:
        ready.set()
        _interrupt()

    threading.Thread(target=send, daemon=True).start()
    ready.wait()


def test_main_serves_until_the_end(engine: Engine) -> None:
    runtime = engine.runtime
    runtime.work = iter([("direct", 90, "apply", engine.dumps((len, ("abc",), {}))), ("forget", 7)])
    main.main(runtime)
    assert runtime.replies == {90: (0, 3)}


def test_forked_child_is_cut_off(engine: Engine) -> None:
    code = (
        "import os\npid = os.fork()\nif pid == 0:\n  print('child')\n  1 / 0\n"
        "os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )
    if sys.version_info >= (3, 12):
        code = "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n" + code
    assert engine.execute(code) == "1"
    assert engine.runtime.text() == ""
    assert len(engine.runtime.replies) == 1


def test_mpi4py_joins_the_running_mpi(engine: Engine, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mpi4py"
    package.mkdir()
    (package / "__init__.py").write_text("class rc: initialize = True; finalize = None; errors = 'exception'\n")
    (package / "MPI.py").write_text(
        "class Comm:\n  def __init__(self, handle): self.handle = handle\n"
        "  @classmethod\n  def f2py(cls, handle): return cls(handle)\n"
        "  def Set_errhandler(self, handler): self.handler = handler\n"
        "class Intracomm(Comm):\n  def __init__(self, comm): self.handle = comm.handle\n"
        "COMM_WORLD = None\nERRORS_RETURN = 'return'\ndef Finalize(): raise AssertionError\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mpi4py", "mpi4py.MPI"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        monkeypatch.setattr(engine.runtime, "thread_multiple", False)
        with pytest.raises(Failed, match=r"ImportError: mpi4py cannot be used on this engine, .*MPI_THREAD_MULTIPLE"):
            engine.execute("import mpi4py")
        monkeypatch.setattr(engine.runtime, "thread_multiple", True)
        engine.execute("from mpi4py import MPI\nimport mpi4py")
        assert engine.direct("pull", "MPI.COMM_WORLD.handle, mpi4py.rc.initialize, mpi4py.rc.finalize") == (
            17,
            False,
            False,
        )
        assert engine.execute("import pxcluster._engine as e\ne.engine_comm() is MPI.COMM_WORLD") == "True"
        assert engine.direct("pull", "MPI.COMM_WORLD.handler, MPI.Finalize()") == ("return", None)
    finally:
        for name in ("mpi4py", "mpi4py.MPI"):
            sys.modules.pop(name, None)


def test_argv_and_file(engine: Engine) -> None:
    assert engine.direct("pull", "__import__('sys').argv") == [""]
    assert "__file__" not in engine.space


def test_start_imports_little() -> None:
    import subprocess

    code = "import sys, json, pxcluster._engine.main as m; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, env=environment, check=True)
    modules = set(json.loads(run.stdout))
    heavy = {"IPython", "numpy", "asyncio", "multiprocessing", "cloudpickle", "typing", "logging", "inspect", "ssl"}
    assert not modules & heavy
    assert not {name for name in modules if name.startswith("pxcluster.client")}
