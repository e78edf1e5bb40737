"""Objects that clients keep on this engine, by key: what Client.put sends, and what maps send once for all their tasks.

A key begins with the name of the session that made it. Pickled handles are calls of :func:`look_up`.
"""

from __future__ import annotations

import os
import pickle
from mmap import ACCESS_COPY, mmap

from ..serialize import SerializationError, loads
from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

#: Buffers of so many bytes are mapped for each who asks, smaller ones are copied: a mapping costs some microseconds.
_MAPPED = 1 << 20

#: What gives the object of a key, or raises the reason why it cannot.
_objects: dict[str, Callable[[], object]] = {}


def keep(key: str, what: str, data: Buffer, *buffers: Buffer) -> None:
    """Load an object; everybody who looks it up gets the same one. If it cannot be loaded, they get the reason."""
    try:
        value = loads([data, *buffers])
    except BaseException as error:
        _objects[key] = _Unloadable(f"the {what} cannot be loaded on this engine: {type(error).__name__}: {error}")
        if isinstance(error, KeyboardInterrupt):
            raise
    else:
        _objects[key] = lambda: value


def keep_packed(key: str, what: str, data: Buffer, *buffers: Buffer) -> None:
    """Keep an object as it came; everybody who looks it up gets an object of its own."""
    _objects[key] = _Packed(data, buffers)


def forget(keys: Iterable[str]) -> None:
    """Let go of these; who uses one goes on doing so."""
    for key in keys:
        _objects.pop(key, None)


def look_up(key: str, what: str) -> object:
    """The object of `key`, a `what`. LookupError: it is not here; SerializationError: it could not be loaded."""
    give = _objects.get(key)
    if give is None:
        if state.runtime is None:
            raise LookupError(f"the shared {what} is on the engines of its cluster only, not in this process")
        raise LookupError(
            f"the shared {what} is not on engine {state.host.engine_id}: it was released or aborted, or it belongs to "
            f"another cluster (key {key})"
        )
    return give()


def itself(value: object) -> object:
    """Bring an object back that was looked up."""
    return value


class _Unloadable:
    """In the place of an object that could not be loaded."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self) -> object:
        raise SerializationError(self.reason)


class _Packed:
    """A pickle and its buffers. Each object made of it may be written to without the others' knowledge."""

    __slots__ = ("buffers", "data")

    def __init__(self, data: Buffer, buffers: Iterable[Buffer]) -> None:
        self.data = data
        self.buffers = [_source_of(memoryview(buffer)) for buffer in buffers]

    def __call__(self) -> object:
        return pickle.loads(self.data, buffers=[make() for make in self.buffers])


def _source_of(view: memoryview) -> Callable[[], Buffer]:
    """What makes private, writable copies of `view`."""
    if view.nbytes >= _MAPPED:
        try:
            return _Pages(view)
        except (OSError, AttributeError):  # some builds of CPython have no memfd_create
            pass
    return lambda: bytearray(view)


class _Pages:
    """Bytes in memory without a name, mapped copy-on-write: only the pages that are written to are copied."""

    __slots__ = ("file", "size")

    def __init__(self, view: memoryview) -> None:
        self.size = view.nbytes
        self.file = os.memfd_create("pxcluster-object")
        done = 0
        while done < self.size:
            done += os.write(self.file, view[done:])

    def __call__(self) -> mmap:
        return mmap(self.file, self.size, access=ACCESS_COPY)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)
