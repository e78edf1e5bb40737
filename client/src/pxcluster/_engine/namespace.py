"""The user's namespace: ``__main__`` of the engine's interpreter."""

from __future__ import annotations

import sys

from ..serialize import resolve_references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_initial: frozenset[str] = frozenset()


def names() -> dict[str, Any]:
    """The namespace itself, as a dict."""
    return sys.modules["__main__"].__dict__


def install() -> None:
    """Make ``__main__`` look as in a fresh interpreter, and let References find their values in it."""
    global _initial
    space = names()
    for name in [name for name in space if not (name.startswith("__") and name.endswith("__"))]:
        del space[name]  # what the command line that started the engine imported
    _initial = frozenset(space)
    sys.argv = [""]
    resolve_references(evaluate)


def evaluate(expression: str) -> Any:
    """The value of an expression over the user's names. Raises what Python raises, such as NameError."""
    if expression.isidentifier():
        space = names()
        if expression in space:
            return space[expression]
    return eval(compile(expression.strip(), "<expression>", "eval", dont_inherit=True), names())


def clear() -> None:
    """Remove every name the user defined; Python's own and IPython's (In, Out, get_ipython, _ …) stay or come back."""
    from . import shell

    shell.forget_names()
    space = names()
    for name in [name for name in space if name not in _initial and name != "__builtin__"]:
        space.pop(name, None)
    shell.renew_names()
