"""Rules of the user's for classes of his, and objects as lists of buffers."""

from __future__ import annotations

import array
import functools
import operator
import pickle
import types
from collections.abc import Iterator
from typing import Any

import numpy
import pxcluster as ipp
import pytest
from pxcluster import serialize
from pxcluster.serialize import (
    PrePickled,
    Reference,
    SerializationError,
    deserialize_object,
    dumps,
    dumps_task,
    loads,
    loads_task,
    pack_apply_message,
    serialize_object,
    unpack_apply_message,
)
from pxcluster.serialize.canning import CannedObject, can, can_map, can_sequence, uncan, uncan_map, uncan_sequence


class Wire:
    """Cannot be pickled."""

    def __init__(self, end: object) -> None:
        self.end = end

    def __reduce__(self) -> Any:
        raise TypeError("a wire cannot be pickled")


class Coiled:
    def __init__(self, end: object) -> None:
        self.end = end


class LongerWire(Wire):
    pass


class Pair:
    """Can be pickled, and is registered all the same."""

    def __init__(self, left: object, right: object) -> None:
        self.left, self.right = left, right


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    plain, numbers = set(serialize._registered.PLAIN), set(serialize.NUMBERS)
    yield
    can_map.clear()
    uncan_map.clear()
    serialize._registered.PLAIN |= plain
    serialize.NUMBERS |= numbers
    serialize.use_pickle()


@pytest.fixture
def wires() -> None:
    can_map[Wire] = lambda wire: Coiled(wire.end)
    uncan_map[Coiled] = lambda coiled, _namespace: Wire(coiled.end)


# -- registered classes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [serialize.use_pickle, serialize.use_cloudpickle, serialize.use_dill])
def test_instances_of_registered_classes_travel_at_any_depth(wires: None, use: Any) -> None:
    if use is serialize.use_dill:
        pytest.importorskip("dill")
    use()
    for send in (lambda obj: loads(dumps(obj)), lambda obj: loads_task(dumps_task(obj))):
        received = send([{"deep": (Wire(1), [Wire("two")])}, lambda: 3])
        assert received[1]() == 3
        one, [two] = received[0]["deep"]
        assert (type(one), one.end, type(two), two.end) == (Wire, 1, Wire, "two")


def test_without_an_entry_the_error_says_why() -> None:
    with pytest.raises(SerializationError, match="a wire cannot be pickled"):
        dumps([Wire(1)])


def test_instances_of_subclasses_do_not_count(wires: None) -> None:
    with pytest.raises(SerializationError, match="LongerWire"):
        dumps(LongerWire(1))


def test_without_an_uncanner_the_canned_one_arrives() -> None:
    can_map[Wire] = lambda wire: {"end": wire.end}
    assert loads(dumps([Wire(5)])) == [{"end": 5}]


def test_the_same_object_is_one_object_again(wires: None) -> None:
    wire = Wire(1)
    first, second = loads(dumps([wire, wire]))  # type: ignore[misc]
    assert first is second


def test_a_canner_may_leave_an_instance_alone() -> None:
    asked: list[object] = []

    def canner(pair: Pair) -> object:
        asked.append(pair)
        return pair

    can_map[Pair] = canner
    received: Any = loads(dumps(Pair(1, 2)))
    assert (received.left, received.right) == (1, 2)
    assert asked


def test_what_was_canned_may_hold_instances_of_the_class() -> None:
    can_map[Pair] = lambda pair: CannedObject(pair, keys=["left"], hook=lambda made, _namespace: made.seen.append(1))
    pair = Pair(lambda: 7, Pair(2, 3))
    pair.seen = []  # type: ignore[attr-defined]
    received: Any = loads(dumps((pair,)))[0]  # type: ignore[index]
    assert (received.left(), received.right.left, received.seen) == (7, 2, [1])
    assert pair.left() == 7  # type: ignore[operator]


def test_an_object_with_get_object_needs_no_uncanner() -> None:
    class CannedPair(CannedObject):
        def __init__(self, pair: Pair) -> None:
            self.ends = can_sequence([pair.left, pair.right])
            self.buffers = []

        def get_object(self, g: dict[str, Any] | None = None) -> Pair:
            return Pair(*uncan_sequence(self.ends, g))

    can_map[Pair] = CannedPair
    received: Any = loads(dumps(Pair(lambda: 1, b"2")))
    assert (received.left(), received.right) == (1, b"2")


def test_arrays_of_registered_classes_travel_beside_the_pickle(wires: None) -> None:
    values = numpy.arange(10_000.0)
    buffers = dumps([Wire(values)])
    assert len(buffers[0]) < 2000
    assert sum(memoryview(buffer).nbytes for buffer in buffers[1:]) == values.nbytes
    for sent in (buffers, [bytes(buffer) for buffer in buffers]):
        received: Any = loads(sent)[0]  # type: ignore[index]
        assert (received.end == values).all()
        assert received.end.flags.writeable


