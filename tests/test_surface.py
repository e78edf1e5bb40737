"""Names of ipyparallel's that few programs use, against a real cluster: what travels and how, calls made again."""

from __future__ import annotations

import functools
import operator
import os
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import numpy
import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from pxcluster import Client, interactive, serialize

#: What a user types in a cell. Each `value` is called with the arguments that follow it.
TRAVELS: dict[str, tuple[str, tuple[Any, ...], object]] = {
    "closure": ("def outer(n):\n  def f(x): return x + n\n  return f\nvalue = outer(5)", (2,), 7),
    "deep closure": ("value = (lambda a: (lambda b: (lambda x: (a, b, x))))(1)(2)", (3,), (1, 2, 3)),
    "default": ("def value(x, y=[1]): return y + [x]", (2,), [1, 2]),
    "keyword only": ("def value(x, *, y=4, **more): return x, y, more", (1,), (1, 4, {})),
    "annotations": ("def value(x: int) -> str: return str(value_of.__annotations__)\nvalue_of = value", (1,), None),
    "generator": ("def numbers(n): yield from range(n)\nvalue = lambda n, g=numbers: list(g(n))", (3,), [0, 1, 2]),
    "decorated": (
        "import functools\ndef twice(f):\n  @functools.wraps(f)\n  def g(*a): return f(*a) * 2\n  return g\n"
        "@twice\ndef value(x):\n  'doc'\n  return x + 1",
        (4,),
        10,
    ),
    "cached": ("import functools\n@functools.cache\ndef value(x): return x * x", (5,), 25),
    "nested": ("def value(n):\n  def inner(k): return k * n\n  return [inner(k) for k in range(3)]", (2,), [0, 2, 4]),
    "recursive closure": (
        "def make():\n  def fact(n): return 1 if n < 2 else n * fact(n - 1)\n  return fact\nvalue = make()",
        (5,),
        120,
    ),
    "partial": ("import functools\nvalue = functools.partial(lambda a, b, *, c: (a, b, c), 1, c=3)", (2,), (1, 2, 3)),
    "partial of partial": ("import functools\nf = functools.partial(pow, 2)\nvalue = functools.partial(f, 3)", (), 8),
    "bound method": ("class A:\n  n = 3\n  def m(self, x): return x * self.n\nvalue = A().m", (4,), 12),
    "class method": ("class A:\n  @classmethod\n  def m(cls): return cls.__name__\nvalue = A.m", (), "A"),
    "method of a builtin": ("value = 'a-b'.split", ("-",), ["a", "b"]),
    "builtin": ("value = sorted", ([2, 1],), [1, 2]),
    "callable instance": ("class A:\n  def __call__(self, x): return x + 1\nvalue = A()", (1,), 2),
    "class": ("class A:\n  def __init__(self, x): self.x = x\n  def __eq__(s, o): return s.x == o.x\n"
              "class B(A): pass\nvalue = lambda x, kind=B: kind(x).x", (6,), 6),
    "dataclass": ("import dataclasses\n@dataclasses.dataclass\nclass D:\n  x: int = 1\n"
                  "value = lambda y, d=D(4): d.x + y", (1,), 5),
    "enum": ("import enum\nclass E(enum.Enum):\n  A = 1\nvalue = lambda e=E.A: e.name", (), "A"),
    "named tuple": ("import collections\nP = collections.namedtuple('P', 'x y')\nvalue = lambda p=P(1, 2): p.y", (), 2),
    "method of a class made by a library": (
        "import dataclasses\nD = dataclasses.make_dataclass('D', ['x'])\nvalue = lambda d=D(3): (d.x, repr(d))",
        (),
        (3, "D(x=3)"),
    ),
    "lambdas in containers": ("fs = {'a': [(lambda x: x + 1, [lambda x: x * 2])]}\n"
                              "value = lambda x, fs=fs: (fs['a'][0][0](x), fs['a'][0][1][0](x))", (3,), (4, 6)),
}  # fmt: skip


@pytest.fixture
def cell(main: types.ModuleType) -> Any:
    """Runs a cell in the client's ``__main__`` and gives its namespace."""

    def run(text: str) -> dict[str, Any]:
        exec(compile(text, "<cell>", "exec"), vars(main))
        return vars(main)

    return run


@pytest.fixture
def registered() -> Iterator[None]:
    """Registrations that a test makes here are undone."""
    yield
    ipp.can_map.clear()
    ipp.uncan_map.clear()


