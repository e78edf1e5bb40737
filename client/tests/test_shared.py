"""Objects that are sent once, and functions and arguments that are sent that way by themselves."""

from __future__ import annotations

import copy
import functools
import gc
import threading
import time

import numpy
import pxcluster as ipp
import pytest
from pxcluster._engine import objects
from pxcluster.packing import LARGE_ARGUMENT, Repeated
from pxcluster.serialize import dumps_task


class Unloadable:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ModuleNotFoundError("No module named 'x'")


def kept():
    """The keys of what the engines of this process have."""
    return sorted(objects._objects)


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def nothing_left():
    """Whatever a test puts is freed when it has let go of it."""
    yield
    gc.collect()
    objects._objects.clear()


def test_a_handle_stands_for_the_object_everywhere(rc, dv, lbv):
    table = numpy.arange(100_000.0)
    handle = rc.put(table)
    assert repr(handle) == f"<Shared numpy.ndarray: {handle.nbytes:,} bytes>"
    assert table.nbytes < handle.nbytes < table.nbytes + 500
    assert dv.apply_sync(numpy.sum, handle) == [table.sum()] * 4
    assert dv.apply_sync(lambda *, a: a["t"][0].nbytes, a={"t": (handle,)}) == [table.nbytes] * 4
    assert lbv.map_sync(lambda i, t: t[i], range(5), [handle] * 5) == [0, 1, 2, 3, 4]
    assert lbv.map_sync(lambda i: handle[i], range(3)) == [0, 1, 2]
    assert lbv.map_sync(functools.partial(numpy.add, handle), [1])[0][5] == 6
    assert lbv.apply_sync(lambda i, t=handle: t[i], 4) == 4
    assert list(lbv.imap(lambda i, t: t[i], range(5), [handle] * 5)) == [0, 1, 2, 3, 4]
    assert lbv.executor.submit(numpy.sum, handle).result() == table.sum()
    dv.push({"x": handle}, block=True)
    assert rc[2]["x.size"] == table.size
    dv.scatter("y", [handle] * 4, block=True)
    assert rc[3]["y[0].size"] == table.size
    assert dv.map_sync(lambda i, t: t[i], range(5), [handle] * 5) == [0, 1, 2, 3, 4]
    assert (handle.get() == table).all()
    assert copy.deepcopy({"a": handle})["a"] is handle
    assert kept() == [handle._lease.key]
    assert handle._lease.key.startswith(rc.session_name + "/")


def test_handles_travel_by_cloudpickles_rules(rc, dv, lbv):
    handle = rc.put(numpy.zeros(50_000))
    dv.use_cloudpickle()
    try:
        assert lbv.map_sync(lambda i: handle.size, range(3)) == [50_000] * 3
        assert rc.put({"a": handle}).get()["a"].size == 50_000
    finally:
        dv.use_pickle()


def test_put_does_not_wait(rc, controller):
    controller.hold.set()
    handle = rc.put([1, 2])
    result = rc[:].apply_async(len, handle)
    assert not result.done()
    controller.release()
    assert result.get(timeout=10) == [2] * 4


def test_what_cannot_be_loaded_there_is_told_to_who_uses_it(rc, lbv, controller):
    handle = rc.put(Unloadable())
    with pytest.raises(ipp.RemoteError) as raised:
        lbv.apply_sync(lambda x: x, handle)
    assert raised.value.ename == "SerializationError"
    reason = "Unloadable cannot be loaded on this engine: ModuleNotFoundError: No module named 'x'"
    assert raised.value.evalue.endswith(reason)


def test_what_cannot_be_pickled_raises_at_once(rc):
    with pytest.raises(ipp.serialize.SerializationError, match="lock"):
        rc.put({"a": threading.Lock()})
    assert kept() == []


def test_released_handles_cannot_be_used(rc, dv, lbv):
    handle = rc.put([1])
    dv.apply_sync(len, handle)
    handle.release()
    handle.release()
    eventually(lambda: kept() == [])
    assert repr(handle) == "<Shared list: released>"
    for use in (
        lambda: dv.apply(len, handle),
        lambda: dv.push({"a": [handle]}),
        lambda: lbv.map(len, [handle]),
        handle.get,
    ):
        with pytest.raises(ipp.serialize.SerializationError, match=r"^the handle of a shared list has been released"):
            use()


def test_a_collected_handle_frees_the_object(rc):
    handle = rc.put([1])
    rc.wait()
    assert len(kept()) == 1
    del handle
    eventually(lambda: kept() == [])


def test_requests_under_way_keep_what_they_mention(rc, dv, lbv, controller):
    controller.hold.set()
    results = [lbv.apply(len, rc.put([1, 2])), dv.apply(len, rc.put([1])), lbv.map(len, [rc.put([3])] * 2)]
    eventually(lambda: len(kept()) == 3)
    time.sleep(0.05)
    assert len(kept()) == 3
    controller.release()
    assert [result.get() for result in results] == [2, [1] * 4, [1, 1]]
    eventually(lambda: kept() == [])