def test_functions_and_classes_may_be_registered() -> None:
    can_map[types.FunctionType] = lambda function: Coiled(function.__name__)
    uncan_map[Coiled] = lambda coiled, _namespace: coiled.end
    assert loads(dumps([lambda: 1])) == ["<lambda>"]
    del can_map[types.FunctionType]
    assert loads(dumps([lambda: 1]))[0]() == 1  # type: ignore[index]


def test_a_class_may_be_named() -> None:
    can_map["array.array"] = lambda values: Coiled(values.tolist())
    assert array.array in can_map
    assert loads(dumps([array.array("i", [1, 2])]))[0].end == [1, 2]  # type: ignore[index]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        can_map["no_such_module.Thing"] = Coiled


def test_what_cannot_be_registered() -> None:
    with pytest.raises(TypeError, match="built-in type 'list' always travel as they are"):
        can_map[list] = Coiled
    with pytest.raises(TypeError, match="classes or their names"):
        can_map[3] = Coiled  # type: ignore[index]
    with pytest.raises(TypeError, match="values are functions"):
        operator.ior(can_map, {Wire: "no function"})
    assert not can_map


def test_numbers_of_numpy_may_be_registered() -> None:
    assert loads_task(dumps_task(numpy.float64(1.5))) == 1.5
    can_map[numpy.float64] = lambda number: Coiled(float(number))
    assert loads_task(dumps_task(numpy.float64(1.5))).end == 1.5
    assert serialize.dumps_numbers([numpy.float64(1.5)]) is None


def test_a_canner_that_raises_is_named() -> None:
    def canner(wire: Wire) -> object:
        raise ValueError("this wire is hot")

    can_map[Wire] = canner
    with pytest.raises(SerializationError, match=r"'Wire' object.*item 1.*this wire is hot"):
        dumps([1, Wire(2)])


# -- can and uncan -----------------------------------------------------------------------------------------------


def closure_over(value: object) -> Any:
    return lambda: value


def with_keywords(a: int, *, b: int = 3) -> int:
    return a * b


MAIN: dict[str, Any] = {"__name__": "__main__"}
exec("class Made:\n    five = 5\n    def m(self): return self.five", MAIN)


@pytest.mark.parametrize(
    ("sent", "ask", "answer"),
    [
        (closure_over("i"), lambda got: got(), "i"),
        (closure_over(closure_over(4)), lambda got: got()(), 4),
        (with_keywords, lambda got: (got(2), got(2, b=1)), (6, 2)),
        (with_keywords, lambda got: got.__annotations__["a"], "int"),
        (functools.partial(with_keywords, 4, b=5), lambda got: got(), 20),
        (functools.partial(lambda a, b: (a, b), b"x" * 5000), lambda got: got(b=memoryview(b"y"))[0], b"x" * 5000),
        (MAIN["Made"], lambda got: got().m(), 5),
        (closure_over(4).__closure__[0], lambda got: got.cell_contents, 4),
        (b"data", bytes, b"data"),
        (memoryview(b"data"), bytes, b"data"),
        (numpy.arange(6).reshape(2, 3), lambda got: got.tolist(), [[0, 1, 2], [3, 4, 5]]),
        ({"plain": [1]}, lambda got: got, {"plain": [1]}),
    ],
)
def test_plain_pickle_takes_what_was_canned(sent: Any, ask: Any, answer: object) -> None:
    assert ask(uncan(pickle.loads(pickle.dumps(can(sent))))) == answer


def test_functions_find_their_globals_in_the_namespace_given() -> None:
    function = MAIN.setdefault("f", eval("lambda: other + 1", MAIN))
    assert uncan(can(function), {"other": 4})() == 5
    with pytest.raises(NameError):
        uncan(can(function), {})()
    assert uncan({"a": can(function)}, {"other": 1})["a"]() == 2


def test_what_needs_no_canning_stays_as_it_is() -> None:
    for value in (1, "text", [1], len, Wire, Pair(1, 2)):
        assert can(value) is value


# -- objects as lists of buffers ---------------------------------------------------------------------------------


def test_an_object_there_and_back() -> None:
    values = numpy.arange(1000.0)
    for value in ({"a": "b", "b": range(5)}, (b"123" * 1000, ["hello"]), 5, None):
        assert deserialize_object(serialize_object(value)) == (value, [])
    assert len(serialize_object(values)) == 2
    assert len(serialize_object(values, buffer_threshold=1 << 20)) == 1
    for threshold in (0, 1024, 1 << 20):
        received, rest = deserialize_object(serialize_object((values, 1), threshold))
        assert (received[0] == values).all()
        assert rest == []


