"""Whatever is pickled is loaded as it was: random objects, and arrays of every kind."""

from __future__ import annotations

import array
import math

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pxcluster.serialize import dumps, dumps_task, loads, loads_task

numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.complex_numbers(allow_nan=False)
keys = st.integers() | st.text(max_size=9) | st.binary(max_size=9) | st.tuples(st.integers(), st.text(max_size=3))
sized = st.sampled_from([0, 1, 4095, 4096, 4097, 65535, 65536])
leaves = (
    numbers
    | st.text(max_size=50)
    | st.binary(max_size=50)
    | st.builds(lambda size: b"b" * size, sized)
    | st.builds(lambda size: bytearray(size), sized)
    | st.builds(lambda size: array.array("B", bytes(size)), sized)
    | st.frozensets(keys, max_size=3)
    | st.dates()
    | st.decimals(allow_nan=False)
)
objects = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=3)
    ),
    max_leaves=20,
)
dtypes = st.sampled_from(
    ["i1", "u2", "<i4", ">i4", "f2", "f4", "<f8", ">f8", "c16", "?", "S3", "U2", "M8[ns]", "m8[s]", "O", "V5"]
) | st.just([("x", "i4"), ("y", ">f8"), ("z", "U3")])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 40]), max_size=3).map(tuple)
quick = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def both_ways(obj):
    """The object as a direct request and as a task bring it; once more with the buffers in memory of their own."""
    buffers = dumps(obj)
    yield loads(buffers)
    yield loads([bytearray(buffer) for buffer in buffers])
    yield loads_task(dumps_task(obj))


@st.composite
def arrays(draw):
    """Arrays of all types, orders, gaps and flags."""
    dtype, shape = numpy.dtype(draw(dtypes)), draw(shapes)
    count = math.prod(shape)
    if dtype.kind in "OV" and dtype.names is None:
        made = numpy.zeros(count, dtype)
    else:
        made = numpy.arange(count).astype(dtype) if dtype.names is None else numpy.zeros(count, dtype)
    made = made.reshape(shape)
    form = draw(st.sampled_from(["C", "F", "every second", "backwards", "repeated"]))
    if form == "F":
        made = numpy.asfortranarray(made)
    elif form == "every second":
        made = made[..., ::2] if made.ndim else made
    elif form == "backwards":
        made = made[::-1] if made.ndim else made
    elif form == "repeated":
        made = numpy.broadcast_to(made, (3, *made.shape))
    if draw(st.booleans()):
        made = made.view()
        made.flags.writeable = False
    return made


@given(objects)
@quick
def test_objects_are_equal_and_of_the_same_type(obj):
    for back in both_ways(obj):
        assert back == obj
        assert type(back) is type(obj)


@given(arrays())
@quick
def test_arrays_are_equal_and_writable(made):
    for back in both_ways(made):
        assert type(back) is numpy.ndarray
        assert (back.dtype, back.shape) == (made.dtype, made.shape)
        numpy.testing.assert_array_equal(back, made)
        assert back.flags.writeable
        back[...] = back  # really
        if made.flags.f_contiguous and not made.flags.c_contiguous:
            assert back.flags.f_contiguous


@given(arrays(), st.integers(0, 3))
@quick
def test_what_is_the_same_object_stays_so(made, depth):
    obj = [made, {"again": made}]
    for _ in range(depth):
        obj = [obj, made, (obj,)]
    for back in both_ways(obj):
        for _ in range(depth):
            assert back[0] is back[2][0]
            assert back[1] is back[0][0] if depth == 1 else True
            back = back[0]
        assert back[0] is back[1]["again"]


@given(arrays())
@quick
def test_subclasses_of_arrays_stay_what_they_are(made):
    if made.dtype.kind not in "OV":
        masked = numpy.ma.masked_array(made, numpy.zeros(made.shape, bool))
        for back in both_ways(masked):
            assert type(back) is type(masked)
            numpy.testing.assert_array_equal(back.data, masked.data)
            assert numpy.shape(back.mask) == numpy.shape(masked.mask)


def test_large_arrays_with_gaps_are_copied_once_and_travel_beside_the_pickle():
    whole = numpy.zeros((1000, 1000))
    data, buffer = dumps({"part": whole[::2, ::3]})
    assert len(data) < 500
    assert buffer.nbytes == 500 * 334 * 8
    data, buffer = dumps(whole.T)
    assert numpy.shares_memory(numpy.frombuffer(buffer), whole)


def test_the_frozen_array_of_the_sender_stays_frozen():
    made = numpy.arange(10_000)
    made.flags.writeable = False
    back = loads(dumps({"a": made}))["a"]
    back[0] = 7
    assert made[0] == 0
    assert not made.flags.writeable


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_views_of_memory_arrive_as_bytes(size):
    for back in both_ways(memoryview(bytearray(b"v" * size))):
        assert bytes(back) == b"v" * size
