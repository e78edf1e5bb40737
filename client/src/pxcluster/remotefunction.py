"""Functions that run on engines when they are called."""

from __future__ import annotations

import warnings
from typing import Any

from .partition import distribution
from .serialize import interactive
from .view import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .view import View

__all__ = ["ParallelFunction", "RemoteFunction", "depend", "interactive", "parallel", "remote", "require"]


def map_part(function: Callable[..., Any], *parts: Any) -> list[Any]:
    """Runs on engines: the results of `function` on every element of this engine's parts."""
    return list(map(function, *parts))


def remote(view: View, block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """Decorator: calls of the function run on `view`'s engines. `flags` hold for its calls."""
    return lambda f: RemoteFunction(view, f, block=block, **flags)


def parallel(
    view: View, dist: str = "b", block: bool | None = None, ordered: bool = True, **flags: Any
) -> Callable[[Callable[..., Any]], ParallelFunction]:
    """Decorator: the function's ``map`` runs on `view`'s engines. See ParallelFunction."""
    return lambda f: ParallelFunction(view, f, dist=dist, block=block, ordered=ordered, **flags)


class RemoteFunction:
    """`f` on the engines of `view`; `block` None: as the view does; `flags` hold for its calls."""

    view: View
    func: Callable[..., Any]
    block: bool | None = None
    flags: dict[str, Any]

    def __init__(self, view: View, f: Callable[..., Any], block: bool | None = None, **flags: Any) -> None:
        self.view = view
        self.func = f
        self.block = block
        self.flags = flags
        self.__name__ = name_of(f)
        if getattr(f, "__doc__", None):
            self.__doc__ = f"{type(self).__name__} wrapping:\n{f.__doc__}"
        self.__wrapped__ = f  # inspect.signature follows it

    def _blocks(self) -> bool:
        return self.view.block if self.block is None else self.block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the call if it blocks, otherwise an AsyncResult."""
        with self.view.temp_flags(**self.flags):
            return self.view._apply(self.func, args, kwargs, self._blocks())


class ParallelFunction(RemoteFunction):
    """`f` over sequences that are cut and sent to the engines of `view`.

    Calling it applies f to the parts (one per engine, or `chunksize` items each when load-balanced); ``map`` applies
    f to every element. `dist`: ``'b'`` contiguous parts, ``'r'`` round robin. `ordered` False: iterating the result
    yields values as they arrive.
    """

    chunksize: int | None = None
    ordered: bool = True

    def __init__(
        self,
        view: View,
        f: Callable[..., Any],
        dist: str = "b",
        block: bool | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        **flags: Any,
    ) -> None:
        super().__init__(view, f, block=block, **flags)
        self.chunksize = chunksize
        self.ordered = ordered
        self.return_exceptions = return_exceptions
        self.dist = dist
        #: What cuts sequences and joins results.
        self.mapObject = distribution(dist)

    def __call__(self, *sequences: Any, **kwargs: Any) -> Any:
        """f of the parts, joined. ValueError: the sequences differ in length."""
        if kwargs:
            raise TypeError(f"Unexpected keyword arguments: {kwargs}")
        known = [seq if hasattr(seq, "__len__") else list(seq) for seq in sequences]
        lengths = [len(seq) for seq in known]
        if len(set(lengths)) > 1:
            raise ValueError(f"all sequences must have equal length, but have {lengths}")
        return self._run(known, max(lengths, default=0), each=False)

    def map(self, *sequences: Any) -> Any:
        """f of every element: a list if it blocks, otherwise an AsyncMapResult; stops at the shortest sequence."""
        from .loadbalanced import LoadBalancedView

        if isinstance(self.view, LoadBalancedView):
            with self.view.temp_flags(**self.flags):
                return self.view.map(
                    self.func,
                    *sequences,
                    block=self._blocks(),
                    chunksize=self.chunksize or 1,
                    ordered=self.ordered,
                    return_exceptions=self.return_exceptions,
                )
        known = [seq if hasattr(seq, "__len__") else list(seq) for seq in sequences]
        return self._run(known, min(map(len, known), default=0), each=True)

    def _run(self, sequences: list[Any], length: int, each: bool) -> Any:
        from .direct import DirectView
        from .loadbalanced import LoadBalancedView

        view = self.view
        with view.temp_flags(**self.flags):
            if isinstance(view, LoadBalancedView):
                size = self.chunksize or 1
                parts = -(-length // size)
                cut = self.mapObject
                items = [tuple(cut.part(seq, index, parts, length) for seq in sequences) for index in range(parts)]
                result = view._map_items(
                    self.func, items, True, 1, self.ordered, self.return_exceptions, None, join=cut.join
                )
            elif isinstance(view, DirectView):
                if self.chunksize:
                    warnings.warn("`chunksize` is ignored unless load balancing", UserWarning, stacklevel=3)
                result = view._map_parts(
                    self.func, sequences, length, self.dist, each, self.return_exceptions, self.ordered
                )
            else:
                raise TypeError(f"{type(view).__name__} cannot map")
        return result if isinstance(result, list) or not self._blocks() else result.get()


class require:
    """Decorator: what the function needs on the engine, bound there before it runs.

    ``@require("numpy", module, helper, name=value)``: modules by name or themselves are imported, functions and named
    values are sent along. Where a module cannot be imported, a load-balanced task moves to another engine
    (ImpossibleDependency: it is nowhere), and a direct call raises UnmetDependency.
    """

    def __init__(self, *objects: Any, **mapping: Any) -> None:
        from types import ModuleType

        self.modules: list[str] = []
        self.values: dict[str, Any] = {}
        for obj in objects:
            if isinstance(obj, ModuleType):
                obj = obj.__name__
            if isinstance(obj, str):
                self.modules.append(obj)
            elif hasattr(obj, "__name__"):
                self.values[obj.__name__] = obj
            else:
                raise TypeError(f"Objects of type {type(obj)} must have a name, give them by keyword")
        for name, value in mapping.items():
            if isinstance(value, ModuleType):
                raise TypeError(f"give the module {name} without a keyword: modules are bound under their own names")
            self.values[name] = value

    def __call__(self, f: Callable[..., Any]) -> dependent:
        return dependent(f, _provide, self.modules, self.values)


def _provide(modules: list[str], values: dict[str, Any]) -> bool:
    """Runs on engines: import `modules` and bind `values` in the user's namespace."""
    from importlib import import_module

    import __main__

    from .error import UnmetDependency

    for name in modules:
        try:
            import_module(name)
        except ImportError as problem:
            raise UnmetDependency(f"{name}: {problem}") from None
        top = name.partition(".")[0]
        setattr(__main__, top, import_module(top))
    for name, value in values.items():
        setattr(__main__, name, value)
    return True


class depend:
    """Decorator: ``check(*args, **kwargs)`` runs first, on the engine; False or UnmetDependency refuses it.

    Then a load-balanced task moves to another engine (ImpossibleDependency: all refuse), and a direct call raises
    UnmetDependency.
    """

    def __init__(self, check: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self.check = check
        self.args = args
        self.kwargs = kwargs

    def __call__(self, f: Callable[..., Any]) -> dependent:
        return dependent(f, self.check, *self.args, **self.kwargs)


class dependent:
    """A function and the check that runs before it, made by depend and require."""

    def __init__(self, f: Callable[..., Any], check: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self.func = f
        self.check = check
        self.args = args
        self.kwargs = kwargs
        self.__name__ = name_of(f)

    def check_dependency(self) -> None:
        """Raise UnmetDependency if the check refuses."""
        from .error import UnmetDependency

        if self.check(*self.args, **self.kwargs) is False:
            raise UnmetDependency()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.check_dependency()
        return self.func(*args, **kwargs)
