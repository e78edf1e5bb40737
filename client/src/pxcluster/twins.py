"""Coroutines that can also be called as functions: ``start`` and its twin ``start_sync``.

A coroutine that waits by :func:`pause` alone is never suspended while :func:`call` drives it, because `pause` then
blocks instead. So a twin needs no thread and no event loop, and works while one runs; a Ctrl-C is raised inside it.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")

_blocking: ContextVar[bool] = ContextVar("_blocking", default=False)


async def pause(seconds: float) -> None:
    """Sleep: other tasks of the event loop run meanwhile, unless this is a twin's call."""
    if _blocking.get():
        time.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


def call(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, here and now. RuntimeError: it waits by something else than `pause`."""
    token = _blocking.set(True)
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        _blocking.reset(token)
        coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for something that needs an event loop: await it instead")


def twin(method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[S, P], T]:
    """The twin of a coroutine method; it calls what a subclass may have made of that."""
    name = method.__name__

    def blocking(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        made: Coroutine[Any, Any, T] = getattr(self, name)(*args, **kwargs)
        return call(made)

    blocking.__name__ = f"{name}_sync"
    blocking.__qualname__ = f"{method.__qualname__}_sync"
    blocking.__module__ = method.__module__
    vars(blocking)["__wrapped__"] = method  # help() shows its signature
    blocking.__doc__ = f"See :meth:`{name}`."
    return blocking
