"""NumPy arrays that pickle would send in a way of its own: those with gaps would be copied thrice, read-only ones
would arrive read-only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def reduce_array(array: Any) -> Any:
    """The pickle reduction of a ``numpy.ndarray`` (no subclass); NotImplemented: pickle's own does."""
    flags = array.flags
    if array.dtype.hasobject or (flags.forc and flags.writeable):
        return NotImplemented
    if not flags.forc:
        return array.copy(order="C").__reduce_ex__(5)  # the copy stays beside the pickle
    load, arguments, *state = array.__reduce_ex__(5)
    return NotImplemented if state else (thaw, (load, *arguments))


def thaw(load: Callable[..., Any], *arguments: Any) -> Any:
    """The array ``load(*arguments)``, writable."""
    array = load(*arguments)
    return array if array.flags.writeable else array.copy(order="K")
