"""Why an object cannot travel, in one sentence that names it."""

from __future__ import annotations

import pickle
from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeGuard

#: The search for the guilty member tries so many objects at most, and goes so deep.
_MOST_TRIES = 200
_DEEPEST = 8


class SerializationError(pickle.PicklingError):
    """An object cannot be pickled. The message names the object, where it is, why, and what to do."""


def explain(obj: object, error: BaseException, dump: Callable[[object, None], bytes]) -> SerializationError:
    """The error to raise when pickling `obj` raised `error`; looks for the innermost member that fails alone."""
    if isinstance(error, SerializationError):
        return error
    search = _Search(dump)
    culprit, path, reason = search.descend(obj, "", error, 0)
    where = f" ({path})" if path else ""
    return SerializationError(
        f"{_kind(culprit)} {_shortened(culprit)}{where} cannot be sent: {_reason(reason)}. "
        "Send plain data instead, or create the object on the engines"
    )


class _Search:
    def __init__(self, dump: Callable[[object, None], bytes]) -> None:
        self.dump = dump
        self.tries = _MOST_TRIES
        self.seen: set[int] = set()

    def descend(self, obj: object, path: str, error: BaseException, depth: int) -> tuple[object, str, BaseException]:
        self.seen.add(id(obj))
        if depth < _DEEPEST and not isinstance(error, RecursionError):
            for part, member in _members(obj, depth):
                if id(member) in self.seen or self.tries == 0:
                    continue
                self.tries -= 1
                try:
                    self.dump(member, None)
                except Exception as inner:
                    return self.descend(member, f"{part} of {path}" if path else part, inner, depth + 1)
        return obj, path, error


def _is_call(obj: object) -> TypeGuard[tuple[object, tuple[object, ...], dict[str, object]]]:
    """Whether `obj` is the body of an apply: (function, args, kwargs)."""
    return isinstance(obj, tuple) and len(obj) == 3 and isinstance(obj[1], tuple) and isinstance(obj[2], dict)


def _members(obj: object, depth: int) -> Iterator[tuple[str, object]]:
    """The members of a container, with words that say where they are."""
    if depth == 0 and _is_call(obj):
        yield "the function", obj[0]
        yield from ((f"argument {number}", value) for number, value in enumerate(obj[1], 1))
        yield from ((f"argument {name!r}", value) for name, value in obj[2].items())
    elif isinstance(obj, list | tuple):
        yield from ((f"item {number}", value) for number, value in enumerate(obj))
    elif isinstance(obj, set | frozenset):
        yield from (("a member", value) for value in obj)
    elif isinstance(obj, dict):
        for key, value in obj.items():
            yield f"key {_shortened(key)}", key
            yield f"value of {_shortened(key)}", value
    elif isinstance(obj, FunctionType):
        names = obj.__code__.co_freevars
        for name, cell in zip(names, obj.__closure__ or (), strict=False):
            try:
                yield f"variable {name!r}", cell.cell_contents
            except ValueError:
                continue
        yield from (("a default argument", value) for value in obj.__defaults__ or ())
    elif not isinstance(obj, type):
        attributes = getattr(obj, "__dict__", None)
        if isinstance(attributes, dict):
            yield from ((f"attribute {name!r}", value) for name, value in attributes.items())


def _kind(obj: object) -> str:
    name = type(obj).__qualname__
    return f"{'An' if name[0] in 'aeiouAEIOU' else 'A'} {name!r} object,"


def _shortened(obj: object) -> str:
    try:
        text = repr(obj)
    except Exception:
        text = object.__repr__(obj)
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:60] + " … " + text[-30:]


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return "it is nested too deeply"
    try:
        text = str(error).strip().rstrip(".")
    except Exception:
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name
