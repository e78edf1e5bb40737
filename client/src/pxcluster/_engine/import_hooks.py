"""Calls a function when user code imports a certain module: before it is found, or after it has run."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Before = Callable[[], None]
    After = Callable[[ModuleType], None]


class HookFinder:
    """A finder at the front of sys.meta_path that finds nothing itself."""

    def __init__(self) -> None:
        self.before: dict[str, Before] = {}
        self.after: dict[str, After] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the other finders, with our function attached; None for modules without one."""
        if name in self.before:
            self.before[name]()
        if name not in self.after:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                self._attach(spec, self.after[name])
                return spec
        return None

    @staticmethod
    def _attach(spec: ModuleSpec, after: After) -> None:
        loader: Any = spec.loader
        run = getattr(loader, "exec_module", None)
        if run is None:
            return

        def run_and_call(module: ModuleType) -> None:
            run(module)
            after(module)

        loader.exec_module = run_and_call  # the loader serves this one module


_finder = HookFinder()


def before_import(name: str, function: Before) -> None:
    """Call `function` whenever module `name` is about to be imported; it may raise ImportError."""
    _install()
    _finder.before[name] = function


def after_import(name: str, function: After) -> None:
    """Call ``function(module)`` once module `name` is imported; engines start with none of these modules."""
    _install()
    _finder.after[name] = function


def _install() -> None:
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