# -- what ipyparallel's canning covers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAVELS)
def test_functions_travel(rc: Client, cell: Any, name: str) -> None:
    text, arguments, expected = TRAVELS[name]
    value = cell(text)["value"]
    if expected is None:  # it looks at itself, by a name that the engine has to know
        rc[:].push({"value_of": value}, block=True)
        expected = value(*arguments)
    assert rc[0].apply_sync(value, *arguments) == expected
    call = interactive(lambda f, arguments: f(*arguments))
    assert rc[1].apply_sync(call, value, arguments) == expected  # as an argument
    assert rc.load_balanced_view().map_sync(call, [value] * 2, [arguments] * 2) == [expected] * 2
    rc[2].push({"pushed": value}, block=True)
    assert rc[2].apply_sync(ipp.Reference("pushed"), *arguments) == expected
    assert rc[2].pull("pushed", block=True)(*arguments) == expected  # there and back


def test_functions_of_modules_and_interactive_ones(rc: Client) -> None:
    rc[:]["factor"] = 3
    assert rc[0].apply_sync(operator.itemgetter(1), "ab") == "b"
    assert rc[0].apply_sync(interactive(lambda x: x * factor), 2) == 6  # noqa: F821
    assert rc[0].apply_sync(functools.partial(textwrap.indent, prefix="> "), "a") == "> a"


def test_references(rc: Client) -> None:
    view = rc[:]
    view.scatter("n", range(4), flatten=True).get()
    view["f"] = interactive(lambda *args, **kwargs: (args, kwargs))
    view.push({"m": ipp.Reference("n * 10")}, block=True)
    assert view["m"] == [0, 10, 20, 30]
    n = ipp.Reference("n")
    got = view.apply_sync(ipp.Reference("f"), n, [n, (n, {"k": n})], key=n)
    assert got == [((k, [k, (k, {"k": k})]), {"key": k}) for k in range(4)]
    assert rc.load_balanced_view(targets=[2]).map_sync(ipp.Reference("abs"), [n, -1]) == [2, 1]
    with pytest.raises(ipp.RemoteError, match="NameError: name 'missing' is not defined"):
        rc[0].apply_sync(abs, ipp.Reference("missing"))


def test_depend_and_require(rc: Client) -> None:
    @ipp.depend(interactive(lambda wanted: engine_number == wanted), 2)  # noqa: F821
    @interactive
    def on_two() -> int:
        return engine_number  # type: ignore[name-defined, no-any-return]  # noqa: F821

    rc[:].scatter("engine_number", range(4), flatten=True).get()
    assert rc.load_balanced_view().apply_sync(on_two) == 2

    @ipp.require("math", helper=interactive(lambda x: x + 1))
    @interactive
    def needs() -> float:
        return helper(math.floor(2.5))  # type: ignore[name-defined, no-any-return]  # noqa: F821

    assert rc[:].apply_sync(needs) == [3] * 4
    assert rc.load_balanced_view().map_sync(ipp.require("math")(interactive(abs)), [-1, -2]) == [1, 2]


ARRAYS = {
    "float": numpy.arange(2000.0),
    "read-only": numpy.arange(2000),
    "matrix in Fortran order": numpy.asfortranarray(numpy.arange(6000.0).reshape(60, 100)),
    "with gaps": numpy.arange(6000.0)[::3],
    "structured": numpy.array([(1, 2.5, b"x")] * 300, dtype=[("n", "i4"), ("f", "f8"), ("s", "S3")]),
    "objects": numpy.array([{"a": 1}, None, "text"], dtype=object),
    "dates": numpy.array(["2026-01-01", "NaT"], dtype="M8[D]"),
    "text": numpy.array(["a", "bcd"]),
    "empty": numpy.zeros((0, 3)),
    "number": numpy.float32(1.5),
}
ARRAYS["read-only"].flags.writeable = False


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_travel(rc: Client, name: str) -> None:
    sent = ARRAYS[name]
    back = rc[0].apply_sync(interactive(lambda a: (a, type(a).__name__, a.dtype.str, [a])), sent)
    received, kind, dtype, nested = back
    assert (kind, dtype) == (type(sent).__name__, sent.dtype.str)
    numpy.testing.assert_array_equal(received, sent)
    numpy.testing.assert_array_equal(nested[0], sent)
    assert received.dtype == sent.dtype
    if isinstance(sent, numpy.ndarray):
        assert received.flags.writeable
        write = interactive(lambda a: (a.fill(a.flat[0]), "written")[1] if a.size else "written")
        assert rc.load_balanced_view().apply_sync(write, sent) == "written"


def test_tables_of_pandas_travel(rc: Client) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"n": range(1000), "f": numpy.arange(1000.0), "s": ["a", "b"] * 500})
    back = rc[0].apply_sync(interactive(lambda t: (t.assign(g=t.f * 2), t.n.sum())), table)
    pandas.testing.assert_frame_equal(back[0][["n", "f", "s"]], table)
    assert back[0].g.sum() == 2 * table.f.sum()
    assert back[1] == 499_500
    rc[:].scatter("part", table).get()
    assert rc[:].apply_sync(len, ipp.Reference("part")) == [250] * 4


