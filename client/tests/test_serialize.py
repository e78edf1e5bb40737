"""Objects there and back, within one process: the loader's __main__ is played by a module of ours."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import pickle
import sys
import threading
import types
from typing import Any

import pytest
from pxcluster import serialize
from pxcluster.serialize import (
    Reference,
    SerializationError,
    dumps,
    dumps_numbers,
    dumps_task,
    interactive,
    loads,
    loads_task,
)


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a cell in a fresh client's __main__ and gives its namespace."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    count = 0

    def run(text: str) -> dict[str, Any]:
        nonlocal count
        count += 1
        name = f"<cell-{id(main)}-{count}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec", dont_inherit=True), main.__dict__)
        return main.__dict__

    return run


@pytest.fixture
def travel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sends an object to another __main__, whose namespace is given by keywords."""

    def go(obj: object, **namespace: object) -> Any:
        data = dumps(obj)
        engine = types.ModuleType("__main__")
        engine.__dict__.update(namespace)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "__main__", engine)
            return loads(data)

    return go


def test_globals_do_not_travel(sender: Any, travel: Any) -> None:
    space = sender("CONSTANT = 7\ndef by_constant(n): return CONSTANT * n")
    with pytest.raises(NameError, match="CONSTANT"):
        travel(space["by_constant"])(2)
    assert travel(space["by_constant"], CONSTANT=5)(2) == 10


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("f = lambda a, b=2, *, c=3: (a, b, c)", (1,), (1, 2, 3)),
        ("def outer():\n  def fact(n): return 1 if n < 2 else n * fact(n - 1)\n  return fact\nf = outer()", (5,), 120),
        ("def outer(k):\n  def inner(n): return k + n\n  return inner\nf = outer(4)", (1,), 5),
        ("def f(n):\n  def g(m): return m * 2\n  return [g(i) for i in range(n)]", (3,), [0, 2, 4]),
        ("def gen(n): yield from range(n)\ndef outer(g): return lambda n: list(g(n))\nf = outer(gen)", (3,), [0, 1, 2]),
        ("import functools\nf = functools.partial(lambda a, b: a - b, 10)", (3,), 7),
        ("class A:\n  def __init__(self): self.x = 4\n  def m(self, n): return self.x * n\nf = A().m", (3,), 12),
        ("class A:\n  @classmethod\n  def m(cls, n): return cls.__name__, n\nf = A.m", (3,), ("A", 3)),
        ("class A:\n  def m(self): return 1\nclass B(A):\n  def m(self): return super().m() + 1\nf = lambda: 0\n"
         "def wrap(b): return lambda: b.m()\nf = wrap(B())", (), 2),
        ("class A:\n  class B:\n    @staticmethod\n    def s(n): return -n\nf = A.B.s", (3,), -3),
    ],
)  # fmt: skip
def test_what_travels_as_code(sender: Any, travel: Any, text: str, arguments: Any, expected: object) -> None:
    assert travel(sender(text)["f"])(*arguments) == expected


def test_functions_inside_containers_and_attributes(sender: Any, travel: Any) -> None:
    space = sender("f = lambda n: n + 1\nf.note = {'deep': [lambda: 9]}")
    received = travel([{"a": (space["f"],)}])[0]["a"][0]
    assert received(1) == 2
    assert received.note["deep"][0]() == 9


def test_shared_variable_stays_shared(sender: Any, travel: Any) -> None:
    space = sender(
        "def pair():\n  n = 0\n  def up():\n    nonlocal n\n    n += 1\n  def get(): return n\n  return up, get\n"
        "up, get = pair()"
    )
    up, get = travel((space["up"], space["get"]))
    up()
    assert get() == 1


def test_empty_cell_travels(sender: Any, travel: Any) -> None:
    space = sender("def outer():\n  def f(): return late\n  if 0: late = 1\n  return f\nf = outer()")
    with pytest.raises(NameError, match="late"):
        travel(space["f"])()


def test_identity_of_names_and_documentation(sender: Any, travel: Any) -> None:
    space = sender("def f(n: int) -> str:\n  'doc'\n  return ''")
    received = travel(space["f"])
    assert (received.__name__, received.__qualname__, received.__module__) == ("f", "f", "__main__")
    assert received.__doc__ == "doc"
    assert received.__annotations__ == {"n": int, "return": str}


