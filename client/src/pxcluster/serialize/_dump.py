"""The public way in and out of pickles, and the switch between the picklers."""

from __future__ import annotations

import pickle
import sys
from itertools import chain
from pickle import dumps as _c_dumps

from . import _pickler, _task
from ._buffers import writable
from ._errors import explain
from ._registered import NUMBERS, PLAIN, can_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from typing_extensions import Buffer

    Dumper = Callable[[object, "_pickler.OutOfBand | None"], bytes]

_all_plain = PLAIN.issuperset
_all_numbers = NUMBERS.issuperset
_all_nested = {tuple, list}.issuperset

_dumper: Dumper = _pickler.dump


def dumps(obj: object, least: int = _pickler.SMALL_BUFFER) -> list[bytes | memoryview]:
    """Pickle `obj` as ``[pickle, *buffers]``; buffers (arrays) of `least` bytes and more stay where they are, uncopied.

    The buffers are views of the objects' own memory: send them before the objects change.
    Raises SerializationError, which names the object that cannot travel.
    """
    out_of_band = _pickler.OutOfBand(least)
    try:
        data = _dumper(obj, out_of_band)
    except Exception as error:
        raise explain(obj, error, _dumper) from error
    return [data, *out_of_band.buffers]


def loads(buffers: Sequence[Buffer]) -> object:
    """The object of ``[pickle, *buffers]``. Writable buffers are used where they are, read-only ones are copied once.

    So arrays are always writable. Raises whatever the objects' own loading raises, such as ModuleNotFoundError.
    """
    if len(buffers) == 1:
        return pickle.loads(buffers[0])
    return pickle.loads(buffers[0], buffers=writable(buffers[1:]))


def dumps_task(obj: Any) -> bytes:
    """Pickle `obj`, one item or result of a map, into one bytes object; :func:`loads_task` is its inverse.

    Raises SerializationError, which names the object that cannot travel.
    """
    pieces = task_pieces(obj)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)  # type: ignore[return-value]


def task_pieces(obj: Any) -> list[bytes | memoryview]:
    """The bytes of :func:`dumps_task` as pieces; large arrays are views of the objects' own memory."""
    kind = type(obj)
    if (
        kind in PLAIN
        or ((kind is tuple or kind is list) and _all_plain(map(type, obj)))
        or (kind is dict and _all_plain(map(type, obj)) and _all_plain(map(type, obj.values())))
        or _is_number_of_numpy(kind)
    ):
        return [_c_dumps(obj, 5)]
    out_of_band = _pickler.OutOfBand(_task.LEAST)
    try:
        data = _dumper(obj, out_of_band)
    except Exception as error:
        raise explain(obj, error, _dumper) from error
    return _task.join(data, out_of_band.buffers) if out_of_band.buffers else [data]


def dumps_numbers(objs: Sequence[Any]) -> list[bytes] | None:
    """:func:`dumps_task` of each, in a third of the time, if all are numbers or tuples or lists of those; else None."""
    if _all_numbers(map(type, objs)) or (
        _all_nested(map(type, objs)) and _all_numbers(map(type, chain.from_iterable(objs)))
    ):
        return [_c_dumps(obj, 5) for obj in objs]
    return None


def _is_number_of_numpy(kind: type) -> bool:
    """Whether `kind` is a scalar type of numpy's, such as float64; if so it counts as plain from now on."""
    if kind.__module__ != "numpy":
        return False
    numpy: Any = sys.modules["numpy"]
    if not issubclass(kind, numpy.number | numpy.bool_) or kind in can_map:
        return False
    PLAIN.add(kind)
    NUMBERS.add(kind)
    return True


def use_pickle() -> None:
    """Go back to the standard rules of this module, after use_cloudpickle() or use_dill()."""
    _use(_pickler.dump)


def use_cloudpickle() -> None:
    """From now on this process pickles by cloudpickle's rules: functions take the globals they refer to with them."""
    _use(_pickler.dump_cloudpickle)


def use_dill() -> None:
    """From now on this process pickles with dill. ImportError: dill is not installed here."""
    from importlib.util import find_spec

    if find_spec("dill") is None:
        raise ImportError("use_dill() needs the package dill, which is not installed: pip install dill", name="dill")
    _use(_pickler.dump_dill)


def _use(dumper: Dumper) -> None:
    global _dumper
    _dumper = dumper