def test_buffers_travel(rc: Client) -> None:
    data = bytes(range(256)) * 100
    for sent in (data, bytearray(data), memoryview(data), memoryview(numpy.arange(3000.0))):
        back = rc[0].apply_sync(interactive(lambda b: (type(b).__name__, len(b), b, [b])), sent)
        assert back[:2] == (type(sent).__name__, len(sent))
        assert back[2] == back[3][0] == sent
        assert type(back[2]) is type(sent)


# -- the user's own rules ----------------------------------------------------------------------------------------

REGISTER = """
import pxcluster as ipp

class Wire:
    def __init__(self, end): self.end = end
    def __reduce__(self): raise TypeError("a wire cannot be pickled")

class Coiled:
    def __init__(self, end, where): self.end, self.where = end, where

def register():
    ipp.can_map[Wire] = lambda wire: Coiled(wire.end, __import__("os").getpid())
    def uncan(coiled, space):
        space.setdefault("seen", []).append(coiled.where)
        return Wire(coiled.end)
    ipp.uncan_map[Coiled] = uncan
"""


def test_registered_classes_travel_both_ways(rc: Client, cell: Any, registered: None) -> None:
    space = cell(REGISTER)
    view = rc[:]
    with pytest.raises(serialize.SerializationError, match="a wire cannot be pickled"):
        view.apply_sync(abs, space["Wire"](1))
    space["register"]()
    # Classes of the notebook are the same there in every call, so that what is registered stays so.
    view.push({name: space[name] for name in ("Wire", "Coiled")}, block=True)
    view.execute("import pxcluster as ipp", block=True)
    view.apply_sync(space["register"])
    cut = interactive(lambda wire, more: (Wire(wire.end + 1), [{"deep": Wire(more[0].end)}]))  # noqa: F821
    for answer in (
        view.apply_sync(cut, space["Wire"](4), [space["Wire"]("x")])[3],
        rc.load_balanced_view().apply_sync(cut, space["Wire"](4), [space["Wire"]("x")]),
        rc.load_balanced_view().map_sync(cut, [space["Wire"](4)] * 2, [[space["Wire"]("x")]] * 2)[1],
    ):
        first, [second] = answer
        assert (type(first), first.end, second["deep"].end) == (space["Wire"], 5, "x")
    view["pushed"] = space["Wire"]([7])
    assert [wire.end for wire in view["pushed"]] == [[7]] * 4
    pids = view.apply_sync(os.getpid)
    assert set(space["seen"]) <= set(pids)  # they were canned there, and undone in the user's namespace
    assert rc[0].apply_sync(interactive(lambda: set(seen))) == {os.getpid()}  # noqa: F821
    view.execute("ipp.can_map.clear(); ipp.uncan_map.clear()", block=True)


def test_prepickled(rc: Client) -> None:
    table = ipp.PrePickled({"values": numpy.arange(10_000.0), "f": interactive(lambda x: x + 1)})
    use = interactive(lambda t, x: (t["f"](x), t["values"].sum()))
    for got in (
        rc[:].apply_sync(use, table, 1),
        rc.load_balanced_view().map_sync(use, [table] * 3, [1] * 3),
        rc[:].apply_sync(ipp.PrePickled(use), table, ipp.PrePickled(1)),
    ):
        assert set(got) == {(2, 49_995_000.0)}
    rc[:]["table"] = table
    assert rc[3].apply_sync(ipp.Reference("table['f']"), 1) == 2


def test_messages_of_ones_own_are_opened_on_an_engine(rc: Client) -> None:
    buffers = ipp.pack_apply_message(interactive(lambda a, b: (a + b) * scale), [3], {"b": ipp.Reference("b")})  # noqa: F821

    @interactive
    def run(buffers: list[bytes]) -> Any:
        import pxcluster as ipp

        f, args, kwargs = ipp.unpack_apply_message(buffers, globals())
        return ipp.serialize_object(f(*args, **kwargs))

    rc[0].push({"scale": 10, "b": 4}, block=True)
    assert ipp.deserialize_object(rc[0].apply_sync(run, [bytes(buffer) for buffer in buffers])) == (70, [])


