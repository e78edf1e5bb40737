"""Where the parts of a gather are read to, and what becomes of that memory."""

from __future__ import annotations

import gc
import mmap
import time
import weakref

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pxcluster.gatherrequest import GatherRequest
from pxcluster.landing import Landing, moves, place_in_slot
from pxcluster.partition import distribution
from pxcluster.sharedmemory import LARGE

lengths = st.integers(1, 70)


def address(array):
    return array.__array_interface__["data"][0]


def memory_of(array):
    """The mapping that an array lies in; None if it has memory of its own."""
    owner = array
    while isinstance(owner, numpy.ndarray) and owner.base is not None:
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    return owner if isinstance(owner, mmap.mmap) else None


def resident(region):
    """Bytes of its pages that are there."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(address(numpy.frombuffer(region, "u1")) // mmap.PAGESIZE * 8)
        pages = numpy.frombuffer(file.read(-(-len(region) // mmap.PAGESIZE) * 8), "u8")
    return int((pages >> 63).sum()) * mmap.PAGESIZE


def landed(landing, parts):
    """The parts read to where they are to go, in the order of (index, array)."""
    found = {}
    for index, part in parts:
        data = numpy.ascontiguousarray(part).tobytes()
        place = landing.place(index, [99, len(data)]).get(1)
        if place is None:
            place = memoryview(bytearray(len(data)))
        place[:] = data
        found[index] = numpy.frombuffer(place, part.dtype).reshape(part.shape)
    return [found[index] for index in sorted(found)]


# -- slots -----------------------------------------------------------------------------------------------------------


@given(lengths, st.lists(lengths, min_size=1, max_size=9))
def test_parts_keep_to_their_slots_and_are_aligned(slot, sizes):
    for part, length in enumerate(sizes):
        at = place_in_slot(part, slot, length)
        if at is None:
            assert length > slot - 8
        else:
            assert part * slot <= at <= at + length <= (part + 1) * slot
            assert at % min(8, length & -length) == 0


@given(lengths, st.integers(1, 9))
def test_equal_parts_are_never_moved(length, parts):
    places = [(place_in_slot(part, length, length), length) for part in range(parts)]
    assert not list(moves(places, length * parts))


@given(lengths, st.lists(lengths, min_size=1, max_size=9))
def test_moved_parts_lie_one_behind_the_other(slot, sizes):
    behind = max(slot, *sizes) * len(sizes)
    places = []
    for part, length in enumerate(sizes):
        at = place_in_slot(part, slot, length)
        places.append((behind + part * max(sizes) if at is None else at, length))
    memory = bytearray(2 * behind)
    for number, (at, length) in enumerate(places):
        memory[at : at + length] = bytes([number + 1]) * length
    for to, at, length in moves(places, behind):
        memory[to : to + length] = memory[at : at + length]
    expected = b"".join(bytes([number + 1]) * length for number, length in enumerate(sizes))
    assert memory[: len(expected)] == expected


# -- the memory ------------------------------------------------------------------------------------------------------


def test_only_one_large_buffer_has_a_place():
    landing = Landing(3)
    for sizes in ([10], [10, LARGE - 1], [LARGE, 10, LARGE], []):
        assert landing.place(0, sizes) == {}
    assert {index: len(place) for index, place in landing.place(1, [10, LARGE, 7]).items()} == {1: LARGE}
    assert len(landing.place(0, [10, LARGE + mmap.PAGESIZE])[1]) == LARGE + mmap.PAGESIZE
    assert landing.place(0, [10, LARGE * 2]) == {}


def test_what_the_system_has_no_room_for_has_no_place():
    landing = Landing(2)
    assert landing.place(0, [1 << 60]) == {}
    assert len(landing.place(0, [LARGE])[0]) == LARGE


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_equal_parts_are_not_copied(order):
    landing = Landing(3)
    made = numpy.arange(300_000.0).reshape(-1, 2)
    parts = landed(landing, [(index, made[index * 50_000 : (index + 1) * 50_000]) for index in order])
    whole = landing.join(parts)
    assert (address(whole), whole.shape) == (address(parts[0]), made.shape)
    assert whole.flags.writeable
    assert whole.flags.aligned
    numpy.testing.assert_array_equal(whole, made)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "M8[s]", ">i4", "c16", "i1,f8,U3"])
@pytest.mark.parametrize("columns", [1, 3])
def test_shorter_parts_are_moved_together_and_the_rest_has_no_pages(dtype, columns):
    row = numpy.dtype(dtype).itemsize * columns
    rows = 16 * (-(-4 * LARGE // row) // 16 + 1)
    landing = Landing(4)
    parts = [
        (numpy.arange(length * columns) % 97).reshape(length, columns).astype(dtype)
        for length in (rows, rows - 16, rows, rows - 16)
    ]
    here = landed(landing, enumerate(parts))
    region = memory_of(here[0])
    assert all(memory_of(part) is region and part.flags.aligned for part in here)
    size = sum(part.nbytes for part in parts)
    assert resident(region) >= size
    whole = landing.join(here)
    assert (address(whole), whole.dtype) == (address(here[0]), parts[0].dtype)
    numpy.testing.assert_array_equal(whole, numpy.concatenate(parts))
    assert resident(region) == -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0, 3, 1), (0, 1, 2, 3)])
@pytest.mark.parametrize("rows", [1_000_001, 1_000_002, 1_000_003])
def test_parts_that_are_longer_than_the_first_one_that_came_are_not_copied_elsewhere(order, rows):
    landing = Landing(4)
    made = numpy.arange(float(rows))
    parts = [(index, distribution("b").part(made, index, 4, rows)) for index in order]
    here = landed(landing, parts)
    region = memory_of(here[0])
    assert all(memory_of(part) is region for part in here)
    whole = landing.join(here)
    assert memory_of(whole) is region
    numpy.testing.assert_array_equal(whole, made)
    assert resident(region) == -(-whole.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def test_the_rest_of_the_memory_is_given_back():
    landing = Landing(4)
    parts = landed(
        landing, enumerate([numpy.ones(LARGE), numpy.ones(LARGE // 4), numpy.ones(0), numpy.ones(LARGE // 4)])
    )
    whole = landing.join([parts[0], parts[1], numpy.ones(0), parts[3]])
    assert len(whole) == LARGE * 3 // 2
    assert (whole == 1).all()
    assert resident(memory_of(whole)) == whole.nbytes


@pytest.mark.parametrize(
    "others",
    [
        lambda a: [a, a[:100].copy()],
        lambda a: [a, a.astype("f4")],
        lambda a: [a, a.reshape(-1, 2)],
        lambda a: [a.reshape(2, -1), a.reshape(-1, 2)],
        lambda a: [a, a[::-1]],
        lambda a: [a, numpy.ma.masked_array(a)],
        lambda a: [a, a.tolist()],
        lambda a: [a.tolist(), a],
        lambda a: [a[0], a],
        lambda a: [a, numpy.array([None, "x"])],
        lambda a: [a, None],
        lambda a: [a[:0], a[:0]],
        lambda a: [numpy.asfortranarray(a.reshape(2, -1))] * 2,
    ],
)
def test_what_is_no_array_of_one_kind_is_left_alone(others):
    landing = Landing(2)
    parts = landed(landing, enumerate([numpy.arange(LARGE / 8), numpy.arange(LARGE / 8)]))
    values = others(parts[0])
    assert landing.join(values) is None
    numpy.testing.assert_array_equal(parts[1], numpy.arange(LARGE / 8))


def test_nobody_but_the_result_keeps_the_memory():
    landing = Landing(2)
    parts = landed(landing, enumerate([numpy.zeros(LARGE), numpy.zeros(LARGE)]))
    gone = weakref.ref(memory_of(parts[0]))
    whole = landing.join(parts)
    del parts
    gc.disable()
    try:
        assert gone() is not None
        view = whole[5:7]
        del whole
        assert gone() is not None
        del view
        assert gone() is None
    finally:
        gc.enable()


# -- requests --------------------------------------------------------------------------------------------------------


def test_an_answer_that_comes_again_has_no_place():
    request = GatherRequest("gather", "pull", [3, 5])
    assert len(request.land(5, [LARGE])[0]) == LARGE
    assert len(request.land(5, [LARGE])[0]) == LARGE  # the connection broke before it was complete
    assert request.land(4, [LARGE]) == {}
    request.take_reply({"engine": 5, "status": 0, "started": 1.0, "completed": 2.0}, [])
    assert request.land(5, [LARGE]) == {}
    request.lose_engine(3, ValueError("gone"))
    assert request.land(3, [LARGE]) == {}


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def parts_for(controller, *arrays):
    for engine, array in zip(controller.engines.values(), arrays, strict=True):
        engine.namespace["x"] = array


def cut(array, parts=4):
    return [distribution("b").part(array, index, parts, len(array)) for index in range(parts)]


@pytest.mark.parametrize("shape", [(1_000_000,), (250_000, 4), (1_000_003,), (250_001, 4)])
def test_a_gathered_array_lies_where_it_was_read_to(dv, controller, shape):
    made = numpy.arange(numpy.prod(shape), dtype="f8").reshape(shape)
    parts_for(controller, *cut(made))
    first, second = [dv.gather("x", block=False) for _ in range(2)]
    whole = first.get(timeout=30)
    assert memory_of(whole) is not None
    assert whole.flags.writeable
    numpy.testing.assert_array_equal(whole, made)
    assert first.get() is whole
    assert [address(part) for part in first] == [address(part) for part in cut(whole)]
    other = second.get(timeout=30)
    other[:] = 0
    numpy.testing.assert_array_equal(whole, made)
    gone = weakref.ref(memory_of(whole))
    del whole, first
    wait_for(lambda: gone() is None)


def test_parts_that_somebody_has_had_stay_his(dv, controller):
    made = numpy.arange(1_000_003.0)
    parts_for(controller, *cut(made))
    result = dv.gather("x", block=False)
    before = list(result)
    whole = result.get(timeout=30)
    whole[:] = 0
    numpy.testing.assert_array_equal(numpy.concatenate(before), made)


PARTS = {
    "growing": [numpy.arange(n) for n in (100_000, 300_000, 200_000, 0)],
    "empty": [numpy.arange(n) for n in (0, 300_000, 0, 300_000)],
    "small": [numpy.arange(n) for n in (300_000, 3, 300_000, 300_000)],
    "of several types": [
        numpy.arange(n, dtype=dtype) for n, dtype in ((600_003, "u1"), (150_001, "f4"), (75_000, "f8"), (9, "i2"))
    ],
    "Fortran order": [numpy.asfortranarray(numpy.arange(300_000.0).reshape(-1, 2))] * 4,
    "objects": [numpy.array([None, "x"] * 100_000)] * 4,
    "masked": [numpy.ma.masked_array(numpy.arange(300_000), numpy.arange(300_000) % 5 == 0)] * 4,
    "lists": [[1, 2], (3,), [], [numpy.pi]],
    "lists of what is large": [[bytes(1_000_000)], [bytearray(1_000_000)], [], []],
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("dist", ["b", "r"])
def test_all_kinds_of_parts_are_joined_as_before(dv, controller, name, dist):
    parts_for(controller, *PARTS[name])
    whole, expected = dv.gather("x", dist=dist, block=True), distribution(dist).join(PARTS[name])
    assert type(whole) is type(expected)
    if isinstance(whole, list):
        assert whole == expected
    else:
        assert whole.dtype == expected.dtype
        assert whole.flags.aligned
        numpy.testing.assert_array_equal(whole, expected)


def test_an_engine_that_fails_spoils_nothing(dv, controller):
    parts_for(controller, *cut(numpy.arange(1_000_000.0)))
    del controller.engines[2].namespace["x"]
    result = dv.gather("x", block=False)
    with pytest.raises(Exception, match="NameError"):
        result.get(timeout=30)
    found = result.get(return_exceptions=True)
    numpy.testing.assert_array_equal(found[3], numpy.arange(750_000.0, 1_000_000))
    assert type(found[2]).__name__ == "RemoteError"


def test_one_engine_has_its_array_alone(rc, controller):
    parts_for(controller, *cut(numpy.arange(1_000_000.0)))
    numpy.testing.assert_array_equal(rc[[1]].gather("x", block=True), numpy.arange(250_000.0, 500_000))


def test_a_connection_that_breaks_within_a_part(dv, controller):
    controller.resumes = True
    controller.hold.set()
    made = numpy.arange(1_000_003.0)
    parts_for(controller, *cut(made))
    result = dv.gather("x", block=False)
    wait_for(lambda: len(controller._held) == 4)
    first, torn = controller._held[0], controller._held[2]
    controller.last_request = 1
    controller.connection.sendall(first + torn[: len(torn) // 2])
    wait_for(lambda: result.progress == 1)
    controller.expect("hello")
    controller.break_connection()
    controller.expect("hello")
    controller._held[0] = first[:-8_000] + bytes(8_000)  # it comes again, as another one
    controller.release()
    whole = result.get(timeout=30)
    numpy.testing.assert_array_equal(whole, made)
    assert memory_of(whole) is not None
