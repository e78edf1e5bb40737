"""Sequences cut in parts, one per engine, and put together again."""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right
from itertools import accumulate, chain, islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: From this size on, bytes, arrays are joined by two threads.
_SHARED_WORK = 16 << 20


def is_array(obj: object) -> bool:
    """Whether `obj` is a NumPy array; NumPy is not loaded for the question's sake."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.ndarray)


def only(part: Any) -> Any:
    """The element of a part of one; of a table its row."""
    return getattr(part, "iloc", part)[0]


class Block:
    """Contiguous parts; the first ones get the remainder."""

    def part(self, seq: Any, index: int, parts: int, length: int) -> Any:
        """Part `index` of `parts` of the first `length` items of `seq`; tables (pandas) are cut by position."""
        size, rest = divmod(length, parts)
        low = index * size + min(index, rest)
        return _cut(seq, slice(low, low + size + (index < rest)))

    def join(self, parts: Sequence[Any]) -> Any:
        """The inverse of :meth:`part`; a list of other things than arrays, lists and tuples stays as it is."""
        if not parts:
            return []
        if is_array(parts[0]) and parts[0].ndim:
            return _concatenated(parts)
        if isinstance(parts[0], list | tuple):
            return list(chain.from_iterable(map(_row, parts)))
        return list(parts)

    def getPartition(self, seq: Any, p: int, q: int, n: int | None = None) -> Any:
        """:meth:`part` by ipyparallel's name: part `p` of `q` of the first `n` items, by default of all."""
        return self.part(seq, p, q, len(seq) if n is None else n)

    def joinPartitions(self, listOfPartitions: Sequence[Any]) -> Any:
        """:meth:`join` by ipyparallel's name."""
        return self.join(listOfPartitions)


class RoundRobin(Block):
    """Item i goes to part i modulo the number of parts."""

    def part(self, seq: Any, index: int, parts: int, length: int) -> Any:
        return _cut(seq, slice(index, length, parts))

    def join(self, parts: Sequence[Any]) -> Any:
        if not parts:
            return []
        if is_array(parts[0]) and parts[0].ndim:
            return _interleaved(parts)
        if isinstance(parts[0], list | tuple):
            rows = [_row(part) for part in parts]
            return [row[at] for at in range(max(map(len, rows))) for row in rows if at < len(row)]
        return list(parts)


def distribution(dist: str) -> Block:
    """``'b'``: contiguous, ``'r'``: round robin. KeyError for others."""
    return {"b": Block, "r": RoundRobin}[dist]()


def _cut(seq: Any, where: slice) -> Any:
    try:
        return getattr(seq, "iloc", seq)[where]
    except TypeError:
        return list(islice(seq, where.start, where.stop, where.step))


def _row(part: Any) -> Sequence[Any]:
    """A part as a sequence; scattering with `flatten` made those of one element that element."""
    return part if isinstance(part, list | tuple) else (part,)


def _rows_of(parts: Sequence[Any]) -> list[Any]:
    """Arrays of one number of dimensions; those that `flatten` made an element are parts of one row again."""
    numpy = sys.modules["numpy"]
    arrays = [numpy.asanyarray(part) for part in parts]
    return [part[None] if part.ndim == arrays[0].ndim - 1 else part for part in arrays]


def _concatenated(parts: Sequence[Any]) -> Any:
    """Arrays one after the other, each copied once."""
    numpy = sys.modules["numpy"]
    rows = _rows_of(parts)
    size = sum(part.nbytes for part in rows)
    first = rows[0]
    if size >= _SHARED_WORK and all(
        type(part) is numpy.ndarray and part.dtype == first.dtype and part.shape[1:] == first.shape[1:] for part in rows
    ):
        return _copied_by_two(rows)
    masked = any(isinstance(part, numpy.ma.MaskedArray) for part in rows)
    return (numpy.ma if masked else numpy).concatenate(rows)


def _copied_by_two(rows: Sequence[Any]) -> Any:
    """Arrays of one kind in one; two threads get the fresh pages for it in half the time, which is most of it."""
    numpy = sys.modules["numpy"]
    ends = list(accumulate(map(len, rows)))
    whole = numpy.empty((ends[-1], *rows[0].shape[1:]), rows[0].dtype)
    middle = bisect_right(ends, ends[-1] // 2)

    def copy(chosen: slice) -> None:
        for part, end in zip(rows[chosen], ends[chosen], strict=True):
            whole[end - len(part) : end] = part

    other = threading.Thread(target=copy, args=(slice(middle, None),))
    other.start()
    try:
        copy(slice(middle))
    finally:
        other.join()
    return whole


def _interleaved(parts: Sequence[Any]) -> Any:
    """Arrays whose rows take turns, each copied once if they are as long as :meth:`RoundRobin.part` makes them."""
    numpy = sys.modules["numpy"]
    rows = _rows_of(parts)
    plain = all(type(part) is numpy.ndarray and part.shape[1:] == rows[0].shape[1:] for part in rows)
    lengths = [len(part) for part in rows]
    total = sum(lengths)
    if plain and lengths == [len(range(index, total, len(rows))) for index in range(len(rows))]:
        whole = numpy.empty((total, *rows[0].shape[1:]), numpy.result_type(*rows))
        for index, part in enumerate(rows):
            whole[index :: len(rows)] = part
        return whole
    places = [(at, index) for index, length in enumerate(lengths) for at in range(length)]
    order = sorted(range(total), key=places.__getitem__)
    return _concatenated(rows)[order]
