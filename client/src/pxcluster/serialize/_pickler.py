"""The two picklers: a light one for ordinary values and functions, a full one on top of cloudpickle.

Importing cloudpickle costs 25 ms and several megabytes, which an engine that maps functions over numbers never needs.
So the light one starts, and gives up with `NeedsCloudpickle` on what only cloudpickle can do.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
from types import CellType, FunctionType, MethodType

from ._arrays import reduce_array
from ._functions import importable, make_cell, reduce_cell, reduce_function
from ._torch import reduce_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._source import Source

PROTOCOL = 5
#: Buffers below this many bytes are copied into the pickle: a frame's entry for each would cost more.
SMALL_BUFFER = 4096
#: So many buffers travel beside one pickle at most; the frame format ends at 65536.
MOST_BUFFERS = 16384
_SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))


class NeedsCloudpickle(Exception):
    """The light pickler met an object that only the full one can take."""


class _FunctionRule:
    """How functions and cells travel; one instance serves one pickle."""

    __slots__ = ("cells", "sources")

    def __init__(self) -> None:
        self.sources: dict[str, Source | None] = {}
        self.cells: set[int] = set()

    def reduce(self, function: FunctionType) -> Any:
        if importable(function):
            return NotImplemented
        if function.__closure__ is not None:
            self.cells.update(map(id, function.__closure__))
        return reduce_function(function, self.sources)

    def reduce_cell(self, cell: CellType) -> Any:
        # The values of a closure travel with the state of its function, after the function is known to the pickle.
        return (make_cell, ()) if id(cell) in self.cells else reduce_cell(cell)


class LightPickler(pickle.Pickler):
    """Values, functions, and whatever travels by name."""

    def __init__(self, file: io.BytesIO, out_of_band: OutOfBand | None = None) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=out_of_band)
        self._rule = _FunctionRule()

    def reducer_override(self, obj: Any) -> Any:
        """Functions, cells, methods and classes by our rules, everything else as pickle does it."""
        kind = type(obj)
        if kind is FunctionType:
            return self._rule.reduce(obj)
        if kind is CellType:
            return self._rule.reduce_cell(obj)
        if kind is MethodType:
            return MethodType, (obj.__func__, obj.__self__)
        if issubclass(kind, type):
            if not (importable(obj) or obj in _SINGLETON_TYPES):
                raise NeedsCloudpickle
        elif kind.__module__ == "numpy":
            if kind.__name__ == "ndarray":
                return reduce_array(obj)
        elif kind.__module__ == "torch" and kind.__name__ == "Tensor":
            return reduce_tensor(obj)
        elif kind.__module__ == "typing":  # TypeVar and its like: pickle would look for them in __main__
            raise NeedsCloudpickle
        return NotImplemented


def _full_pickler() -> type[Any]:
    cloudpickle: Any = importlib.import_module("cloudpickle")

    class FullPickler(cloudpickle.Pickler):  # type: ignore[misc]
        """As the light one, and classes of ``__main__``, modules, memoryviews … by cloudpickle."""

        def __init__(self, file: io.BytesIO, out_of_band: OutOfBand | None = None) -> None:
            super().__init__(file, PROTOCOL, buffer_callback=out_of_band)
            self._rule = _FunctionRule()

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind is FunctionType:
                registered = _registered()
                if not registered or not _within(obj.__module__, registered):
                    return self._rule.reduce(obj)
            elif kind is CellType:
                return self._rule.reduce_cell(obj)
            elif kind.__module__ == "numpy" and kind.__name__ == "ndarray":
                return reduce_array(obj)
            elif kind.__module__ == "torch" and kind.__name__ == "Tensor":
                return reduce_tensor(obj)
            return super().reducer_override(obj)

    return FullPickler


def _registered() -> set[str]:
    """The modules that the user made travel by value, with cloudpickle.register_pickle_by_value."""
    cloudpickle: Any = sys.modules.get("cloudpickle")
    registry = getattr(cloudpickle, "list_registry_pickle_by_value", set)  # missing: its import is still under way
    return set(registry())


def _within(module: str | None, packages: set[str]) -> bool:
    return module is not None and any(module == name or module.startswith(name + ".") for name in packages)


_full: type[Any] | None = None
# Classes whose instances are sent to the full pickler at once.
_heavy: set[type[Any]] = set()


class OutOfBand:
    """Collects the large buffers of one pickle; the small ones stay inside it."""

    __slots__ = ("_least", "buffers")

    def __init__(self, least: int = SMALL_BUFFER) -> None:
        self.buffers: list[memoryview] = []
        self._least = least

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's buffer_callback: True leaves the buffer in the pickle."""
        raw = buffer.raw()
        if raw.nbytes < self._least or len(self.buffers) >= MOST_BUFFERS:
            return True
        self.buffers.append(raw)
        return False


def dump(obj: object, out_of_band: OutOfBand | None = None) -> bytes:
    """Pickle `obj` with the light pickler, or with the full one where that does not do; raises what pickle raises."""
    if type(obj) not in _heavy and not _registered():
        try:
            with io.BytesIO() as file:
                LightPickler(file, out_of_band).dump(obj)
                return file.getvalue()
        except NeedsCloudpickle:
            if not importable(type(obj)):
                _heavy.add(type(obj))
        except Exception:  # whatever it was: cloudpickle may know the type, and otherwise tells the reason
            pass
        if out_of_band is not None:
            out_of_band.buffers.clear()
    return dump_full(obj, out_of_band)


def dump_full(obj: object, out_of_band: OutOfBand | None = None) -> bytes:
    """Pickle `obj` with the full pickler; raises what pickle raises."""
    global _full
    if _full is None:
        _full = _full_pickler()
    with io.BytesIO() as file:
        _full(file, out_of_band).dump(obj)
        return file.getvalue()


def dump_cloudpickle(obj: object, out_of_band: OutOfBand | None = None) -> bytes:
    """Pickle `obj` by cloudpickle's own rules: functions of ``__main__`` take the globals they use with them."""
    data: bytes = importlib.import_module("cloudpickle").dumps(obj, PROTOCOL, out_of_band)
    return data


def dump_dill(obj: object, _out_of_band: OutOfBand | None = None) -> bytes:
    """Pickle `obj` by dill, wrapped so that any process that has dill loads it with plain pickle."""
    return pickle.dumps(Dilled(importlib.import_module("dill").dumps(obj, PROTOCOL)), PROTOCOL)


class Dilled:
    """A pickle of dill's inside a plain one: dill's need dill's own loader."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Callable[[bytes], object], tuple[bytes]]:
        return load_dilled, (self.data,)


def load_dilled(data: bytes) -> object:
    """Load what dill wrote."""
    loaded: object = importlib.import_module("dill").loads(data)
    return loaded
