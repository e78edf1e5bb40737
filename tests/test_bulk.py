"""Data of every kind and size on their way to engines and back, and objects that are sent once."""

from __future__ import annotations

import array
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pxcluster as ipp
import pytest
from harness.waiting import wait_for
from pxcluster import Client, interactive

KILO, MEGA = 1 << 10, 1 << 20
#: Around what is sent differently: small buffers, what a frame joins, fragments.
SIZES = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, MEGA - 1, MEGA, MEGA + 1]


@interactive
def same(value: Any) -> Any:
    return value


@interactive
def objects_of(session: str) -> int:
    """How many objects the engine has of a session; what clients leave behind stays."""
    from pxcluster._engine import objects

    return sum(key.startswith(session) for key in objects._objects)


def _frozen(made: np.ndarray) -> np.ndarray:
    made.flags.writeable = False
    return made


def _random(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, count, dtype=np.uint8)


#: What is made when it is needed, by name.
ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "empty": lambda: np.empty(0),
    "empty of two dimensions": lambda: np.empty((0, 5), dtype="i2"),
    "0-d": lambda: np.array(2.5),
    "small": lambda: np.arange(5),
    "C order": lambda: np.arange(60_000.0).reshape(300, 200),
    "Fortran order": lambda: np.asfortranarray(np.arange(60_000.0).reshape(300, 200)),
    "every third": lambda: np.arange(300_000)[::3],
    "a corner": lambda: np.arange(250_000.0).reshape(500, 500)[100:400, 7:333],
    "backwards": lambda: np.arange(100_000)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(300.0), (200, 300)),
    "objects": lambda: np.array([None, {"a": [1]}, "x", 2.5] * 5_000, dtype=object),
    "records": lambda: np.array([(n, n / 2, str(n)) for n in range(20_000)], dtype="i4,f8,U5"),
    "dates": lambda: np.arange(20_000).astype("M8[s]"),
    "big-endian": lambda: np.arange(20_000.0).astype(">f8"),
    "read-only": lambda: _frozen(np.arange(20_000)),
    "read-only, small": lambda: _frozen(np.arange(20)),
    "bytes": lambda: _random(3 * MEGA + 17),
}


@pytest.mark.smoke
@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_all_sizes(rc: Client, size: int) -> None:
    data = bytes(_random(size))
    view = rc[:]
    for value in (data, bytearray(data), data.hex(), array.array("B", data), np.frombuffer(data, np.uint8)):
        view["x"] = value
        for back in view["x"]:
            assert type(back) is type(value)
            assert len(back) == len(value)
            assert (
                bytes(back, "ascii") == bytes(value, "ascii") if isinstance(value, str) else bytes(back) == bytes(value)
            )
    assert bytes(rc[1].apply_sync(same, memoryview(data))) == data
    assert rc.load_balanced_view().map_sync(same, [data, data + b"1"]) == [data, data + b"1"]


@pytest.mark.smoke
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_as_they_were_and_may_be_written_to(rc: Client, name: str) -> None:
    made = ARRAYS[name]()
    view = rc[:]
    view["x"] = made
    view["y"] = {"deep": [made, made]}
    view.execute("x[...] = x; assert x.flags.writeable", block=True).get()
    assert view["y['deep'][0] is y['deep'][1]"] == [True] * 4
    back = [*view["x"], rc.load_balanced_view().apply_sync(same, made), rc[2].apply_sync(same, [made])[0]]
    for got in back:
        assert (got.dtype, got.shape) == (made.dtype, made.shape)
        np.testing.assert_array_equal(got, made)
        assert got.flags.writeable


def test_masked_arrays(rc: Client) -> None:
    made = np.ma.masked_array(np.arange(50_000.0), np.arange(50_000) % 7 == 0)
    view = rc[:]
    view["x"] = made
    for got in view["x"]:
        assert (got.mask == made.mask).all()
        assert got.sum() == made.sum()
    view.scatter("part", made, block=True)
    whole = view.gather("part", block=True)
    assert (whole.mask == made.mask).all()
    assert whole.sum() == made.sum()


