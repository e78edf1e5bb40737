"""What a package offers, in a form that can be compared: public names, and the parameters of what can be called."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from traitlets import HasTraits
from traitlets.config import LoggingConfigurable

#: What ipyparallel's classes have from traitlets and is not theirs.
_MACHINERY = {*dir(HasTraits), *dir(LoggingConfigurable)}

#: Classes that users meet without importing them: (module in ipyparallel, module in pxcluster).
_MET = {
    "View": ("client.view", "view"),
    "LazyMapIterator": ("client.view", "imap"),
    "ExecuteReply": ("client.client", "reply"),
}

Parameters = list[tuple[str, str, str]]


def public_names(package: ModuleType) -> set[str]:
    """Names that `import package` gives and that are its own: no modules, nothing that it imported from elsewhere."""

    def is_own(value: Any) -> bool:
        home = getattr(value, "__module__", None) or package.__name__
        return not isinstance(value, ModuleType) and home.partition(".")[0] in (package.__name__, "builtins")

    offered = getattr(package, "__all__", None) or dir(package)
    return {name for name in offered if not name.startswith("_") and is_own(getattr(package, name))}


def find(package: ModuleType, name: str) -> Any:
    """A public thing of the package, those of `_MET` included; None if there is no such thing."""
    if name in _MET:
        home = _MET[name][package.__name__ == "pxcluster"]
        return getattr(importlib.import_module(f"{package.__name__}.{home}"), name)
    return getattr(package, name, None)


def members(cls: type) -> set[str]:
    """The public methods, properties and traits of a class that are not traitlets' own."""
    found = {name for name in dir(cls) if not name.startswith("_") and name not in _MACHINERY}
    if hasattr(cls, "_synchronize"):  # ipyparallel's objects make the twins of coroutines when they are asked for
        found |= {f"{name}_sync" for name in found if inspect.iscoroutinefunction(getattr(cls, name))}
    return found


def attributes(cls: type) -> set[str]:
    """What objects of a class have besides: attributes that are annotated, or set by a constructor."""
    found = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
    constructors = [vars(base).get("__init__") for base in cls.__mro__]
    for constructor in constructors:
        if inspect.isfunction(constructor):
            found.update(re.findall(r"\bself\.(\w+)(?:, self\.\w+)*(?:: [^=\n]+)? = ", inspect.getsource(constructor)))
    return found


def parameters(thing: Any) -> Parameters | None:
    """Name, kind and default of each parameter, without the one that is bound; None where Python knows none.

    Names that begin with an underscore are nobody's keywords: they are given by position only. An empty list and an
    empty tuple are the same default.
    """
    if inspect.isclass(thing):
        thing = thing.__init__
        if thing in (object.__init__, Exception.__init__):
            return None
    try:
        found = list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return None
    if found and found[0].name in ("self", "cls"):
        del found[0]
    by_name = [each for each in found if each.kind is inspect.Parameter.KEYWORD_ONLY]
    by_position = [each for each in found if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    return [_parameter(each) for each in by_position + sorted(by_name, key=lambda each: each.name)]


def _parameter(parameter: inspect.Parameter) -> tuple[str, str, str]:
    name, kind = parameter.name, parameter.kind
    if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return "", kind.name, ""
    if name.startswith("_") or kind is inspect.Parameter.POSITIONAL_ONLY:
        name, kind = "", inspect.Parameter.POSITIONAL_ONLY
    default = parameter.default
    if default is inspect.Parameter.empty:
        return name, kind.name, ""
    return name, kind.name, "=empty" if default in ([], ()) else f"={getattr(default, '__name__', repr(default))}"
