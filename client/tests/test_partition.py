"""Sequences cut and joined again."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pxcluster.partition import distribution, only

dists = st.sampled_from("br")
lengths = st.integers(0, 40)
engines = st.integers(1, 9)


def cut(seq, dist, parts):
    how = distribution(dist)
    return [how.part(seq, index, parts, len(seq)) for index in range(parts)]


@given(dists, lengths, engines)
def test_lists_and_arrays_are_whole_again(dist, length, parts):
    join = distribution(dist).join
    pieces = cut(list(range(length)), dist, parts)
    assert sorted(map(len, pieces)) == sorted(len(range(n, length, parts)) for n in range(parts))
    assert join(pieces) == list(range(length))
    assert join(cut(tuple(range(length)), dist, parts)) == list(range(length))
    for array in (
        numpy.arange(length),
        numpy.arange(6 * length).reshape(length, 2, 3),
        numpy.array([None, {}] * length, dtype=object)[:length],
        numpy.zeros(length, dtype=[("a", "i4"), ("b", "U3")]),
        numpy.arange(length).astype("M8[s]"),
        numpy.arange(length).astype(">i4"),
    ):
        whole = join(cut(array, dist, parts))
        assert (whole.shape, whole.dtype.kind) == (array.shape, array.dtype.kind)
        assert (whole == array).all()


@given(dists, lengths, engines)
def test_masked_arrays_keep_their_masks(dist, length, parts):
    array = numpy.ma.masked_array(numpy.arange(length), numpy.arange(length) % 3 == 0)
    whole = distribution(dist).join(cut(array, dist, parts))
    assert (numpy.ma.getmaskarray(whole) == array.mask).all()
    assert whole.filled(-1).tolist() == array.filled(-1).tolist()


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=5))
def test_parts_that_changed_their_lengths_lose_nothing(parts):
    expected = [part[at] for at in range(6) for part in parts if at < len(part)]
    assert distribution("r").join(parts) == expected
    arrays = [numpy.array(part, dtype=int) for part in parts]
    assert distribution("r").join(arrays).tolist() == expected
    assert distribution("b").join(arrays).tolist() == [value for part in parts for value in part]


def test_parts_of_several_types_are_joined_to_the_common_one():
    parts = [numpy.array([1, 2]), numpy.array([1.5, 2.5])]
    assert distribution("r").join(parts).tolist() == [1, 1.5, 2, 2.5]
    assert distribution("b").join(parts).tolist() == [1, 2, 1.5, 2.5]


@pytest.mark.parametrize("dist", ["b", "r"])
def test_flat_parts_beside_longer_ones_are_joined(dist):
    pieces = [only(part) if len(part) == 1 else part for part in cut([1, 2, 3, 4, 5], dist, 4)]
    assert distribution(dist).join(pieces) == [1, 2, 3, 4, 5]
    rows = numpy.arange(10.0).reshape(5, 2)
    pieces = [only(part) if len(part) == 1 else part for part in cut(rows, dist, 4)]
    assert (distribution(dist).join(pieces) == rows).all()
    pieces = [only(part) if len(part) == 1 else part for part in cut(rows[:, 0], dist, 4)]
    assert (distribution(dist).join(pieces) == rows[:, 0]).all()


def test_other_parts_stay_as_they_are():
    assert cut("abcdef", "b", 4) == ["ab", "cd", "e", "f"]
    assert distribution("b").join(["ab", "cd", "e", "f"]) == ["ab", "cd", "e", "f"]
    assert distribution("r").join([1, 2]) == [1, 2]
    assert distribution("b").join([]) == distribution("r").join([]) == []
    assert distribution("b").join([numpy.array(1), numpy.array(2)]) == [1, 2]


class Table:
    """As much of a pandas DataFrame as matters: indexing by position goes through iloc."""

    def __init__(self, rows):
        self.rows = rows
        self.iloc = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        raise KeyError(key)


def test_tables_are_cut_by_position():
    table = Table([10, 20, 30, 40, 50])
    assert cut(table, "b", 4) == [[10, 20], [30], [40], [50]]
    assert cut(table, "r", 4) == [[10, 50], [20], [30], [40]]
    assert only(Table([7])) == 7


def test_an_array_is_joined_with_one_copy_of_each_part():
    import tracemalloc

    for dist in "br":
        pieces = cut(numpy.zeros(1_000_000), dist, 4)
        tracemalloc.start()
        distribution(dist).join(pieces)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 8_000_000 <= peak < 8_100_000


@pytest.mark.parametrize(
    "lengths", [[3_000_000], [1, 2_999_999], [1_000_000, 0, 1_500_000, 7, 499_993], [0, 0, 3_000_000]]
)
def test_large_arrays_are_joined_as_small_ones_are(lengths: list[int]) -> None:
    whole = numpy.arange(sum(lengths) * 2.0).reshape(-1, 2)
    ends = numpy.cumsum(lengths)
    parts = [whole[end - length : end] for length, end in zip(lengths, ends, strict=True)]
    joined = distribution("b").join(parts)
    assert joined.dtype == whole.dtype
    assert numpy.array_equal(joined, whole)
    objects = [part.astype(object) for part in parts[:1]]
    assert distribution("b").join(objects).dtype == object
