"""The two picklers: a light one for ordinary values and functions, a full one on top of cloudpickle.

Importing cloudpickle costs 25 ms and several megabytes, which an engine that maps functions over numbers never needs.
So the light one starts, and gives up with `NeedsCloudpickle` on what only cloudpickle can do.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
from types import CellType, FunctionType, MethodType

from ._arrays import reduce_array
from ._buffers import reduce_view, writable
from ._functions import importable, is_homeless, make_cell, reduce_cell, reduce_function
from ._namespace import home
from ._registered import canners
from ._torch import reduce_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from typing_extensions import Buffer

    from ._registered import Canner
    from ._source import Source

    Canners = Mapping[Any, Canner]

PROTOCOL = 5
#: Buffers below this many bytes are copied into the pickle: a frame's entry for each would cost more.
SMALL_BUFFER = 4096
#: So many buffers travel beside one pickle at most; the frame format ends at 65536.
MOST_BUFFERS = 16384
_SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))
_Cached = type(functools.cache(lambda: None))
_NONE: Canners = {}
#: What is ours travels by name: it takes the rest apart and puts it together.
_PACKAGE = __name__.partition(".")[0] + "."


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
        if is_homeless(function):
            raise NeedsCloudpickle
        if function.__closure__ is not None:
            self.cells.update(map(id, function.__closure__))
        return reduce_function(function, self.sources)

    def reduce_cell(self, cell: CellType) -> Any:
        # The values of a closure travel with the state of its function, after the function is known to the pickle.
        return (make_cell, ()) if id(cell) in self.cells else reduce_cell(cell)


class _Rules:
    """What both picklers do alike; one instance serves one pickle."""

    def __init__(self, file: io.BytesIO, out_of_band: OutOfBand | None, registered: Canners) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=out_of_band)  # type: ignore[call-arg]  # a pickler's
        self._rule = _FunctionRule()
        self._out_of_band = out_of_band
        self._registered = registered

    @staticmethod
    def _special(obj: Any, kind: type) -> Any:
        """The reduction of what both send in a form of its own; NotImplemented for all else."""
        if kind is memoryview:
            return reduce_view(obj)
        if kind is _Cached and not importable(obj):
            return make_cached, (obj.__wrapped__, obj.cache_parameters())
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            return reduce_array(obj)
        if kind.__module__ == "torch" and kind.__name__ == "Tensor":
            return reduce_tensor(obj)
        return NotImplemented


class LightPickler(_Rules, pickle.Pickler):
    """Values, functions, and whatever travels by name."""

    def reducer_override(self, obj: Any) -> Any:
        """What is registered by its canner, functions, methods and classes by our rules, all else by pickle's."""
        kind = type(obj)
        if kind in self._registered:
            reduced = reduce_registered(obj, self._registered[kind], dump, self._out_of_band)
            if reduced is not None:
                return reduced
        if kind is FunctionType:
            return self._rule.reduce(obj)
        if kind is CellType:
            return self._rule.reduce_cell(obj)
        if kind is MethodType:
            return MethodType, (obj.__func__, obj.__self__)
        if issubclass(kind, type):
            if not (importable(obj) or obj in _SINGLETON_TYPES):
                raise NeedsCloudpickle
            return NotImplemented
        if kind.__module__ == "typing":  # TypeVar and its like: pickle would look for them in __main__
            raise NeedsCloudpickle
        return self._special(obj, kind)


def _full_pickler() -> type[Any]:
    cloudpickle: Any = importlib.import_module("cloudpickle")

    class FullPickler(_Rules, cloudpickle.Pickler):  # type: ignore[misc]
        """As the light one, and classes of ``__main__``, modules … by cloudpickle."""

        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind in self._registered:
                reduced = reduce_registered(obj, self._registered[kind], dump_full, self._out_of_band)
                if reduced is not None:
                    return reduced
            if kind is FunctionType:
                packages = _by_value()
                if not is_homeless(obj) and not (packages and _within(obj.__module__, packages)):
                    return self._rule.reduce(obj)
            elif kind is CellType:
                return self._rule.reduce_cell(obj)
            reduced = self._special(obj, kind)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    return FullPickler


