"""Frames of the client link, without any I/O.

A frame is ``u32 header length · u32 buffer count · u64 length per buffer · header (UTF-8 JSON) · buffers``, little
endian, unpadded. Buffers are opaque bytes; arrays in them are raw little-endian numbers. The highest bit of a length
says that the buffer lies in shared memory and that the frame has eight bytes in its place, the offset there.
"""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    Bytes = bytes | bytearray | memoryview
    Header = dict[str, Any]
    Frame = tuple[Header, list[Bytes]]
    #: The length of buffers in shared memory, and the memory to read them to if there is any already, by index.
    Shared = dict[int, tuple[int, memoryview | None]]

PROTOCOL_VERSION = 1

#: Frames up to this size are sent as one piece and received through the staging buffer.
SMALL = 64 << 10

_STAGING = 256 << 10
_MOST_HEADER = 16 << 20
_MOST_BUFFERS = 1 << 16
_MOST_BODY = 1 << 40
_SHARED = 1 << 63
_NO_PLACES: dict[int, int] = {}

_PREFIX = struct.Struct("<II")
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_from_json = json.JSONDecoder().decode


class FrameError(ValueError):
    """Bytes that are no frame of this protocol."""


class Pieces(NamedTuple):
    """One buffer in several pieces, one behind the other."""

    pieces: Sequence[Bytes]
    #: Of all of them, bytes.
    size: int


def encode(
    header: Header, buffers: Sequence[Bytes | Pieces] = (), places: Mapping[int, int] = _NO_PLACES
) -> list[Bytes]:
    """The bytes of a frame as pieces to be sent one after the other; big buffers are not copied.

    The keys of `header` are written in their order. `places`: offsets of buffers in shared memory, by index.
    """
    text = (_direct(header) if header["type"] == "direct" and len(header) == 4 else _to_json(header)).encode()
    if not buffers:
        return [_PREFIX.pack(len(text), 0) + text]
    count = len(buffers)
    sizes = [size_of(buffer) for buffer in buffers]
    if places:
        buffers = [places[at].to_bytes(8, "little") if at in places else buffer for at, buffer in enumerate(buffers)]
        sizes = [size | _SHARED if at in places else size for at, size in enumerate(sizes)]
    head = struct.pack(f"<II{count}Q", len(text), count, *sizes) + text
    if places:
        sizes = [8 if size & _SHARED else size for size in sizes]
    plain = [piece for buffer in buffers for piece in pieces_of(buffer)]
    if sum(sizes) <= SMALL:
        return [b"".join((head, *plain))]
    pieces: list[Bytes] = []
    small = bytearray(head)
    for piece in plain:
        if size_of(piece) <= SMALL:
            small += piece
            continue
        if small:
            pieces.append(small)
            small = bytearray()
        pieces.append(memoryview(piece).cast("B"))
    if small:
        pieces.append(small)
    return pieces


def pieces_of(buffer: Bytes | Pieces) -> Sequence[Bytes]:
    """The buffer as pieces."""
    return buffer.pieces if isinstance(buffer, Pieces) else (buffer,)


def size_of(buffer: Bytes | Pieces) -> int:
    """Its length, bytes."""
    if isinstance(buffer, Pieces):
        return buffer.size
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def _direct(header: Header) -> str:
    """The JSON of the header that matters for latency, ten times as fast as the encoder."""
    targets = "null" if header["targets"] is None else f"[{','.join(map(str, header['targets']))}]"
    return f'{{"type":"direct","id":{header["id"]},"kind":"{header["kind"]}","targets":{targets}}}'


class _Partial:
    """A big frame whose buffers are still being filled."""

    __slots__ = ("buffers", "filled", "header", "index", "shared")

    def __init__(self, header: Header, buffers: list[memoryview], shared: Shared) -> None:
        self.header = header
        self.buffers = buffers
        self.shared = shared
        self.index = 0
        self.filled = 0
        self.skip_full()

    def skip_full(self) -> bool:
        """Move on to the first buffer that lacks bytes; False when there is none."""
        while self.index < len(self.buffers) and self.filled == len(self.buffers[self.index]):
            self.index += 1
            self.filled = 0
        return self.index < len(self.buffers)

    def missing(self) -> int:
        """Bytes that the current buffer lacks."""
        return len(self.buffers[self.index]) - self.filled if self.index < len(self.buffers) else 0


