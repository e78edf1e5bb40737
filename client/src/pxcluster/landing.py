"""Where the parts of a gather are read to: one behind the other in memory that becomes the result.

The lengths of parts are not known before they come. The first large one says what the others will probably be: part k
gets slot k, and slots have its length. Equal parts, in whatever order they come, then lie as in the result. Parts that
are a little longer, as the first ones of an uneven scatter are, lie behind all slots. In the end everything that is not
where it belongs is moved there. If one is much longer, everything is joined by copying.
"""

from __future__ import annotations

import mmap
import sys

from .sharedmemory import LARGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

#: Parts begin at multiples of it, bytes, as all types of numbers want it; those that fill their slots, where these do.
_ALIGNMENT = 8


def place_in_slot(part: int, slot: int, length: int) -> int | None:
    """Where a part of `length` bytes begins, if slots have `slot` bytes. None: it does not fit in its own."""
    at = part * slot
    if length != slot:
        at += -at % _ALIGNMENT
    return at if at + length <= (part + 1) * slot else None


def moves(places: Iterable[tuple[int, int]], behind: int) -> Iterator[tuple[int, int, int]]:
    """What puts parts, (place, length), one behind the other: (to, from, length), in that order.

    Parts lie in their order, but those from `behind` on, which is beyond the end of what they become. No move
    overwrites what has not been moved: what goes down goes first, in order, then what goes up, the last one first.
    """
    down, up, last, end = [], [], [], 0
    for at, length in places:
        if at >= behind:
            last.append((end, at, length))
        elif at > end:
            down.append((end, at, length))
        elif at < end:
            up.append((end, at, length))
        end += length
    yield from (*down, *reversed(up), *last)


class Landing:
    """The memory for a number of parts, made when the first large one comes. Parts and result keep it alive."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._slot = self._spare = 0
        self._region: mmap.mmap | None = None

    def place(self, part: int, sizes: Sequence[int]) -> dict[int, memoryview]:
        """Where the only large one of a part's buffers goes, by its index; empty if it has to go elsewhere."""
        large = [index for index, size in enumerate(sizes) if size >= LARGE]
        if len(large) != 1:
            return {}
        length = sizes[large[0]]
        if self._region is None and not self._make(length):
            return {}
        at = place_in_slot(part, self._slot, length)
        if at is None and length <= self._spare:
            at = self._behind(part)
        return {} if at is None else {large[0]: memoryview(self._region)[at : at + length]}  # type: ignore[arg-type]

    def _make(self, slot: int) -> bool:
        """Reserve slots of this size, without pages; False: the system has no room for them."""
        longest = slot + max(slot // 64, mmap.PAGESIZE)
        spare = -(-longest // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            region = mmap.mmap(-1, 2 * self._parts * spare, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            return False
        _advise(region, mmap.MADV_HUGEPAGE, 0)  # as NumPy does: most of the time goes into fresh pages
        self._region, self._slot, self._spare = region, slot, spare
        return True

    def _behind(self, part: int) -> int:
        """Where a part begins that is too long for its slot; the result ends before."""
        return (self._parts + part) * self._spare

    def join(self, parts: Sequence[Any]) -> Any:
        """The array of `parts`, made where they lie and ending their use; None if they are not arrays of one kind here.

        Without a result the parts are as they were.
        """
        region, self._region = self._region, None
        numpy = sys.modules.get("numpy")
        if region is None or numpy is None:
            return None
        first = parts[0]
        if not all(
            type(part) is numpy.ndarray
            and part.ndim
            and part.dtype == first.dtype
            and part.shape[1:] == first.shape[1:]
            and part.flags.c_contiguous
            for part in parts
        ):
            return None
        everything = numpy.frombuffer(region, numpy.uint8)
        begin = _address(everything)
        places = [(_address(part) - begin, part.nbytes) for part in parts]
        for part, (at, length) in enumerate(places):
            slot = part * self._slot
            if length and at != self._behind(part) and not slot <= at <= at + length <= slot + self._slot:
                return None
        size = sum(length for _, length in places)
        if not size:
            return None
        for to, at, length in moves((place for place in places if place[1]), self._behind(0)):
            region.move(to, at, length)
        _advise(region, mmap.MADV_DONTNEED, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        return everything[:size].view(first.dtype).reshape(sum(map(len, parts)), *first.shape[1:])


def _advise(region: mmap.mmap, advice: int, begin: int) -> None:
    if begin < len(region):
        try:
            region.madvise(advice, begin)
        except OSError:
            pass  # the kernel has no such pages, or the process has locked its own


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
