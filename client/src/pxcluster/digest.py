"""What counts as the same function and as the same items, in every process: digests that pickles do not give.

A pickle of a set has its members in the order of hashes, which differ between processes; one of a function names the
file and the line that it came from; one of two equal strings tells whether they are one object. Here sets are sorted,
functions are their code, and nothing but the structure of an object counts.
"""

from __future__ import annotations

import functools
import io
import pickle
from hashlib import blake2b
from itertools import islice
from pickle import dumps as _dumps
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from . import serialize
from .serialize._functions import EmptyCell, importable
from .serialize._pickler import LightPickler
from .serialize._registered import can_map
from .shared import Lease, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Bytes of a digest.
_SIZE = 16
#: Items that are looked at together.
_BLOCK = 1024
#: Values of exactly these types have one pickle. The choice of a way below may depend on nothing that a process has
#: done before.
_NUMBERS = {int, float, bool, type(None)}
_PLAIN = {*_NUMBERS, str, bytes, complex}
_all_numbers = _NUMBERS.issuperset
_all_plain = _PLAIN.issuperset
#: Opcodes of pickles with sets, frozensets and globals. (Other bytes of a pickle may have these values, too.)
_SPECIAL = (b"\x8f", b"\x91", b"\x93")
_Cached = type(functools.cache(lambda: None))


class _Sink:
    """A file that digests what is written."""

    def __init__(self) -> None:
        self.hash = blake2b(digest_size=_SIZE)
        self.write = self.hash.update


#: How pickle saves values of these types. (Its own table is another one when dill has been imported.)
_SAVED: list[tuple[type, str]] = [
    (type(None), "none"),
    (bool, "bool"),
    (int, "long"),
    (float, "float"),
    (bytes, "bytes"),
    (bytearray, "bytearray"),
    (pickle.PickleBuffer, "picklebuffer"),
    (str, "str"),
    (tuple, "tuple"),
    (list, "list"),
    (dict, "dict"),
    (FunctionType, "global"),
    (type, "type"),
]


class _Canonical(pickle._Pickler):
    """Writes equal objects as equal bytes. `code`: functions of importable modules are their code, too."""

    dispatch = {kind: getattr(pickle._Pickler, f"save_{name}") for kind, name in _SAVED}  # noqa: RUF012

    def __init__(self, sink: _Sink, code: bool, shared: bool) -> None:
        super().__init__(sink, 5, buffer_callback=self._take_buffer)
        #: No memo: whether equal parts are one object does not matter. What refers to itself needs one.
        self.fast = not shared
        self._sink = sink
        self._code = code
        self._seen: set[int] = set()

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> None:
        data = buffer.raw()
        self._sink.write(b"%d:" % data.nbytes)
        self._sink.write(data)

    def reducer_override(self, obj: Any) -> Any:
        """What a pickle would have in a form of this process or of this moment."""
        kind = type(obj)
        if kind in _PLAIN or kind is tuple or kind is list or kind is dict:
            return NotImplemented
        special = self._plainly(obj, kind)
        if special is not None:
            return tuple, ((kind.__name__, *special),)
        if kind in can_map:
            made = can_map[kind](obj)
            return NotImplemented if made is obj else (tuple, ((kind.__qualname__, made),))
        return LightPickler._special(obj, kind)

    def _plainly(self, obj: Any, kind: type) -> tuple[Any, ...] | None:
        """The parts that count of an object of a special kind, None of one of any other."""
        if kind is set or kind is frozenset:
            return tuple(sorted(_digest(member, self._code) for member in obj))
        if kind is FunctionType:
            return self._function(obj)
        if kind is CodeType:
            return _code_parts(obj)
        if kind is MethodType:
            return obj.__func__, obj.__self__
        if kind is CellType:
            try:
                return (obj.cell_contents,)
            except ValueError:
                return (EmptyCell,)
        if kind is _Cached and not importable(obj):
            return (obj.__wrapped__,)
        if kind is ModuleType:
            return (obj.__name__,)
        if kind is Shared or kind is Lease:
            lease = obj._held() if kind is Shared else obj
            return lease.what, lease.nbytes
        if issubclass(kind, type) and not importable(obj):
            return obj.__module__, obj.__qualname__
        return None

    def _function(self, function: FunctionType) -> tuple[Any, ...] | None:
        named = importable(function)
        if named and not self._code:
            return None
        name = function.__module__, function.__qualname__
        if id(function) in self._seen:  # it may refer to itself
            return name
        self._seen.add(id(function))
        code = _code_parts(function.__code__)
        return *name, code, function.__defaults__, function.__kwdefaults__, function.__closure__


def _code_parts(code: CodeType) -> tuple[Any, ...]:
    """All of `code` but where it stands: a moved or reformatted function is the same one."""
    return (
        code.co_code,
        code.co_consts,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
    )


def _digest(obj: Any, code: bool) -> bytes:
    """The digest of any object that can be sent. Raises SerializationError."""
    for shared in (False, True):
        sink = _Sink()
        try:
            _Canonical(sink, code, shared).dump(obj)
        except Exception:  # it refers to itself, or only cloudpickle knows how to take it
            continue
        return sink.hash.digest()
    return blake2b(serialize.dumps_task(obj), digest_size=_SIZE).digest()


def _plain_pickle(item: Any) -> bytes | None:
    """The pickle of an item that has only one, None of any other."""
    kind = type(item)
    if kind in _PLAIN:
        return _dumps(item, 5)
    with io.BytesIO() as file:
        pickler = pickle.Pickler(file, 5, buffer_callback=lambda _: None)
        pickler.fast = True
        try:
            pickler.dump(item)
        except Exception:
            return None
        data = file.getvalue()
    if (kind is tuple or kind is list) and _all_plain(map(type, item)):
        return data
    return None if any(opcode in data for opcode in _SPECIAL) else data


def function_digest(function: Callable[..., Any]) -> bytes:
    """16 bytes for the code of `function`: names, defaults and closure count, and the code of what wraps it.

    Where it stands, and the code of what it calls, do not count.
    """
    return _digest(function, code=True)


def items_digest(items: Iterable[Any]) -> bytes:
    """16 bytes for the items of a map, in their order. Raises SerializationError.

    Items count by what they pickle; sets in any order; functions and classes of importable modules by name, other
    functions by their code, other classes by name; objects of ``rc.put`` by their type and size.
    """
    whole = blake2b(digest_size=_SIZE)
    source = iter(items)
    while block := list(islice(source, _BLOCK)):
        kinds = set(map(type, block))
        if _all_numbers(kinds) or (kinds <= {tuple} and all(_all_numbers(map(type, item)) for item in block)):
            pickles = [_dumps(item, 5) for item in block]
        else:
            pickles = [_plain_pickle(item) or _digest(item, code=False) for item in block]
        whole.update(b",".join([b"%d" % len(data) for data in pickles]))
        whole.update(b"".join(pickles))
    return whole.digest()
