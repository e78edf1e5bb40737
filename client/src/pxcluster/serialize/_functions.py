"""Functions that travel as code: which ones, how they are taken apart, how they are put together again."""

from __future__ import annotations

import marshal
import sys
from types import CellType, FunctionType, ModuleType

from ._namespace import home
from ._source import sources_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ._source import Source

    F = TypeVar("F")

_MAIN_NAMES = ("__main__", "__mp_main__")


class EmptyCell:
    """Stands for a closure's variable that has no value yet; travels by name, as the class."""


def interactive(f: F) -> F:
    """Decorator: the function travels as code and finds its globals in ``__main__``, wherever it was defined.

    Anything else than a Python function is returned as it is.
    """
    if not isinstance(f, FunctionType):
        return f
    home = sys.modules["__main__"].__dict__
    copy = FunctionType(f.__code__, home, f.__name__, f.__defaults__, f.__closure__)
    copy.__kwdefaults__ = f.__kwdefaults__
    copy.__annotations__ = _annotations(f)
    copy.__dict__.update(f.__dict__)
    copy.__qualname__ = f.__qualname__
    copy.__doc__ = f.__doc__
    copy.__module__ = "__main__"
    return copy  # type: ignore[return-value]


def importable(thing: Any) -> bool:
    """Whether `thing`, a function or a class, is found again by importing its module and following its name."""
    module_name = getattr(thing, "__module__", None)
    if not isinstance(module_name, str) or module_name in _MAIN_NAMES:
        return False
    found: Any = sys.modules.get(module_name)
    if found is None:
        return False
    for part in thing.__qualname__.split("."):
        found = getattr(found, part, None)
        if found is None:
            return False
    return found is thing


def home_module(function: FunctionType) -> str | None:
    """The importable module whose namespace is the function's globals; None: ``__main__`` of the loading process.

    This looks at the globals and not at ``__module__``, which functools.wraps copies from the decorated function.
    """
    name = function.__globals__.get("__name__")
    if not isinstance(name, str) or name in _MAIN_NAMES:
        return None
    module = sys.modules.get(name)
    if isinstance(module, ModuleType) and module.__dict__ is function.__globals__:
        return name
    return None


def is_homeless(function: FunctionType) -> bool:
    """Whether the function's globals are neither those of a module nor of ``__main__``, but a dict of somebody's.

    ``collections.namedtuple`` and the like make methods in such dicts; what these use of them has to travel along.
    """
    space = function.__globals__
    if space.get("__name__") in _MAIN_NAMES or space is sys.modules["__main__"].__dict__:
        return False
    return home_module(function) is None


def reduce_function(function: FunctionType, sources: dict[str, Source | None]) -> tuple[Any, ...]:
    """The pickle reduction of a function that travels as code.

    The function is made with empty cells and filled afterwards, so that it may refer to itself.
    """
    module = home_module(function)
    code = function.__code__
    closure = function.__closure__
    args = (
        marshal.dumps(code),
        function.__name__,
        closure,
        module,
        sources_of(code, sources) if module is None else (),
    )
    contents = None if closure is None else tuple(map(_contents, closure))
    state = (
        function.__defaults__,
        function.__kwdefaults__,
        contents,
        function.__dict__ or None,
        _annotations(function) or None,
        function.__qualname__,
        function.__module__,
        function.__doc__,
        getattr(function, "__type_params__", ()) or None,
    )
    return make_function, args, state, None, None, fill_function


def make_function(
    code: bytes, name: str, closure: tuple[CellType, ...] | None, module: str | None, _sources: tuple[None, ...]
) -> FunctionType:
    """Put a function together around marshalled `code`; its cells are still empty.

    `module`: the module whose globals it uses, imported here; None: ``__main__``, or what the loader has given.
    """
    if module is None:
        space = home()
    else:
        __import__(module)
        space = sys.modules[module].__dict__
    return FunctionType(marshal.loads(code), space, name, None, closure)


def fill_function(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Give the function the rest of its parts, see :func:`reduce_function`."""
    defaults, kwdefaults, contents, attributes, annotations, qualname, module, doc, type_params = state
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    if contents is not None and function.__closure__ is not None:
        for cell, value in zip(function.__closure__, contents, strict=True):
            fill_cell(cell, value)
    if attributes:
        function.__dict__.update(attributes)
    if annotations:
        function.__annotations__ = annotations
    function.__qualname__ = qualname
    function.__module__ = module
    function.__doc__ = doc
    if type_params:
        setattr(function, "__type_params__", type_params)  # noqa: B010 (unknown to type checkers of Python 3.11)


def make_cell() -> CellType:
    """An empty closure variable."""
    return CellType()


def fill_cell(cell: CellType, value: Any) -> None:
    """Give a closure variable its value; EmptyCell leaves it empty."""
    if value is not EmptyCell:
        cell.cell_contents = value


def reduce_cell(cell: CellType) -> tuple[Any, ...]:
    """The pickle reduction of a cell outside of any function's closure."""
    return make_cell, (), _contents(cell), None, None, fill_cell


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EmptyCell


def _annotations(function: FunctionType) -> dict[str, Any]:
    try:
        return function.__annotations__
    except Exception:  # evaluated on access from Python 3.14 on, and the names may not exist yet
        return {}