@pytest.mark.parametrize("use", ["use_cloudpickle", "use_dill"])
def test_other_picklers_on_both_sides(rc: Client, cell: Any, use: str) -> None:
    if use == "use_dill":
        pytest.importorskip("dill")
    space = cell("SCALE = 4\ndef scaled(x): return x * SCALE\nclass Thing:\n  def __init__(self, x): self.x = x")
    view = rc[:]
    getattr(view, use)().get()
    try:
        thing = view.apply_sync(interactive(lambda t: [t, lambda: t.x]), space["Thing"]({"deep": [1]}))[1]
        assert (thing[0].x, thing[1]()) == ({"deep": [1]}, {"deep": [1]})
        assert rc.load_balanced_view().map_sync(interactive(lambda x: (x, lambda: x)), [1, 2])[1][1]() == 2
        values = numpy.arange(5000.0)
        assert (view.apply_sync(numpy.negative, values)[0] == -values).all()
        if use == "use_cloudpickle":
            assert view.apply_sync(space["scaled"], 2) == [8] * 4  # the globals came along
    finally:
        view.use_pickle().get()
    with pytest.raises(ipp.CompositeError, match="name 'SCALE' is not defined"):
        view.apply_sync(space["scaled"], 2)
    assert view.apply_sync(interactive(lambda x: [lambda: x]), 3)[0][0]() == 3


# -- calls that were made ----------------------------------------------------------------------------------------


def test_calls_are_made_again(rc: Client) -> None:
    rc[:]["count"] = 0
    more = interactive(lambda by: exec(f"count += {by}", globals()) or count)  # noqa: F821
    result = rc[:].apply_async(more, 2)
    assert result.get() == [2] * 4
    again = rc.resubmit(result.msg_ids[1:3], block=True)
    assert (again.get(), again.engine_id) == ([4, 4], [1, 2])
    assert rc[:]["count"] == [2, 4, 4, 2]
    tasks = rc.load_balanced_view().map_async(functools.partial(pow, 3), range(100))
    assert tasks.get() == [3**number for number in range(100)]
    assert rc.resubmit([tasks.msg_ids[40], tasks.msg_ids[7]]).get() == [3**40, 3**7]
    printed = rc[0].execute("print('again'); 5", silent=False, block=True)
    shown = rc.resubmit(printed)
    assert shown.get()[0].data == {"text/plain": "5"}
    assert (shown.stdout, shown.execute_input) == (["again\n"], ["print('again'); 5"])


def test_a_task_that_was_aborted_is_made_again(rc: Client) -> None:
    view = rc.load_balanced_view(targets=[3])
    blocked = view.apply_async(interactive(lambda: __import__("time").sleep(1000)))
    aborted = view.apply_async(abs, -5)
    aborted.abort()
    with pytest.raises(ipp.TaskAborted):
        aborted.get(timeout=60)
    again = rc.resubmit(aborted)
    assert not again.ready()
    blocked.interrupt()
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        blocked.get(timeout=60)
    assert again.get(timeout=60) == [5]


def test_records_and_purging(rc: Client, cluster: Cluster) -> None:
    first = rc[:].apply_async(abs, -1)
    second = rc.load_balanced_view().map_async(abs, range(5))
    assert (first.get(), second.get()) == ([1] * 4, list(range(5)))
    assert rc.hub_history()[-9:] == first.msg_ids + second.msg_ids
    assert cluster.client().hub_history()[-9:] == first.msg_ids + second.msg_ids  # every client is told of all
    done = rc.db_query({"msg_id": {"$in": second.msg_ids}, "status": "ok"}, keys=["completed", "engine_uuid"])
    assert [record["msg_id"] for record in done] == second.msg_ids
    assert all(record["completed"] and record["engine_uuid"] for record in done)
    uuids = {record["engine_uuid"] for record in rc.db_query({"msg_id": {"$in": first.msg_ids}})}
    with pytest.raises(ipp.CompositeError) as caught:
        rc[:].execute("1/0", block=True).get()
    assert uuids == {info["engine_uuid"] for _, _, _, info in caught.value.elist}
    other = cluster.client().get_result(first.msg_ids)  # another client has it from the cluster
    assert isinstance(other, ipp.AsyncHubResult)
    assert (other.get(timeout=60), set(other.engine_uuid)) == ([1] * 4, uuids)
    rc.purge_results(first)
    assert not set(first.msg_ids) & ({*rc.hub_history()} | {*rc.results})
    with pytest.raises(KeyError, match="nobody holds the result of"):
        rc.get_result(first.msg_ids)
    rc.purge_everything()
    assert (rc.history, rc.hub_history()) == ([], [])


def test_metadata_of_a_call(rc: Client) -> None:
    result = rc[1].execute("print('out'); 6 * 7", silent=False, block=True)
    metadata = rc.metadata[result.msg_ids[0]]
    assert {name: metadata[name] for name in ("engine_id", "status", "stdout", "execute_input", "error")} == {
        "engine_id": 1,
        "status": "ok",
        "stdout": "out\n",
        "execute_input": "print('out'); 6 * 7",
        "error": None,
    }
    assert metadata["execute_result"]["data"] == {"text/plain": "42"}
    assert metadata.submitted <= metadata.received
    assert metadata.started <= metadata.completed
    assert rc.outstanding == set()