def test_nested_containers_of_large_arrays(rc: Client) -> None:
    made = {f"key {n}": [np.full(50_000, n + 0.5), (n, {"a": np.full((3, 9_000), n)})] for n in range(12)}
    view = rc[:]
    view["x"] = made
    for got in view["x"]:
        assert list(got) == list(made)
        for n, (first, (number, rest)) in enumerate(got.values()):
            assert (number, first.shape, rest["a"].shape) == (n, (50_000,), (3, 9_000))
            assert (first == n + 0.5).all()
            assert (rest["a"] == n).all()


@pytest.mark.smoke
@pytest.mark.parametrize("count", [10, 10_000, 400_000])
def test_engines_do_not_see_each_others_writes(rc: Client, count: int) -> None:
    made = np.zeros(count)
    view = rc[:]
    handle = rc.put(made)
    view["x"] = made
    view.push({"y": handle}, block=True)
    for name in ("x", "y"):
        rc[1].execute(f"{name}[:] = 1", block=True).get()
        rc[2].execute(f"{name}[0] = 2", block=True).get()
        assert view[f"(float({name}[0]), float({name}.sum()))"] == [(0, 0), (1, count), (2, 2), (0, 0)]
        first = rc[0][name]
        first[:] = 9
        assert [float(got.sum()) for got in view[name]] == [0, count, 2, 0]
    assert made.sum() == 0


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("pandas", "DataFrame({'a': range(20_000), 'b': ['x'] * 20_000})"),
        ("pandas", "Series(range(20_000), index=range(5, 20_005))"),
        ("pyarrow", "table({'a': list(range(20_000)), 'b': ['x'] * 20_000})"),
        ("torch", "arange(20_000.0)"),
    ],
)
def test_tables_and_tensors(rc: Client, module: str, make: str) -> None:
    library = pytest.importorskip(module, reason=f"{module} is not installed in this environment")
    made = eval(f"library.{make}", {"library": library})
    equal = getattr(made, "equals", None) or (lambda other: bool((made == other).all()))
    view = rc[:]
    view["x"] = made
    assert all(equal(got) for got in view["x"])
    if module == "pandas":
        view.scatter("part", made, block=True)
        assert sum(view["len(part)"]) == len(made)
        assert equal(importlib.import_module("pandas").concat(view.gather("part", block=True)))


# -- scatter and gather ----------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 10, 100_003])
def test_scatter_and_gather_arrays(rc: Client, length: int, dist: str) -> None:
    view = rc[:]
    for made in (np.arange(length), np.arange(2.0 * length).reshape(length, 2), np.arange(length).astype("M8[s]")):
        view.scatter("part", made, dist=dist, block=True)
        assert sorted(view["len(part)"]) == sorted(len(range(n, length, 4)) for n in range(4))
        view.execute("part[...] = part", block=True).get()
        whole = view.gather("part", dist=dist, block=True)
        assert (whole.dtype, whole.shape) == (made.dtype, made.shape)
        np.testing.assert_array_equal(whole, made)
        assert whole.flags.writeable


def test_scatter_uneven_lists_and_strings(rc: Client) -> None:
    view = rc[:]
    view.scatter("part", list(range(10)), block=True)
    assert view["part"] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    view.scatter("part", list(range(10)), dist="r", block=True)
    assert view["part"] == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    view.scatter("part", "abcdef", block=True)
    assert view["part"] == view.gather("part", block=True) == ["ab", "cd", "e", "f"]
    view.scatter("part", (1, 2), block=True)
    assert view["part"] == [(1,), (2,), (), ()]


@pytest.mark.parametrize("dist", ["b", "r"])
def test_scatter_flat(rc: Client, dist: str) -> None:
    view = rc[:]
    view.scatter("part", [7, 8, 9, 10], dist=dist, flatten=True, block=True)
    assert view["part"] == view.gather("part", block=True) == [7, 8, 9, 10]
    rows = np.arange(8.0).reshape(4, 2)
    view.scatter("part", rows, dist=dist, flatten=True, block=True)
    assert view["part.shape"] == [(2,)] * 4
    view.scatter("part", [1, 2, 3, 4, 5], dist=dist, flatten=True, block=True)
    assert view.gather("part", dist=dist, block=True) == [1, 2, 3, 4, 5]
    view.scatter("part", [1], flatten=True, block=True)
    assert view["part"] == [1, [], [], []]


# -- objects that are sent once --------------------------------------------------------------------------------------


