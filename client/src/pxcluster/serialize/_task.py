"""How a single item or result of a map lies in one stretch of bytes when large buffers (arrays) belong to it.

A pickle alone begins with its opcode 0x80. With buffers it is ``u64 0 · u64 n · u64 length of the pickle and of each of
the n buffers · pickle · buffers``, each buffer at a multiple of 64 bytes from the beginning.
"""

from __future__ import annotations

import struct
from pickle import loads as loads_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["ALIGNED", "LEAST", "join", "loads_plain", "loads_task"]

#: Buffers below this many bytes stay in the pickle.
LEAST = 64 << 10
ALIGNED = 64


def join(data: bytes, buffers: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The pieces that, one behind the other, are the pickle `data` and its `buffers`."""
    head = struct.pack(f"<QQ{1 + len(buffers)}Q", 0, len(buffers), len(data), *[buffer.nbytes for buffer in buffers])
    pieces: list[bytes | memoryview] = [head + data]
    at = len(pieces[0])
    for buffer in buffers:
        pieces += (bytes(-at % ALIGNED), buffer)
        at += -at % ALIGNED + buffer.nbytes
    return pieces


def loads_task(data: Buffer, is_own: bool | None = None) -> Any:
    """The object that :func:`dumps_task` has made bytes of; what is behind those does not count.

    `is_own`: `data` is writable and aligned, and nobody else uses it: arrays are made of it where they lie. None: so
    it is if it is writable at all, as engines have it.
    """
    view = memoryview(data)
    is_own = not view.readonly if is_own is None else is_own
    if view[0] != 0:
        return loads_plain(view)
    (count,) = struct.unpack_from("<Q", view, 8)
    size, *sizes = struct.unpack_from(f"<{1 + count}Q", view, 16)
    start = 24 + 8 * count
    at = start + size
    buffers: list[Buffer] = []
    for length in sizes:
        at += -at % ALIGNED
        part = view[at : at + length]
        buffers.append(part if is_own else bytearray(part))
        at += length
    return loads_plain(view[start : start + size], buffers=buffers)
