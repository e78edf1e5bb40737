"""SIGINT: a KeyboardInterrupt in user code, nothing anywhere else."""

from __future__ import annotations

import signal
from contextlib import contextmanager

from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_deferring = False
_came_meanwhile = False


def install() -> None:
    """Handle SIGINT here from now on; it may have been inherited as ignored."""
    signal.signal(signal.SIGINT, _on_interrupt)


def enter_user_code() -> None:
    """From here on, until leave_user_code(), any bytecode of the main thread may raise KeyboardInterrupt."""
    state.interruptible = True
    state.host.user_code(True)


def leave_user_code() -> None:
    """Later signals are swallowed. May be called twice."""
    state.interruptible = False
    state.host.user_code(False)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Interrupts wait for the end of the ``with`` statement: a half import leaves modules that never work again."""
    global _deferring, _came_meanwhile
    if _deferring:
        yield
        return
    _deferring, _came_meanwhile = True, False
    try:
        yield
    finally:
        _deferring = False
    if _came_meanwhile and state.interruptible:
        raise KeyboardInterrupt


def _on_interrupt(_signum: int, _frame: FrameType | None) -> None:
    global _came_meanwhile
    if _deferring:
        _came_meanwhile = True
    elif state.interruptible:
        raise KeyboardInterrupt
