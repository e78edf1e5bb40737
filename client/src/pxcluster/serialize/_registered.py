"""The classes whose instances travel as the user says, and the types that travel the same way under every rule."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Self

    Canner = Callable[[Any], Any]

#: Values of exactly these types pickle the same way under every rule, so the C function takes them without asking.
#: numpy's numbers join them when the first one is met.
PLAIN: set[type] = {int, float, str, bytes, bool, complex, type(None)}
#: Those of them that :func:`pickle.dumps` may be given without looking at the values.
NUMBERS: set[type] = PLAIN - {str, bytes}
#: Picklers ask nobody about values of exactly these types.
_NOT_ASKED = PLAIN | {bytearray, tuple, list, dict, set, frozenset}


class ByClass(UserDict["type | str", "Callable[..., Any]"]):
    """Functions by class. A class may be named, ``"package.module.Class"``, and is imported then.

    TypeError: no class, or no function; ImportError, AttributeError: there is no such class.
    """

    def __setitem__(self, key: type | str, function: Callable[..., Any]) -> None:
        if isinstance(key, str):
            module, _, name = key.rpartition(".")
            key = getattr(import_module(module or "builtins"), name)
        if not isinstance(key, type):
            raise TypeError(f"keys are classes or their names, not {key!r}")
        if not callable(function):
            raise TypeError(f"values are functions, not {function!r}")
        self._check(key)
        super().__setitem__(key, function)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc]  # that of UserDict checks nothing
        self.update(other)
        return self

    def _check(self, key: type) -> None:
        """Raise TypeError where `key` makes no sense."""


class CanMap(ByClass):
    """A canner for each registered class: it takes an instance and gives what is to be pickled in its place.

    Instances of subclasses do not count. TypeError: a built-in type whose values travel as they are.
    """

    def _check(self, key: type) -> None:
        if key in _NOT_ASKED:
            raise TypeError(f"values of the built-in type {key.__name__!r} always travel as they are: give a class")
        PLAIN.discard(key)
        NUMBERS.discard(key)


can_map = CanMap()
#: What the picklers look up: the same entries without a call of Python's.
canners: Mapping[Any, Canner] = can_map.data
