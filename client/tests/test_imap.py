"""Lazy maps: how many inputs are taken, and which flags hold for them."""

from __future__ import annotations

import itertools

import pxcluster as ipp
import pytest
from pxcluster import imap


class Inputs:
    """Endless bytes of one size; counts what has been taken."""

    def __init__(self, size=1):
        self.size = size
        self.taken = 0

    def __iter__(self):
        while True:
            self.taken += 1
            yield bytes(self.size)


@pytest.mark.parametrize("ordered", [True, False])
def test_bytes_bound_what_is_taken(lbv, monkeypatch, ordered):
    monkeypatch.setattr(imap, "MOST_BYTES", 10_000)
    inputs = Inputs(1000)
    values = lbv.imap(len, inputs, ordered=ordered, max_outstanding=0)
    assert inputs.taken <= 10
    for asked in range(1, 101):
        assert next(values) == 1000
        assert inputs.taken <= asked + 10
    values.cancel()
    assert len(list(values)) == inputs.taken - 100
    assert values._bytes == values._unanswered == 0


def test_an_input_may_be_larger_than_the_bound(lbv, monkeypatch):
    monkeypatch.setattr(imap, "MOST_BYTES", 10)
    assert list(lbv.imap(len, [b"a" * 100, b"b" * 50, b"c"])) == [100, 50, 1]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("most", [1, 3, 0, "auto"])
def test_numbers_bound_what_is_taken(lbv, ordered, most):
    inputs = Inputs()
    values = lbv.imap(len, inputs, ordered=ordered, max_outstanding=most)
    for asked in range(1, 51):
        assert next(values) == 1
        assert inputs.taken <= asked + (most if isinstance(most, int) and most else 1 << 16)
    values.cancel()


def test_few_inputs_are_taken_while_engines_have_enough_to_do(lbv, controller):
    controller.hold.set()
    inputs = Inputs()
    values = lbv.imap(len, inputs)
    assert inputs.taken <= 2 * len(lbv)
    controller.release()
    assert list(itertools.islice(values, 5000)) == [1] * 5000
    values.cancel()
    assert values._limit > 2 * len(lbv)


def test_inputs_that_cannot_be_pickled_come_after_the_results_before_them(lbv):
    values = lbv.imap(str, [1, 2, (n for n in "ab"), 3])
    assert [next(values), next(values)] == ["1", "2"]
    with pytest.raises(ipp.SerializationError):
        next(values)
    with pytest.raises(ValueError, match="max_outstanding"):
        lbv.imap(str, [1], max_outstanding=-1)


def test_flags_hold_for_all_of_it(lbv, controller):
    first = lbv.apply_async(len, "a")
    with lbv.temp_flags(after=first, retries=2, timeout=3, targets=[1, 2], label="lazy"):
        values = lbv.imap(len, Inputs(), max_outstanding=4)
    assert list(itertools.islice(values, 20)) == [1] * 20
    values.cancel()
    controller.expect("map")
    for _ in range(3):
        header = controller.expect("map")[0]
        assert header["after"]["needs"] == [{"request": 1}]
        assert (header["retries"], header["timeout"], header["targets"]) == (2, 3.0, [1, 2])
        assert header["label"] == "lazy"