def test_several_objects_in_one_list() -> None:
    buffers = [*serialize_object(numpy.ones(1000)), *serialize_object("next"), b"more"]
    first, rest = deserialize_object(buffers)
    assert first.sum() == 1000
    second, rest = deserialize_object(rest)
    assert (second, rest) == ("next", [b"more"])


@pytest.mark.parametrize("dtype", ["uint8", "float64", ">i4", [("g", "f4"), ("s", "S10")], "S10", "O", "M8[s]"])
@pytest.mark.parametrize("shape", [(100,), (4, 3), (), (0,), (3, 0)])
def test_arrays_of_every_kind(dtype: Any, shape: tuple[int, ...]) -> None:
    values = numpy.zeros(shape, dtype)
    received, _ = deserialize_object(serialize_object(values, 10))
    assert (received.shape, received.dtype) == (values.shape, values.dtype)
    assert (received == values).all()


def test_an_apply_message() -> None:
    function = MAIN["f"]
    values = numpy.ones(5000)
    buffers = pack_apply_message(function, [1, values], {"key": Reference("other")})
    assert len(buffers) == 2
    f, args, kwargs = unpack_apply_message(buffers, {"other": 9})
    assert (f(), args[0], kwargs) == (10, 1, {"key": 9})
    assert (args[1] == values).all()
    with pytest.raises(ValueError, match="1 buffers are left over"):
        unpack_apply_message([*buffers, b""])


def test_prepickled_stands_for_its_object() -> None:
    values = numpy.arange(3000.0)
    sent = PrePickled({"values": values, "f": closure_over(2)})
    assert deserialize_object(serialize_object(sent))[0]["f"]() == 2
    received: Any = loads(dumps([sent, (sent,)]))
    assert received[0]["f"]() == 2
    assert (received[0]["values"] == values).all()
    assert received[0] is received[1][0]
    assert received[0]["values"].flags.writeable
    assert loads_task(dumps_task(sent))["f"]() == 2


def test_prepickled_is_pickled_once() -> None:
    class Counted:
        times = 0

        def __reduce__(self) -> Any:
            type(self).times += 1
            return int, ()

    sent = PrePickled(Counted())
    assert loads(dumps([sent])) == loads(dumps([sent])) == [0]
    assert Counted.times == 1


# -- buffers and caches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"bytes"),
        memoryview(bytearray(b"x" * 5000)),
        memoryview(array.array("d", [1.5, 2.5])),
        memoryview(numpy.arange(12, dtype="i4").reshape(3, 4)),
        memoryview(b"abcdef")[::2],
        memoryview(b""),
    ],
)
def test_memoryviews_arrive_as_such(view: memoryview) -> None:
    received: Any = loads(dumps([view]))[0]  # type: ignore[index]
    assert type(received) is memoryview
    assert (received.tobytes(), received.shape) == (view.tobytes(), view.shape)
    if view.nbytes:
        assert received.tolist() == view.tolist()


def test_functions_with_a_cache_travel() -> None:
    @functools.lru_cache(maxsize=7, typed=True)
    def double(number: int) -> int:
        return 2 * number

    received: Any = loads(dumps(double))
    assert received(4) == 8
    assert received.cache_parameters() == {"maxsize": 7, "typed": True}
    assert loads(dumps(functools.cmp_to_key)) is functools.cmp_to_key


def test_code_objects_of_plain_pickle() -> None:
    from pxcluster.serialize import codeutil

    assert eval(pickle.loads(pickle.dumps(compile("6 * 7", "here", "eval")))) == 42
    assert codeutil.reduce_code(with_keywords.__code__)[1]


def test_the_names_are_those_of_the_top_level() -> None:
    assert (ipp.can, ipp.uncan, ipp.can_map, ipp.uncan_map) == (can, uncan, can_map, uncan_map)
    assert ipp.PrePickled is PrePickled


def test_functions_take_along_what_they_use_of_a_dict_that_is_no_module() -> None:
    space: dict[str, Any] = {"__name__": "made_by_a_library", "offset": 3, "unused": lambda: Wire(1)}
    exec("def f(x): return x + offset", space)
    for use in (serialize.use_pickle, serialize.use_cloudpickle):
        use()
        received: Any = loads(dumps([space["f"], lambda: space["f"]]))
        assert (received[0](1), received[1]()(2)) == (4, 5)
    nameless = eval("lambda: k", {"k": 2})
    serialize.use_pickle()
    assert loads(dumps(nameless))() == 2  # type: ignore[operator]
