"""SIGINT: a KeyboardInterrupt in user code, nothing anywhere else."""

from __future__ import annotations

import signal

from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


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


def _on_interrupt(_signum: int, _frame: FrameType | None) -> None:
    if state.interruptible:
        raise KeyboardInterrupt
