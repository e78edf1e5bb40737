"""How a program decides how instances of its own classes travel, by ipyparallel's names.

``can_map[Class] = canner`` where objects are sent from, ``uncan_map[Canned] = uncanner`` where they are received:
``canner(obj)`` gives what is pickled in the place of an instance of exactly `Class`, wherever it stands in arguments,
results or pushed values; ``uncanner(canned, namespace)`` makes the object of it, `namespace` being that of the user
there. What has no uncanner arrives as it was canned; a :class:`CannedObject` brings its own.

Both maps are empty at first. Functions, classes of the notebook, closures, partial functions, arrays and buffers travel
without an entry, and removing one makes no difference to them.
"""

from __future__ import annotations

import copy
import functools
import sys
from types import CellType, FunctionType

from ._dump import dumps, loads
from ._functions import importable
from ._namespace import within
from ._registered import ByClass, can_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Namespace = dict[str, Any]

__all__ = ["CannedObject", "can", "can_map", "uncan", "uncan_map"]

#: An uncanner for each class of canned objects: it takes one, and the user's namespace or None. The first that fits.
uncan_map = ByClass()

#: Values of these types cannot be pickled by every pickler, or not without a copy: :func:`can` packs them.
_PACKED = (FunctionType, functools.partial, CellType, bytes, memoryview)


class CannedObject:
    """A copy of `obj` whose attributes `keys` are canned; `hook(obj, namespace)` is called when they are undone.

    Subclasses give :meth:`get_object` a meaning of their own. `buffers`: large pieces of bytes of it.
    """

    def __init__(
        self, obj: Any, keys: Iterable[str] = (), hook: Callable[[Any, Namespace | None], object] | None = None
    ) -> None:
        self.keys = list(keys)
        self.obj = copy.copy(obj)
        self.hook = can(hook)
        for key in self.keys:
            setattr(self.obj, key, can(getattr(obj, key)))
        self.buffers: list[Any] = []

    def get_object(self, g: Namespace | None = None) -> Any:
        """The object; functions of it find their globals in `g`, by default in ``__main__``."""
        for key in self.keys:
            setattr(self.obj, key, uncan(getattr(self.obj, key), g))
        if self.hook is not None:
            self.hook = uncan(self.hook, g)
            self.hook(self.obj, g)
        return self.obj


class _Packed(CannedObject):
    """An object as its pickle and the buffers beside it."""

    def __init__(self, obj: object) -> None:
        self.buffers = dumps(obj)

    def get_object(self, g: Namespace | None = None) -> Any:
        with within(g):
            return loads(self.buffers)

    def __getstate__(self) -> list[bytes]:
        return [bytes(buffer) for buffer in self.buffers]

    def __setstate__(self, buffers: list[bytes]) -> None:
        self.buffers = list(buffers)


def can(obj: Any) -> Any:
    """What pickle takes in the place of `obj`: as registered, a CannedObject for functions, arrays …, else `obj`."""
    kind = type(obj)
    if kind in can_map:
        return can_map[kind](obj)
    numpy = sys.modules.get("numpy")
    if kind in _PACKED or (isinstance(obj, type) and not importable(obj)) or (numpy and kind is numpy.ndarray):
        return _Packed(obj)
    return obj


def uncan(obj: Any, g: Namespace | None = None) -> Any:
    """The inverse of :func:`can`; functions find their globals in `g`, by default in ``__main__``."""
    for kind, uncanner in uncan_map.items():
        if isinstance(obj, kind):  # type: ignore[arg-type]  # a name has become its class
            return uncanner(obj, g)
    if isinstance(obj, CannedObject):
        return obj.get_object(g)
    return uncan_dict(obj, g)


def can_dict(obj: Any) -> Any:
    """A dict with its values canned; anything else as it is."""
    return {key: can(value) for key, value in obj.items()} if type(obj) is dict else obj


def uncan_dict(obj: Any, g: Namespace | None = None) -> Any:
    """The inverse of :func:`can_dict`."""
    return {key: uncan(value, g) for key, value in obj.items()} if type(obj) is dict else obj


def can_sequence(obj: Any) -> Any:
    """A list, tuple or set with its members canned; anything else as it is."""
    return type(obj)(can(member) for member in obj) if type(obj) in (list, tuple, set) else obj


def uncan_sequence(obj: Any, g: Namespace | None = None) -> Any:
    """The inverse of :func:`can_sequence`."""
    return type(obj)(uncan(member, g) for member in obj) if type(obj) in (list, tuple, set) else obj
