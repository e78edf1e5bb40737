"""User code and user data at their worst: one clear error each, and the engines go on."""

from __future__ import annotations

import pickle
import threading
import types
from collections.abc import Callable, Iterator

import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from pxcluster import Client, interactive

pytestmark = pytest.mark.smoke

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def engines_go_on(rc: Client) -> Iterator[None]:
    """Every test here ends with the same engines doing the same work."""
    pids = rc[:].pull("__import__('os').getpid()", block=True)
    yield
    assert rc.ids == [0, 1, 2, 3]
    assert rc[:].pull("__import__('os').getpid()", block=True) == pids
    assert rc.load_balanced_view().map_sync(abs, [-1, -2]) == [1, 2]


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message
    assert "\n" not in message
    return message


def test_an_argument_that_cannot_be_pickled(rc: Client) -> None:
    lock = threading.Lock()
    for send in (
        lambda: rc[:].apply_async(abs, lock),
        lambda: rc[:].push({"lock": lock}),
        lambda: rc.load_balanced_view().map_async(abs, [1, lock]),
        lambda: rc[:].scatter("part", [lock] * 4),
    ):
        with pytest.raises(pickle.PicklingError) as caught:
            send()
        assert "lock" in one_line(caught.value)
    assert rc.outstanding == set()


def test_a_function_that_cannot_be_pickled(rc: Client) -> None:
    lock = threading.Lock()
    for view in (rc[:], rc.load_balanced_view()):
        with pytest.raises(pickle.PicklingError) as caught:
            view.apply_async(interactive(lambda: lock))
        assert "lock" in one_line(caught.value)


def test_a_result_that_cannot_be_pickled(rc: Client) -> None:
    make_lock = interactive(lambda _n=0: __import__("threading").Lock())
    for result in (rc[:].apply_async(make_lock), rc.load_balanced_view().map_async(make_lock, range(4))):
        errors = result.get(timeout=30, return_exceptions=True)
        assert {error.ename for error in errors} == {"SerializationError"}
        assert all("lock" in one_line(error) for error in errors)
    with pytest.raises(ipp.RemoteError, match=r"SerializationError.*lock"):
        rc[0].pull("__import__('threading').Lock()", block=True)


def test_a_result_that_cannot_be_unpickled_here(rc: Client) -> None:
    rc[:].execute(
        "import sys, types\nm = types.ModuleType('only_there'); sys.modules['only_there'] = m", block=True
    ).get()
    rc[:].execute("exec('class Thing: pass', vars(m)); m.Thing.__module__ = 'only_there'", block=True).get()
    with pytest.raises(Exception, match="only_there") as caught:
        rc[0].apply_async(interactive(lambda: m.Thing())).get(timeout=30)  # noqa: F821
    assert not isinstance(caught.value, TimeoutError)


def test_a_function_whose_module_the_engines_lack(rc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("def f(x): return x", vars(module))
    monkeypatch.setitem(__import__("sys").modules, "only_here", module)
    with pytest.raises(ipp.RemoteError, match="ModuleNotFoundError: No module named 'only_here'"):
        rc[0].apply_async(vars(module)["f"], 1).get(timeout=30)
    with pytest.raises(ipp.RemoteError, match="ModuleNotFoundError: No module named 'only_here'"):
        rc.load_balanced_view().map_async(vars(module)["f"], [1]).get(timeout=30)


def test_an_exception_that_cannot_be_shown(rc: Client) -> None:
    code = "class Bad(Exception):\n    def __str__(self): raise ValueError('no')\n    __repr__ = __str__\n"
    rc[:].execute(code, block=True).get()
    raise_bad = interactive(lambda _n=0: (_ for _ in ()).throw(Bad()))  # noqa: F821
    results = [
        rc[:].apply_async(raise_bad),
        rc.load_balanced_view().map_async(raise_bad, range(4)),
        rc[:].execute("raise Bad()", block=False),
    ]
    for result in results:
        errors = result.get(timeout=30, return_exceptions=True)
        assert [error.ename for error in errors] == ["Bad"] * 4
        assert all("str() of this Bad raised ValueError" in error.evalue for error in errors)


def test_exceptions_that_are_no_ordinary_ones(rc: Client) -> None:
    for code, ename in [
        ("raise SystemExit(4)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def deep(): deep()\ndeep()", "RecursionError"),
        ("raise BaseExceptionGroup('both', [ValueError(1), SystemExit(2)])", "BaseExceptionGroup"),
        ("bytearray(1 << 60)", "MemoryError"),
        ("input()", "StdinNotImplementedError"),
    ]:
        error = rc[0].execute(code, block=False).get(timeout=30, return_exceptions=True)
        assert getattr(error, "ename", error) == ename, code
    with pytest.raises(ipp.RemoteError, match="SystemExit: 5"):
        rc.load_balanced_view().map_sync(interactive(lambda n: __import__("sys").exit(n)), [5])


@pytest.mark.parametrize("code", ["for", "x = = 1", "def f(:\n  pass", "'open", "if 1:\nx", "%nonsense", "\0"])
def test_code_that_is_no_python(rc: Client, code: str) -> None:
    result = rc[:].execute(code, block=False)
    errors = result.get(timeout=30, return_exceptions=True)
    wanted = {"UsageError"} if code.startswith("%") else {"SyntaxError", "IndentationError", "ValueError"}
    assert {error.ename for error in errors} <= wanted
    assert all("pxcluster" not in error.traceback for error in errors)


def test_names_that_cannot_be_pushed_or_pulled(rc: Client) -> None:
    for expression in ("1 +", "no such name", ""):
        with pytest.raises(ipp.RemoteError):
            rc[0].pull(expression, block=True)
    with pytest.raises(TypeError):
        rc[0].push([1, 2], block=True)


@pytest.mark.timeout(300)
def test_a_hundred_megabytes_of_output_are_cut(rc: Client) -> None:
    line = "x" * 1023 + "\\n"
    result = rc[1].execute(
        f"import sys\nfor _ in range({100 * 1024}): sys.stdout.write('{line}')\nresult = 1", block=False
    )
    result.get(timeout=250)
    result.wait_for_output(timeout=100)
    assert 15 * MEGABYTE < len(result.stdout) <= 16 * MEGABYTE
    sentences = [line for line in result.stderr.splitlines() if line]
    assert len(sentences) == 2
    assert "wrote more than 16777216 bytes of output" in sentences[0]
    assert "dropped" in sentences[1]
    assert rc[1]["result"] == 1


def test_output_that_is_no_text(rc: Client) -> None:
    result = rc[0].execute(r"import sys; sys.stdout.buffer.write(b'\xff\x00'); print('\ud800', chr(0))", block=False)
    result.get(timeout=30)
    result.wait_for_output(timeout=30)
    assert result.stdout.startswith("\\xff")


def test_mpi4py_without_threads_is_refused(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2, env={"PXCLUSTER_MPI_THREADS": "serialized"})
    assert "cannot import mpi4py" in cluster.log()
    view = cluster.client()[:]
    for code in ("import mpi4py", "from mpi4py import MPI"):
        for error in view.execute(code, block=False).get(timeout=60, return_exceptions=True):
            assert error.ename == "ImportError"
            assert "MPI_THREAD_MULTIPLE" in one_line(error)
    assert view.apply_sync(abs, -1) == [1, 1]