def test_a_handle_inside_a_shared_object_is_needed_for_its_loading_only(rc):
    inner = rc.put([1, 2])
    outer = rc.put({"inner": inner})
    inner.release()
    assert outer.get() == {"inner": [1, 2]}
    eventually(lambda: len(kept()) == 1)


def test_handles_may_end_inside_locks(rc):
    """The finalizer must not send by itself: the thread in which it runs may be sending."""
    handle = rc.put([1])
    rc.wait()
    with rc._session._sending, rc._session._reading:
        del handle
    eventually(lambda: kept() == [])


def test_a_child_process_frees_nothing(rc, monkeypatch):
    handle = rc.put([1])
    rc.wait()
    with monkeypatch.context() as forked:
        forked.setattr(rc._session, "_process", -1)
        del handle
    rc[:].apply_sync(len, "")
    assert len(kept()) == 1


def test_many_that_end_together_are_forgotten(rc):
    handles = [rc.put(n) for n in range(300)]
    rc.wait()
    assert len(kept()) == 300
    handles.clear()
    eventually(lambda: kept() == [])


def test_an_aborted_release_is_made_again(rc, monkeypatch):
    handle = rc.put([1])
    rc.wait()
    submit = rc._session.submit
    aborted = []

    def aborts_once(request, header, buffers=()):
        if request.name == "release" and not aborted:
            aborted.append(request)
            for engine in request.targets:
                for callback in request.take_reply({"engine": engine, "status": 2, "started": 0, "completed": 0}, []):
                    callback()
        else:
            submit(request, header, buffers)

    monkeypatch.setattr(rc._session, "submit", aborts_once)
    del handle
    eventually(lambda: kept() == [])
    assert len(aborted) == 1


def test_a_handle_outlives_its_client(rc):
    handle = rc.put([1])
    rc.close()
    with pytest.raises(ipp.error.ConnectionLost):
        rc.put([1])
    del handle
    with pytest.raises(ipp.error.ConnectionLost):
        rc._session.check()


# -- large functions -------------------------------------------------------------------------------------------------


def directs(controller):
    """The names of the functions of all direct requests so far, and the bytes of maps."""
    names, sizes = [], []
    while not controller.received.empty():
        header, buffers = controller.received.get()
        if header["type"] == "direct":
            names.append("keep" if b"keep" in bytes(buffers[0]) else "forget" if b"forget" in bytes(buffers[0]) else "")
        if header["type"] == "map":
            sizes.append(sum(map(len, buffers)))
    return names, sizes


@pytest.mark.parametrize(
    "make",
    [
        lambda big: lambda i: big[i],
        lambda big: lambda i, big=big: big[i],
        lambda big: functools.partial(numpy.take, big),
    ],
    ids=["closure", "default", "partial"],
)
def test_large_functions_of_maps_are_sent_once(rc, lbv, controller, make):
    big = numpy.arange(200_000.0)
    assert lbv.map_sync(make(big), range(10)) == list(range(10))
    eventually(lambda: kept() == [])
    names, sizes = directs(controller)
    assert names == ["keep", "forget"]
    assert sizes[0] < 5000
    assert list(lbv.imap(make(big), iter(range(1000)), max_outstanding=10)) == list(range(1000))
    eventually(lambda: kept() == [])
    assert directs(controller)[0] == ["keep", "forget"]


def test_a_function_of_many_small_objects_is_large_too(lbv, controller):
    table = {str(number): number for number in range(100_000)}
    assert lbv.map_sync(lambda i: table[str(i)], range(10)) == list(range(10))
    eventually(lambda: kept() == [])
    assert directs(controller)[0] == ["keep", "forget"]


def test_small_functions_go_along(lbv, controller):
    small = numpy.arange(100_000.0)
    assert lbv.map_sync(lambda i: small[i], range(10)) == list(range(10))
    assert directs(controller)[0] == []


def test_a_large_function_has_its_values_at_submission(lbv, controller):
    big = numpy.zeros(200_000)
    f = lambda i: big[i]  # noqa: E731
    controller.hold.set()
    results = []
    for number in range(3):
        big[:] = number
        results.append(lbv.map(f, range(2)))
        results.append(lbv.apply(f, 0))
    controller.release()
    assert [result.get() for result in results] == [[0, 0], 0, [1, 1], 1, [2, 2], 2]
    eventually(lambda: kept() == [])


