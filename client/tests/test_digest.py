"""What counts as the same function and the same items: alike in every process, whatever its hashes and identities."""

from __future__ import annotations

import functools
import re
import sys
import textwrap
import types

import numpy
import pxcluster as ipp
import pytest
from pxcluster.digest import function_digest, items_digest
from pxcluster.shared import Lease, Shared
from support import child

#: Items and functions, in one namespace, as a script would have them.
THINGS = """
import collections, dataclasses, enum, functools, operator, pathlib
import numpy
import pxcluster as ipp

class Kind(enum.Enum):
    A = 1

@dataclasses.dataclass
class Point:
    x: int
    names: set

class Node:
    def __init__(self):
        self.itself = self
        self.name = "node"

def module_level(x):
    return x in {"a", "b", "c"} or [y for y in {"k": x}]

def closing(n):
    def inner(x, key="a", *, more=frozenset("xyz")):
        return n + x
    return inner

def recursive(n):
    def fact(k):
        return 1 if k < 2 else k * fact(k - 1)
    return fact

@functools.cache
def cached(x):
    return {"one", "two"}

Pair = collections.namedtuple("Pair", "a b")
words = ["alpha", "beta", "gamma", "delta", "epsilon"]
items = [
    set(words),
    frozenset(words),
    {"k": set(words), "l": [frozenset(words), ({*words}, 1)]},
    (set(words), {frozenset("ab"), frozenset("cd")}),
    Point(1, set(words)),
    Kind.A,
    Pair(1, "x"),
    Node(),
    numpy.arange(20000.0),
    numpy.arange(12).reshape(3, 4).T,
    numpy.float64(2.5),
    [numpy.float32(1), numpy.int64(2)],
    lambda x: x in {"a", "b"},
    functools.partial(module_level, numpy.arange(3)),
    memoryview(b"abc"),
    pathlib.PurePosixPath("/a"),
    Point,
    {"a": Point},
    1.5, 2, True, None, "text", b"bytes", 3j,
    ("a", "b", 1),
]
functions = [module_level, closing(3), recursive(3), cached, functools.partial(closing(1), key={"a", "b"}),
             Point(1, {"a", "b"}).__eq__, Point, len, "a".join, operator.itemgetter(1), ipp.Reference("f"),
             ipp.depend(closing(1), 2)(module_level), ipp.require("math")(module_level), numpy.add]
"""
PRINT = "\nfrom pxcluster.digest import function_digest, items_digest\n" + textwrap.dedent(
    """
    for thing in items:
        print(items_digest([thing]).hex(), repr(type(thing)))
    for function in functions:
        print(function_digest(function).hex(), type(function).__name__)
    """
)


def printed(code):
    done = child(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_equal_things_of_two_processes() -> None:
    first = printed("print(hash('a'))" + THINGS + PRINT)
    # Elsewhere in the file, after other work.
    second = printed(
        "print(hash('a'))\nimport contextlib, cloudpickle, numpy, pxcluster.serialize as s\n"
        "with contextlib.suppress(ImportError):\n  import dill\ns.task_pieces(numpy.float64(1))\n"
        + "\n" * 30
        + THINGS
        + PRINT
    )
    assert first[0] != second[0]  # or the test would show nothing
    assert first[1:] == second[1:]
    assert len(set(first)) == len(first)


def compiled(text, filename="<cell>"):
    space = {"__name__": "__main__"}
    exec(compile(text, filename, "exec"), space)
    return space["f"]


def digest_of(text, filename="<cell>"):
    return function_digest(compiled(text, filename))


FUNCTION = "def f(x, y=1):\n  z = lambda: x + 2\n  return z() * y"


@pytest.mark.parametrize(
    "other",
    [
        FUNCTION.replace("+ 2", "+ 3"),
        FUNCTION.replace("+ 2", "- 2"),
        FUNCTION.replace("y=1", "y=2"),
        FUNCTION.replace("+ 2", "+ 2.0"),
        FUNCTION.replace("x + 2", "other + 2"),
        FUNCTION.replace("z() * y", "z() * y * y"),
        FUNCTION.replace("def f", "def g") + "\nf = g",
        "def outer(k):\n  def f(x): return k\n  return f\nf = outer(1)",
        "def outer(k):\n  def f(x): return k\n  return f\nf = outer(2)",
    ],
)
def test_another_function(other) -> None:
    assert digest_of(other) == digest_of(other)
    assert digest_of(other) != digest_of(FUNCTION)


def test_a_function_that_was_moved_is_the_same() -> None:
    moved = "# a comment\n\n" + FUNCTION.replace("\n  return", "  # one more\n\n  return")
    assert digest_of(moved, "<another>") == digest_of(FUNCTION)


def test_functions_of_modules_count_by_their_code_and_as_items_by_name(monkeypatch) -> None:
    module = types.ModuleType("px_module")
    monkeypatch.setitem(sys.modules, "px_module", module)

    def digests(code):
        exec(code, vars(module))
        return function_digest(module.f), function_digest(functools.partial(module.f, 1)), items_digest([module.f])

    before = digests("def f(x): return x")
    assert digests("\ndef f(x): return x") == before
    after = digests("def f(x): return -x")
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert after[2] == before[2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], [1.0]),
        ([1], [True]),
        ([1, 2], [2, 1]),
        ([1, 23], [12, 3]),
        (["ab", "c"], ["a", "bc"]),
        ([(1, 2)], [[1, 2]]),
        ([{1, 2}], [{1, 3}]),
        ([{1, 2}], [frozenset({1, 2})]),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        ([numpy.arange(5)], [numpy.arange(5.0)]),
        ([numpy.zeros(100_000)], [numpy.ones(100_000)]),
        ([numpy.arange(6).reshape(2, 3)], [numpy.arange(6).reshape(3, 2)]),
        ([re.compile("a")], [re.compile("b")]),
        ([1] * 1024 + ["a"], [1] * 1024 + ["b"]),
        ([1], [1, 1]),
    ],
)
def test_other_items(one, other) -> None:
    assert items_digest(one) == items_digest(list(one))
    assert items_digest(one) != items_digest(other)


def test_identities_do_not_count() -> None:
    text = "".join(["some", "text"])
    twin = "".join(["some", "text"])
    array = numpy.arange(3)
    assert text is not twin
    assert items_digest([(text, text), [array, array], {"k": [text, [text]]}]) == items_digest(
        [(text, twin), [array, array.copy()], {"k": [text, [twin]]}]
    )


def test_a_shared_object_counts_by_type_and_size() -> None:
    keeper = types.SimpleNamespace(ended=lambda key: None)

    def shared(key, what, nbytes):
        return Shared(None, Lease(keeper, key, what, nbytes, [0]))

    one, two = shared("1", "list", 9), shared("2", "list", 9)
    other, larger = shared("3", "set", 9), shared("4", "list", 10)
    assert items_digest([(one, 1)]) == items_digest([(two, 1)])
    assert len({items_digest([handle]) for handle in (one, other, larger)}) == 3
    one.release()
    with pytest.raises(ipp.SerializationError, match="has been released"):
        items_digest([one])


def test_registered_classes_count_as_what_they_are_made_to() -> None:
    class Wire:
        def __init__(self, end):
            self.end, self.handle = end, (x for x in ())

    ipp.can_map[Wire] = lambda wire: ("wire", wire.end)
    try:
        assert items_digest([Wire(1)]) == items_digest([Wire(1)]) != items_digest([Wire(2)])
    finally:
        ipp.can_map.clear()


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(ipp.SerializationError, match="generator"):
        items_digest([(x for x in ())])
