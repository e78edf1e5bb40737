"""Progress bars: a widget in a notebook, text elsewhere, nothing when ``IPP_NONINTERACTIVE`` is set."""

from __future__ import annotations

import os
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


#: Uploads that take longer show a bar, seconds.
_PATIENCE = 1.0


def noninteractive() -> bool:
    """Whether the user wants no bars and no live output."""
    return os.environ.get("IPP_NONINTERACTIVE", "") not in ("", "0")


def progress(widget: bool | None = None, **kwargs: Any) -> Any:
    """A tqdm bar; `widget` None: a widget if this is a kernel with ipywidgets. `kwargs` are tqdm's."""
    if widget is None:
        widget = _widgets_work()
    if widget:
        from tqdm.notebook import tqdm_notebook

        return tqdm_notebook(**kwargs)
    from tqdm.std import tqdm

    kwargs.setdefault("file", sys.stdout)
    return tqdm(**kwargs)


class UploadBar:
    """Bytes on their way to the cluster: shown when they take longer than a second and somebody may be looking."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begun = monotonic()
        self._bar: Any = None

    def move(self, count: int) -> None:
        """So many bytes more have left."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._done < self._total and monotonic() - self._begun >= _PATIENCE and _is_watched():
            self._bar = progress(
                total=self._total, initial=self._done, unit="B", unit_scale=True, desc="upload", leave=False
            )

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


class StatusLine:
    """One line that says what is waited for, and how long already: rewritten in a notebook and at a terminal.

    Elsewhere, as in a log, it is a line each time it says something else.
    """

    def __init__(self) -> None:
        self._begun = monotonic()
        self._said: str | None = None
        self._shown = ""
        self._name: str | None = None

    def __enter__(self) -> Self:
        return self

    def show(self, text: str) -> None:
        """Say `text` and the time until now."""
        waited = int(monotonic() - self._begun)
        clock = f", {waited // 60:02}:{waited % 60:02}"
        line = f"{text}{clock}"
        if line == self._shown or (text == self._said and not _is_watched()):
            return
        self._rewrite(line, text, clock)
        self._said, self._shown = text, line

    def _rewrite(self, line: str, text: str, clock: str) -> None:
        from .outputs import in_kernel, publish

        if not _is_watched():
            print(line, flush=True)
        elif in_kernel():
            again = self._name is not None
            self._name = self._name or os.urandom(8).hex()
            publish({"text/plain": line}, display_id=self._name, update=again)
        else:
            from shutil import get_terminal_size

            columns = get_terminal_size().columns - 1  # a line that is wrapped cannot be rewritten
            if len(line) > columns:
                line = f"{text[: columns - len(clock) - 1]}…{clock}"
            print("\r" + line.ljust(min(len(self._shown), columns)), end="", flush=True)

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the line as it is."""
        from .outputs import in_kernel

        if self._shown and _is_watched() and not in_kernel():
            print(flush=True)


def _is_watched() -> bool:
    from .outputs import in_kernel

    return not noninteractive() and (in_kernel() or sys.stdout.isatty())


def _widgets_work() -> bool:
    from importlib.util import find_spec

    from .outputs import in_kernel

    return in_kernel() and find_spec("ipywidgets") is not None