def test_a_large_function_that_fails_is_freed(lbv, controller):
    big = numpy.zeros(200_000)
    result = lbv.map(lambda i: big[0] + 1 // i, [1, 0])
    with pytest.raises(ipp.RemoteError):
        result.get()
    eventually(lambda: kept() == [])


def test_a_large_function_of_single_tasks_is_sent_with_the_first_and_put_for_the_others(lbv, controller):
    big = numpy.arange(200_000.0)
    f = lambda i, big=big: big[i]  # noqa: E731
    assert [lbv.apply_sync(f, number) for number in range(3)] == [0, 1, 2]
    assert directs(controller)[0] == []
    controller.hold.set()
    results = [lbv.apply(f, number) for number in range(20)]
    results += [lbv.apply(lambda *a, **k: k["big"][a[0]], number, big=big) for number in range(20)]
    eventually(lambda: controller.received.qsize() >= 42)
    names, sizes = directs(controller)
    assert names == ["keep"] * 2
    assert sorted(size > 1_000_000 for size in sizes) == [False] * 38 + [True] * 2
    controller.release()
    assert [result.get() for result in results] == [*range(20), *range(20)]
    eventually(lambda: kept() == [])


# -- arguments that items share --------------------------------------------------------------------------------------


def test_arguments_that_items_share_are_sent_once(lbv, controller):
    big, other = numpy.arange(20_000.0), b"x" * LARGE_ARGUMENT
    result = lbv.map(lambda i, a, b: (a[i], len(b)), range(50), [big] * 50, [other] * 50)
    assert result.get() == [(i, LARGE_ARGUMENT) for i in range(50)]
    assert lbv.map_sync(lambda item: item[1][item[0]], [(i, big) for i in range(50)], chunksize=7) == list(range(50))
    assert lbv.map_sync(len, [other] * 5) == [LARGE_ARGUMENT] * 5
    eventually(lambda: kept() == [])
    names, sizes = directs(controller)
    assert names.count("keep") == 4
    assert max(sizes) < 20_000


def test_tasks_may_write_to_what_they_share_in_the_client(lbv, controller):
    for length in (10_000, 200_000):
        big = numpy.zeros(length)

        def spoil(array):
            array += 1
            return array.max()

        assert lbv.map_sync(spoil, [big] * 10) == [1] * 10
        assert big.max() == 0


def test_what_items_do_not_share_travels_as_before(lbv, controller):
    arrays = [numpy.full(10_000, n) for n in range(3)]
    assert lbv.map_sync(numpy.max, arrays) == [0, 1, 2]
    assert lbv.map_sync(numpy.max, [numpy.zeros(10)] * 3) == [0] * 3
    assert directs(controller)[0] == []


class Stand:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("items", "places"),
    [
        (lambda a, b: [a, b, a], "a.a"),
        (lambda a, b: [(a, 1), (b, 2), (a, 3)], "a.a"),
        (lambda a, b: [[a, a], 5, "text", {1: a}], "aa..."),
        (lambda a, b: [(a, b), a, b, (a,)], "ababa"),
        (lambda a, b: [((a,),), ((a,),)], ".."),
        (lambda a, b: [{"a": a}, {"a": a}], ".."),
        (lambda a, b: [a[:1000], a[:1000], b], "..."),
    ],
)
def test_where_repeated_objects_are_found(items, places):
    a, b = numpy.zeros(10_000), "ü" * LARGE_ARGUMENT
    names = {id(a): "a", id(b): "b"}
    given = items(a, b)
    found = ""
    for item, before in zip(Repeated(Stand).replaced(given), given, strict=True):
        assert type(item) is type(before) or isinstance(item, Stand)
        members = item if isinstance(item, tuple | list) else [item]
        stands = [names[id(member.value)] for member in members if isinstance(member, Stand)]
        found += "".join(stands) or "."
    assert found == places


@pytest.mark.parametrize(
    "items",
    [
        [1, 2.5, None],
        [(1, 2), (3, 4)],
        ["a", "b"],
        [numpy.float64(1), numpy.zeros(3)],
        [{}, set(), ()],
        [],
        ["x" * LARGE_ARGUMENT, "y" * LARGE_ARGUMENT],
    ],
)
def test_ordinary_items_are_left_alone(items):
    assert Repeated(Stand).replaced(items) is items


def test_what_says_nothing_of_its_size_is_left_alone():
    class Odd:
        nbytes = "many"

    items = [Odd()] * 2
    assert Repeated(Stand).replaced(items) is items


def test_numbers_in_tuples_are_pickled_together():
    items = [(1, 2.5), [True, None], ()]
    assert ipp.serialize.dumps_numbers(items) == list(map(dumps_task, items))
    assert ipp.serialize.dumps_numbers([(1, "a")]) is None
    assert ipp.serialize.dumps_numbers([(1, (2,))]) is None
    assert ipp.serialize.dumps_numbers([(1, 2), 3]) is None
