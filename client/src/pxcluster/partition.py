"""Sequences cut in parts, one per engine, and put together again."""

from __future__ import annotations

import sys
from itertools import chain, islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def is_array(obj: object) -> bool:
    """Whether `obj` is a NumPy array; NumPy is not loaded for the question's sake."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.ndarray)


class Block:
    """Contiguous parts; the first ones get the remainder."""

    def part(self, seq: Any, index: int, parts: int, length: int) -> Any:
        """Part `index` of `parts` of the first `length` items of `seq`."""
        size, rest = divmod(length, parts)
        low = index * size + min(index, rest)
        high = low + size + (index < rest)
        try:
            return seq[low:high]
        except TypeError:
            return list(islice(seq, low, high))

    def join(self, parts: Sequence[Any]) -> Any:
        """The inverse of :meth:`part`; a list of scalars stays as it is."""
        if not parts:
            return []
        if is_array(parts[0]):
            return sys.modules["numpy"].concatenate(parts)
        if isinstance(parts[0], list | tuple):
            return list(chain.from_iterable(parts))
        return list(parts)


class RoundRobin(Block):
    """Item i goes to part i modulo the number of parts."""

    def part(self, seq: Any, index: int, parts: int, length: int) -> Any:
        try:
            return seq[index:length:parts]
        except TypeError:
            return list(islice(seq, index, length, parts))

    def join(self, parts: Sequence[Any]) -> Any:
        if not parts:
            return []
        if is_array(parts[0]):
            numpy = sys.modules["numpy"]
            whole = numpy.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
            for index, part in enumerate(parts):
                whole[index :: len(parts)] = part
            return whole
        if isinstance(parts[0], list | tuple):
            return [part[row] for row in range(len(parts[0])) for part in parts if row < len(part)]
        return list(parts)


def distribution(dist: str) -> Block:
    """``'b'``: contiguous, ``'r'``: round robin. KeyError for others."""
    return {"b": Block, "r": RoundRobin}[dist]()