def test_instances_of_interactive_classes_come_home(sender: Any, travel: Any) -> None:
    space = sender("class Point:\n  def __init__(self, x): self.x = x\n  def scaled(self): return self.x * FACTOR")
    point = travel(space["Point"](3), FACTOR=2)
    assert isinstance(point, space["Point"])  # one process here, so the class is found again


def test_importable_functions_travel_by_name(travel: Any) -> None:
    assert travel(functools.reduce) is functools.reduce
    assert travel(functools.wraps) is functools.wraps
    assert b"<locals>" not in dumps(test_importable_functions_travel_by_name)[0]


def test_lambda_of_a_module_keeps_its_globals(travel: Any) -> None:
    assert travel(lambda: functools)() is functools


def test_library_wrapper_keeps_the_library(sender: Any, travel: Any) -> None:
    space = sender("import functools\n@functools.lru_cache\ndef g(n): return n\ndef f(n): return n + 1")

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return functools.reduce(lambda a, b: a + b, [function(*args), 1])

        return wrapper

    assert travel(decorate(space["f"]))(1) == 3


@interactive
def marked(n: int, *, scale: int = 1) -> Any:
    """Defined in a module, linked to __main__."""
    return PUSHED * n * scale  # type: ignore[name-defined]  # noqa: F821


def test_interactive_mark(travel: Any) -> None:
    assert marked.__module__ == "__main__"
    assert travel(marked, PUSHED=3)(2, scale=2) == 12
    assert interactive(len) is len