def _by_value() -> set[str]:
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

    __slots__ = ("buffers", "least")

    def __init__(self, least: int = SMALL_BUFFER) -> None:
        self.buffers: list[memoryview] = []
        self.least = least

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's buffer_callback: True leaves the buffer in the pickle."""
        raw = buffer.raw()
        if raw.nbytes < self.least or len(self.buffers) >= MOST_BUFFERS:
            return True
        self.buffers.append(raw)
        return False


def dump(obj: object, out_of_band: OutOfBand | None = None, registered: Canners = canners) -> bytes:
    """Pickle `obj` with the light pickler, or with the full one where that does not do; raises what pickle raises."""
    if type(obj) not in _heavy and not _by_value():
        try:
            with io.BytesIO() as file:
                LightPickler(file, out_of_band, registered).dump(obj)
                return file.getvalue()
        except NeedsCloudpickle:
            if not importable(type(obj)):
                _heavy.add(type(obj))
        except Exception:  # whatever it was: cloudpickle may know the type, and otherwise tells the reason
            pass
        if out_of_band is not None:
            out_of_band.buffers.clear()
    return dump_full(obj, out_of_band, registered)


def dump_full(obj: object, out_of_band: OutOfBand | None = None, registered: Canners = canners) -> bytes:
    """Pickle `obj` with the full pickler; raises what pickle raises."""
    global _full
    if _full is None:
        _full = _full_pickler()
    with io.BytesIO() as file:
        _full(file, out_of_band, registered).dump(obj)
        return file.getvalue()


def dump_cloudpickle(obj: object, out_of_band: OutOfBand | None = None, registered: Canners = canners) -> bytes:
    """Pickle `obj` by cloudpickle's own rules: functions of ``__main__`` take the globals they use with them."""
    base = importlib.import_module("cloudpickle").Pickler
    with io.BytesIO() as file:
        maker = base if not registered else _with_registered(base, dump_cloudpickle, out_of_band, registered)
        maker(file, PROTOCOL, out_of_band).dump(obj)
        return file.getvalue()


def dump_dill(obj: object, _out_of_band: OutOfBand | None = None, registered: Canners = canners) -> bytes:
    """Pickle `obj` by dill, wrapped so that any process that has dill loads it with plain pickle."""
    base = importlib.import_module("dill").Pickler
    with io.BytesIO() as file:
        maker = base if not registered else _with_registered(base, dump_dill, None, registered)
        maker(file, PROTOCOL).dump(obj)
        return pickle.dumps(Dilled(file.getvalue()), PROTOCOL)


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


# -- what the user registered ------------------------------------------------------------------------------------


def _with_registered(
    base: Any, nested: Callable[..., bytes], out_of_band: OutOfBand | None, registered: Canners
) -> Any:
    """The pickler `base` with the user's rules before its own."""

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            kind = type(obj)
            if kind in registered:
                reduced = reduce_registered(obj, registered[kind], nested, out_of_band)
                if reduced is not None:
                    return reduced
            further = getattr(super(), "reducer_override", None)
            return NotImplemented if further is None else further(obj)

    return Pickler


def reduce_registered(
    obj: object, canner: Canner, nested: Callable[..., bytes], out_of_band: OutOfBand | None
) -> tuple[Any, ...] | None:
    """The pickle reduction of an instance of a registered class; None: it is to travel as if it were not registered.

    What the canner gives is pickled apart by `nested`, without any such rules: it may hold instances of the class.
    """
    if isinstance(obj, FunctionType | type) and (obj.__module__ or "").startswith(_PACKAGE):
        return None
    made = canner(obj)
    if made is obj:
        return None
    inner = None if out_of_band is None else OutOfBand(out_of_band.least)
    data = nested(made, inner, _NONE)
    buffers = [] if inner is None else inner.buffers
    return load_registered, (pickle.PickleBuffer(data), *map(pickle.PickleBuffer, buffers))


def load_registered(data: Buffer, *buffers: Buffer) -> object:
    """The inverse: unpickled, and undone as the user registered it here."""
    from .canning import uncan

    return uncan(pickle.loads(data, buffers=writable(buffers)), home())


def make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function with an empty cache of results."""
    return functools.lru_cache(**parameters)(function)
