"""``with view.sync_imports():`` — import here and on the engines at once."""

from __future__ import annotations

import builtins
import sys
import threading
from contextlib import contextmanager
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .asyncresult import AsyncResult
    from .direct import DirectView


def remote_import(name: str, names: tuple[str, ...]) -> None:
    """Runs on engines: import `name` and bind it, or `names` of it, in the user's namespace."""
    from importlib import import_module

    import __main__

    module = import_module(name)
    if not names:
        top = name.partition(".")[0]
        setattr(__main__, top, sys.modules[top])
    for key in names:
        if key == "*":
            exported = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
            vars(__main__).update({key: getattr(module, key) for key in exported})
            continue
        try:
            value = getattr(module, key)
        except AttributeError:
            value = import_module(f"{name}.{key}")
        setattr(__main__, key, value)


@contextmanager
def sync_imports(view: DirectView, local: bool = True, quiet: bool = False) -> Iterator[None]:
    """Forward the imports of the ``with`` statement's own code to the engines of `view`.

    Raises the engines' ImportErrors at the end. NotImplementedError: `local` is False.
    """
    if not local:
        raise NotImplementedError("remote-only imports not yet implemented")
    original = builtins.__import__
    here = sys._getframe(2)  # past contextlib, the frame of the with statement
    namespace = here.f_globals
    thread = threading.get_ident()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    results: list[AsyncResult] = []
    nested = False

    def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        nonlocal nested
        ours = not nested and level == 0 and globals is namespace and threading.get_ident() == thread
        if not ours or sys._getframe(1) is not here:
            return original(name, globals, locals, fromlist, level)
        nested = True
        try:
            module = original(name, globals, locals, fromlist, level)
        finally:
            nested = False
        names = tuple(fromlist or ())
        if (name, names) not in seen:
            seen.add((name, names))
            if not quiet:
                what = f"{','.join(names)} from {name}" if names else name
                print(f"importing {what} on engine(s)")
            results.append(view.apply_async(remote_import, name, names))
        return module

    builtins.__import__ = importing
    try:
        yield
    finally:
        builtins.__import__ = original
    for result in results:
        result.get()