def test_source_and_label_travel_once(sender: Any, travel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    space = sender("def f(): pass\ndef g(): pass")
    name = space["f"].__code__.co_filename
    monkeypatch.setattr("pxcluster.serialize._source.cell_label", lambda _: ("Cell", "In[5]"))
    data = dumps([space["f"], space["g"]])
    assert bytes(data[0]).count(b"def g(): pass") == 1
    monkeypatch.undo()
    del linecache.cache[name]
    loads(data)
    linecache.checkcache()
    assert linecache.getline(name, 2).rstrip() == "def g(): pass"
    assert name in linecache.cache
    assert serialize.cell_label(name) == ("Cell", "In[5]")


def test_long_source_travels_in_part(sender: Any) -> None:
    space = sender("def f():\n  pass\n" + "# filling\n" * 20000 + "def g():\n  return 'g'\n")
    name = space["f"].__code__.co_filename
    data = dumps([space["f"], space["g"]])
    assert len(data[0]) < 2000
    del linecache.cache[name]
    loads(data)
    assert linecache.getline(name, 1) == "def f():\n"
    assert linecache.getline(name, 20004).strip() == "return 'g'"


def test_large_buffers_travel_beside_the_pickle() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(10000.0)
    data = dumps({"a": array, "small": numpy.arange(3)})
    assert [memoryview(part).nbytes for part in data][1:] == [80000]
    assert numpy.shares_memory(numpy.frombuffer(data[1]), array)
    received: Any = loads([bytes(data[0]), bytes(data[1])])
    received["a"][0] = 1
    place = bytearray(data[1])
    received = loads([data[0], place])
    received["a"][0] = 7
    assert memoryview(place).cast("d")[0] == 7
    received["small"][0] = 7


@pytest.mark.parametrize(
    "value", [1, 1.5, "a", b"b", None, True, (1, "a"), [1, 2.0], {"a": [1, {2}]}, (1, (2, 3)), 2j, [], range(3)]
)
def test_task_values(value: object) -> None:
    assert loads_task(dumps_task(value)) == value
    assert loads_task(memoryview(dumps_task(value))) == value


def test_numbers_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    for value in (numpy.float64(2.5), numpy.int8(3), numpy.bool_(True), numpy.complex64(1j)):
        for received in (loads_task(dumps_task(value)), loads_task(dumps_task([value]))[0]):
            assert received == value
            assert type(received) is type(value)
    assert loads_task(dumps_task(numpy.zeros(3))).sum() == 0


def test_numbers_do_not_need_cloudpickle(sender: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    space = sender("f = lambda n: n")
    monkeypatch.setattr("pxcluster.serialize._pickler.dump_full", None)
    dumps((space["f"], (1, {2: [3]}), {}))
    dumps_task({"a": (1, None)})


def test_reference() -> None:
    assert loads(dumps([Reference("a.b")])) == [Reference("a.b")]
    assert repr(Reference("x")) == "<Reference: 'x'>"
    with pytest.raises(TypeError, match="expression"):
        Reference(3)  # type: ignore[arg-type]
    serialize.resolve_references({"x": 5}.__getitem__)
    try:
        assert loads(dumps({"v": [Reference("x")]})) == {"v": [5]}
    finally:
        serialize.resolve_references(None)


def test_error_names_the_argument() -> None:
    with pytest.raises(
        SerializationError, match=r"^A 'lock' object, <unlocked .*> \(argument 2\) cannot be sent: "
    ) as e:
        dumps((len, (1, threading.Lock()), {}))
    assert isinstance(e.value, pickle.PicklingError)
    with pytest.raises(SerializationError, match=r"\(item 1 of argument 'key'\)"):
        dumps((len, (), {"key": [0, threading.Lock()]}))


def test_error_names_members(sender: Any) -> None:
    space = sender("class A: pass\nimport threading\na = A(); a.lock = threading.Lock()\n"
                   "def f(lock):\n  return lambda: lock\nf = f(a.lock)")  # fmt: skip
    with pytest.raises(SerializationError, match=r"\(attribute 'lock'\)"):
        dumps_task(space["a"])
    with pytest.raises(SerializationError, match=r"\(variable 'lock'\)"):
        dumps(space["f"])
    with pytest.raises(SerializationError, match=r"\(value of 'b'\)"):
        dumps_task({"a": 1, "b": threading.Lock()})


class Rude:
    """Neither pickles nor shows itself."""

    def __reduce__(self) -> Any:
        raise ValueError("no")

    def __repr__(self) -> str:
        raise ValueError("no")


def test_error_of_a_rude_object_and_of_depth() -> None:
    with pytest.raises(SerializationError, match=r"A 'Rude' object, .*ValueError: no"):
        dumps(Rude())
    deep: list[Any] = []
    for _ in range(100000):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested too deeply"):
        dumps(deep)
    while deep:  # freeing it recursively would cost as much stack
        deep = deep.pop()


def test_cloudpickle_takes_globals_along(sender: Any, travel: Any) -> None:
    space = sender("CONSTANT = 7\ndef f(n): return CONSTANT * n")
    serialize.use_cloudpickle()
    try:
        assert travel(space["f"])(2) == 14
        assert loads_task(dumps_task({"a": 1})) == {"a": 1}
    finally:
        serialize.use_pickle()
    with pytest.raises(NameError):
        travel(space["f"])(2)


def test_dill(sender: Any, travel: Any) -> None:
    if importlib.util.find_spec("dill") is None:
        with pytest.raises(ImportError, match="pip install dill"):
            serialize.use_dill()
        return
    serialize.use_dill()
    try:
        assert loads(dumps(lambda n: n + 1))(1) == 2  # type: ignore[operator]
        assert loads_task(dumps_task({"a": (1, [2])})) == {"a": (1, [2])}
    finally:
        serialize.use_pickle()


def test_pickle_by_value_registration(travel: Any) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")

    module = types.ModuleType("registered_module")
    sys.modules["registered_module"] = module
    exec("K = 3\ndef f(): return K", module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    try:
        received = travel(module.f)
        assert received is not module.f
        assert received() == 3
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["registered_module"]


def test_numbers_are_pickled_together_as_one_by_one() -> None:
    numbers: list[object] = [1, -(10**30), 2.5, True, None, 1j]
    assert dumps_numbers(numbers) == [dumps_task(number) for number in numbers]
    assert dumps_numbers([1, "2"]) is None


def test_tensors_of_torch_travel_beside_the_pickle() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.arange(20_000.0).reshape(100, 200),
        torch.ones(5000, dtype=torch.bfloat16),
        torch.zeros(3000, dtype=torch.complex64),
        torch.tensor(5),
        torch.zeros(0, 3),
        torch.arange(20_000.0)[5000:10_000],  # of which torch would send all
    ):
        buffers = dumps({"a": tensor, "again": tensor})
        assert len(buffers) == (1 if tensor.nbytes < 4096 else 2)
        loaded = loads([bytearray(buffer) for buffer in buffers])
        assert torch.equal(loaded["a"], tensor)
        assert loaded["a"].dtype == tensor.dtype
        assert loaded["a"] is loaded["again"]
        loaded["a"].mul_(2)


def test_other_tensors_travel_as_torch_pickles_them() -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(20_000.0)
    for tensor in (base[::2], base.reshape(100, 200).T, base.clone().requires_grad_(), torch.nn.Parameter(base)):
        loaded = loads(dumps(tensor))
        assert torch.equal(loaded, tensor)
        assert type(loaded) is type(tensor)
        assert loaded.requires_grad == tensor.requires_grad
