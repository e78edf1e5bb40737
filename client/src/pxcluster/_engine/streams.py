"""sys.stdout and sys.stderr of an engine: every write is handed to the runtime at once, for the request in hand.

Before the first request, and in a forked child, writes go to the streams of the process. The user's own threads write
for the request in hand, or for the last one when there is none.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from _thread import get_ident

from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never, TextIO

    from typing_extensions import Buffer

#: Bytes of stdout and stderr together that one request may write on one engine; PXCLUSTER_OUTPUT_LIMIT changes it.
DEFAULT_LIMIT = 16 * 1024 * 1024
_VARIABLE = "PXCLUSTER_OUTPUT_LIMIT"

_limit = DEFAULT_LIMIT
_main_thread = get_ident()


class StdinNotImplementedError(RuntimeError):
    """Code on an engine asked for input; nobody sits there."""


class Stream(io.TextIOBase):
    """Text stream `name` (stdout or stderr) of the requests; `real` is the stream of the process itself."""

    def __init__(self, name: str, real: TextIO) -> None:
        self._name = name
        self._real = real
        self.buffer = RawStream(self)

    @property
    def name(self) -> str:
        """As of Python's own streams."""
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What cannot be encoded is written as an escape sequence."""
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        """True: a line is on its way when it is written."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The descriptor of the process's own stream; what is written there is not part of any request."""
        return self._real.fileno()

    def reconfigure(self, **_options: object) -> None:
        """Accepted and ignored."""

    def flush(self) -> None:
        """Nothing waits here."""
        if not _in_request():
            self._real.flush()

    def write(self, text: str, /) -> int:
        """Hand `text` over; returns its length. TypeError: not a str."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            if _in_request():
                self.send(text.encode("utf-8", "backslashreplace"))
            else:
                self._real.write(text)
        return len(text)

    def send(self, data: bytes) -> None:
        """Hand over bytes of UTF-8 text, within the limit of the request."""
        left = state.output_left
        state.output_left = left - len(data)
        if left < len(data):
            if left < 0:
                return
            while left > 0 and data[left] & 0xC0 == 0x80:  # not in the middle of a character
                left -= 1
            state.output_left = left - len(data)
            data = data[:left]
        if data:
            state.host.output(state.token or 0, state.task, self._name, data)
        if state.output_left < 0:
            _notice(
                f"engine {state.host.engine_id} wrote more than {_limit} bytes of output in one request and drops "
                f"the rest; {_VARIABLE} sets this limit, in bytes"
            )


class RawStream(io.RawIOBase):
    """The stream's `buffer`, for code that writes bytes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """As of the text stream."""
        return self._stream.fileno()

    def write(self, data: Buffer, /) -> int:
        """Write UTF-8 text given as bytes; returns the number of bytes."""
        view = memoryview(data)
        self._stream.write(view.tobytes().decode("utf-8", "backslashreplace"))
        return view.nbytes


def install() -> None:
    """Replace sys.stdout, sys.stderr and input(), and read the limit from the environment."""
    global _limit
    text = os.environ.get(_VARIABLE, "")
    if text.isascii() and text.isdigit():
        _limit = int(text)
    elif text:
        print(f"pxcluster: {_VARIABLE} is {text!r}, which is no number of bytes; {_limit} is used", file=sys.stderr)
    builtins.input = _no_input
    if not isinstance(sys.stdout, Stream):
        sys.stdout = Stream("stdout", sys.__stdout__ or _nowhere())
        sys.stderr = Stream("stderr", sys.__stderr__ or _nowhere())


def restore() -> None:
    """Give the process its own streams back."""
    if sys.__stdout__ is not None and sys.__stderr__ is not None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def full_limit() -> int:
    """The bytes that a new request may write."""
    return _limit


def tell_dropped() -> None:
    """At the end of a request: say how much output was dropped, if any was."""
    if state.output_left < 0:
        _notice(f"engine {state.host.engine_id} dropped {-state.output_left} bytes of output of this request")


def _notice(sentence: str) -> None:
    state.host.output(state.token or 0, state.task, "stderr", f"\npxcluster: {sentence}.\n".encode())


def _in_request() -> bool:
    return state.token is not None and (state.running or get_ident() != _main_thread)


def _no_input(_prompt: Any = "", /) -> Never:
    raise StdinNotImplementedError("input() has nobody to ask on an engine: pass the value as an argument or push it")


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