def freed(rc: Client) -> None:
    view = rc[:]
    wait_for(lambda: not any(view.apply_sync(objects_of, rc.session_name)), "engines free what nobody holds")


@pytest.mark.smoke
def test_a_shared_object_is_there_for_every_task(rc: Client) -> None:
    table = _random(5 * MEGA)
    handle = rc.put(table)
    tasks = rc.load_balanced_view()
    assert tasks.map_sync(interactive(lambda n, t: t[n]), range(200), [handle] * 200) == list(table[:200])
    assert tasks.map_sync(interactive(lambda n: handle[n]), range(200)) == list(table[:200])
    assert tasks.apply_sync(interactive(lambda *, t: len(t["a"])), t={"a": handle}) == 5 * MEGA
    assert rc[:].apply_sync(objects_of, rc.session_name) == [1] * 4
    assert rc[:].apply_sync(interactive(lambda t: t is t), handle) == [True] * 4
    np.testing.assert_array_equal(handle.get(), table)
    running = tasks.map_async(
        interactive(lambda n, t: __import__("time").sleep(0.05) or t[n]), range(12), [handle] * 12
    )
    handle.release()
    with pytest.raises(ipp.serialize.SerializationError, match="has been released"):
        tasks.apply(same, handle)
    assert running.get(timeout=30) == list(table[:12])
    freed(rc)


def test_what_an_engine_cannot_load_is_told_to_its_users(rc: Client) -> None:
    class Refusing:
        def __reduce__(self) -> Any:
            return eval, ("1 / 0",)

    handle = rc.put(Refusing())
    for view in (rc.load_balanced_view(), rc[2]):
        with pytest.raises(ipp.RemoteError, match="Refusing cannot be loaded on this engine: ZeroDivisionError"):
            view.apply_sync(same, handle)


@pytest.mark.smoke
def test_large_functions_and_repeated_arguments_are_fast_and_leave_nothing(rc: Client) -> None:
    big = np.zeros(4 * MEGA)
    big[:1000] = range(1000)
    tasks = rc.load_balanced_view()
    begin = time.monotonic()
    assert tasks.map_sync(interactive(lambda n: big[n]), range(1000)) == list(range(1000))
    assert tasks.map_sync(interactive(lambda n, t: t[n]), range(1000), [big] * 1000) == list(range(1000))
    assert list(tasks.imap(interactive(lambda n: big[n]), range(1000))) == list(range(1000))
    results = [tasks.apply_async(interactive(lambda n, t=big: t[n]), n) for n in range(8)]
    assert [result.get(timeout=30) for result in results] == list(range(8))
    assert time.monotonic() - begin < 30  # 32 GB would not have been
    freed(rc)


def test_tasks_that_write_to_a_repeated_argument_have_one_each(rc: Client) -> None:
    @interactive
    def spoil(values: Any) -> float:
        values += 1
        return float(values.max())

    for count in (10_000, MEGA):
        assert set(rc.load_balanced_view().map_sync(spoil, [np.zeros(count)] * 50)) == {1.0}


def test_large_functions_are_freed_after_failures_and_aborts(rc: Client) -> None:
    big = np.zeros(MEGA)
    tasks = rc.load_balanced_view()
    with pytest.raises(ipp.CompositeError):
        tasks.map_sync(interactive(lambda n: big[n] / 0 if n else [][n]), range(8))
    waiting = tasks.map_async(interactive(lambda n: __import__("time").sleep(0.2) or big[n]), range(1000))
    time.sleep(0.3)
    waiting.abort()
    with pytest.raises(ipp.CompositeError, match="TaskAborted"):
        waiting.get(timeout=30)
    freed(rc)


def test_an_engine_that_dies_takes_nothing_with_it(new_cluster: Any) -> None:
    rc = new_cluster(3).client()
    big = np.arange(MEGA)
    handle = rc.put(big)
    result = rc.load_balanced_view().map_async(
        interactive(lambda n, t: __import__("time").sleep(0.02) or int(t[n] + big[n])), range(300), [handle] * 300
    )
    time.sleep(0.5)
    rc.kill_engines(0, block=True)
    assert result.get(timeout=60) == [2 * n for n in range(300)]
    assert len(handle.get()) == MEGA
    handle.release()
    freed(rc)