class Decoder:
    """Turns received bytes into frames. The caller receives into :meth:`space` and tells :meth:`received` how much.

    Buffers of small frames are `bytes`. Each buffer of a big frame has writable memory of its own, filled by the
    receive call itself, so that arrays in it are aligned, writable and never copied. `allocate` makes that memory,
    unless `land`, asked with the header and the lengths of all buffers, says by index where some of them belong.
    `read` gives the bytes (offset, length) of shared memory, there if it is told so.
    """

    def __init__(
        self,
        allocate: Callable[[int], memoryview] = lambda size: memoryview(bytearray(size)),
        read: Callable[[int, int, memoryview | None], memoryview] | None = None,
        land: Callable[[Header, Sequence[int]], Mapping[int, memoryview]] | None = None,
    ) -> None:
        self._allocate = allocate
        self._read = read
        self._land = land
        #: Bytes of shared memory that frames have named so far.
        self.shared = 0
        self._staging = bytearray(_STAGING)
        self._view = memoryview(self._staging)
        self._start = 0
        self._end = 0
        self._partial: _Partial | None = None
        self._direct = False

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        partial = self._partial
        if partial is not None and self._start == self._end and partial.missing() >= SMALL:
            self._direct = True
            return partial.buffers[partial.index][partial.filled :]
        self._direct = False
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._staging) - self._end < SMALL:
            self._compact(0)
        return self._view[self._end :]

    def received(self, count: int) -> Iterator[Frame]:
        """Account for `count` bytes in the last :meth:`space` and yield every frame that is complete now.

        The caller must exhaust the iterator. Raises FrameError.
        """
        if self._direct:
            assert self._partial is not None
            self._partial.filled += count
        else:
            self._end += count
        while True:
            frame = self._next() if self._partial is None else self._fill(self._partial)
            if frame is None:
                return
            yield frame

    def _compact(self, needed: int) -> None:
        """Move what is unread to the front of a staging buffer with room for `needed` bytes and a receive call."""
        unread = self._view[self._start : self._end]
        fresh = bytearray(max(_STAGING, needed + SMALL, len(unread) + SMALL))
        fresh[: len(unread)] = unread
        self._start, self._end = 0, len(unread)
        self._staging, self._view = fresh, memoryview(fresh)

    def _next(self) -> Frame | None:
        available = self._end - self._start
        if available < 8:
            return None
        header_size, count = _PREFIX.unpack_from(self._staging, self._start)
        if header_size > _MOST_HEADER or count > _MOST_BUFFERS:
            raise FrameError(f"a frame announces a header of {header_size} bytes and {count} buffers")
        head = 8 + 8 * count + header_size
        if available < head:
            self._more(head)
            return None
        sizes = struct.unpack_from(f"<{count}Q", self._staging, self._start + 8)
        lengths = sizes
        shared: frozenset[int] = frozenset()
        if self._read is not None and count and max(sizes) >= _SHARED:
            lengths = tuple(size & ~_SHARED for size in sizes)
            shared = frozenset(at for at, size in enumerate(sizes) if size & _SHARED)
            sizes = tuple(8 if at in shared else size for at, size in enumerate(sizes))
        body = sum(sizes)
        if body > _MOST_BODY:
            raise FrameError(f"a frame announces {body} bytes of buffers")
        if body <= SMALL and available < head + body:
            self._more(head + body)
            return None
        header = self._header(self._start + 8 + 8 * count, header_size)
        position = self._start + head
        landed = self._land(header, lengths) if self._land is not None and (shared or body > SMALL) else {}
        named = {at: (lengths[at], landed.get(at)) for at in shared}
        if body > SMALL:
            self._start = position
            memory = [
                landed[at] if at in landed and at not in named else self._allocate(size)
                for at, size in enumerate(sizes)
            ]
            self._partial = _Partial(header, memory, named)
            return self._fill(self._partial)
        buffers: list[Bytes] = []
        for size in sizes:
            buffers.append(bytes(self._view[position : position + size]))
            position += size
        self._start = position
        return header, self._resolve(buffers, named)

    def _resolve(self, buffers: list[Bytes], shared: Shared) -> list[Bytes]:
        """The buffers, those in shared memory in place of their offsets."""
        for at, (size, memory) in shared.items():
            assert self._read is not None
            buffers[at] = self._read(int.from_bytes(buffers[at], "little"), size, memory)
            self.shared += size
        return buffers

    def _more(self, needed: int) -> None:
        """Make room for a frame of `needed` bytes that is not complete."""
        if len(self._staging) - self._start < needed:
            self._compact(needed)

    def _header(self, start: int, size: int) -> Header:
        try:
            header = _from_json(str(self._view[start : start + size], "utf-8"))
        except ValueError as error:
            raise FrameError(f"a frame's header is not JSON: {error}") from None
        if not isinstance(header, dict) or not isinstance(header.get("type"), str):
            raise FrameError("a frame's header has no type")
        return header

    def _fill(self, partial: _Partial) -> Frame | None:
        """Move staged bytes into the partial frame; the frame when it is complete."""
        while partial.skip_full():
            take = min(partial.missing(), self._end - self._start)
            if take == 0:
                return None
            target = partial.buffers[partial.index]
            target[partial.filled : partial.filled + take] = self._view[self._start : self._start + take]
            partial.filled += take
            self._start += take
        self._partial = None
        return partial.header, self._resolve(list(partial.buffers), partial.shared)
