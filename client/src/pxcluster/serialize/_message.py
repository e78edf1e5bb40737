"""Objects as lists of buffers for programs that carry them by themselves, by ipyparallel's names.

The first buffer of an object is its pickle, and behind that, where pickle does not look, the number of buffers that
follow it (u32, little-endian). So several objects may stand in one list.
"""

from __future__ import annotations

import struct
from pickle import PickleBuffer

from . import _dump
from ._namespace import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from typing_extensions import Buffer

_COUNT = struct.Struct("<I")


class PrePickled:
    """`obj`, pickled now and once, however often it is sent: it arrives as `obj`, wherever it stands.

    Changes of `obj` after this are not seen, except in arrays, which are not copied.
    """

    def __init__(self, obj: Any) -> None:
        self.buffers = serialize_object(obj)
        self._obj = obj  # what its pickle mentions, such as objects of Client.put, lives as long

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[PickleBuffer, ...]]:
        return load_prepickled, tuple(map(PickleBuffer, self.buffers))


def load_prepickled(*buffers: Buffer) -> Any:
    """The object of a PrePickled."""
    return deserialize_object(buffers)[0]


def serialize_object(obj: Any, buffer_threshold: int = 1024, item_threshold: int = 64) -> list[bytes | memoryview]:
    """`obj` as ``[pickle, *buffers]``: those are the arrays of more than `buffer_threshold` bytes, uncopied.

    `item_threshold` has no effect: containers of any length are looked into. Raises SerializationError.
    """
    if isinstance(obj, PrePickled):
        return obj.buffers[:]
    data, *buffers = _dump.dumps(obj, buffer_threshold + 1)
    return [bytes(data) + _COUNT.pack(len(buffers)), *buffers]


def deserialize_object(buffers: Sequence[Buffer], g: dict[str, Any] | None = None) -> tuple[Any, list[Buffer]]:
    """The object that the first of `buffers` belong to, and the rest of them.

    `g`: the namespace for functions and References; by default ``__main__``, and References stay References.
    """
    first = memoryview(buffers[0])
    (count,) = _COUNT.unpack(first[-_COUNT.size :])
    with within(g):
        return _dump.loads([first[: -_COUNT.size], *buffers[1 : 1 + count]]), list(buffers[1 + count :])


def pack_apply_message(
    f: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    buffer_threshold: int = 1024,
    item_threshold: int = 64,
) -> list[bytes | memoryview]:
    """A call of `f` as buffers; see :func:`serialize_object`. The inverse is :func:`unpack_apply_message`."""
    return serialize_object((f, tuple(args), dict(kwargs)), buffer_threshold, item_threshold)


def unpack_apply_message(
    bufs: Sequence[Buffer], g: dict[str, Any] | None = None, copy: bool = True
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function, the arguments and the keyword arguments of :func:`pack_apply_message`.

    `g`: see :func:`deserialize_object`. `copy` has no effect: arrays are writable, and copied where they were not.
    """
    (f, args, kwargs), rest = deserialize_object(bufs, g)
    if rest:
        raise ValueError(f"{len(rest)} buffers are left over: they do not belong to this call")
    return f, args, kwargs
