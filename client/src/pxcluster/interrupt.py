"""Ctrl-C that never tears a frame apart.

While the main thread sends, receives or dispatches, SIGINT is only remembered; it is delivered to the handler that was
installed before (usually the one that raises KeyboardInterrupt) at once while the thread is blocked or runs callbacks,
and otherwise when the guarded part ends. Nothing is lost in either case: neither bytes nor the interrupt. One that was
delivered shuts the guard, so that the next one cannot tear what the first one ends.
"""

from __future__ import annotations

import signal
import threading
from _signal import signal as _set_handler  # type: ignore[import-not-found, unused-ignore]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# signal.signal() converts handlers to enumerations and back, which takes four times as long as setting one; hence
# the C function itself above.


class InterruptGuard:
    """The guard of the main thread. Use :data:`guard`; other threads never see SIGINT and need no guard."""

    def __init__(self) -> None:
        self._depth = 0
        self._open = False
        self._previous: Any = None
        self._pending: tuple[int, FrameType | None] | None = None

    def applies(self) -> bool:
        """Whether the calling thread is the main one."""
        return threading.get_ident() == threading.main_thread().ident

    def hold(self) -> bool:
        """Begin a guarded part; give the answer to :meth:`release`. Parts may be nested."""
        if self._depth == 0:
            self._pending = None
            self._open = False
            previous = _set_handler(signal.SIGINT, self._handle)
            self._previous = previous
            if not callable(previous):  # ignored, or the end of the process: no interrupt to care for
                _set_handler(signal.SIGINT, signal.SIG_DFL if previous is None else previous)
                return False
        self._depth += 1
        was_open, self._open = self._open, False
        return was_open

    def release(self, was_open: bool) -> None:
        """End the part. Delivers what was remembered, so it may raise KeyboardInterrupt."""
        if self._depth == 0:
            return
        self._depth -= 1
        self._open = was_open
        if self._depth == 0:
            _set_handler(signal.SIGINT, self._previous)
        if self._pending is not None and (was_open or self._depth == 0):
            self._deliver()

    def open(self) -> None:
        """From here on an interrupt is delivered at once; raises it if one is remembered."""
        self._open = True
        if self._pending is not None:
            self._deliver()

    def shut(self) -> None:
        """From here on an interrupt is remembered."""
        self._open = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._pending = (signum, frame)
        if self._open:
            self._deliver()

    def _deliver(self) -> None:
        while self._pending is not None:
            pending, self._pending = self._pending, None
            # If this raises, the guard stays shut: a second interrupt must not tear what the first one ends.
            was_open, self._open = self._open, False
            self._previous(*pending)
            self._open = was_open


guard = InterruptGuard()
