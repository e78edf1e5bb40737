"""An IPython shell in this process, and what cells print in it, in a form that can be compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

ReadOutput = Callable[[], Any]


class Shown(NamedTuple):
    """What a cell printed on both streams, the value of its last expression, and the exception that ended it."""

    out: str
    err: str
    value: Any = None
    error: BaseException | None = None

    @property
    def by_source(self) -> dict[str, str]:
        """Text of both streams by what stands before it: ``stdout:0``, ``output:0``, ``Out[0]``; joined, in any order.

        Text that stands before everything else has the source "".
        """
        found: dict[str, str] = {}
        source = ""
        for line in (self.out + self.err).splitlines(keepends=True):
            if prefix := re.fullmatch(r"\[(std\w+:\d|output:\d)\] ?\n", line):
                source = prefix[1]
                found.setdefault(source, "")
            elif result := re.fullmatch(r"(Out\[\d):_\]: (.*\n)", line):
                source = ""
                found[result[1] + "]"] = result[2]
            else:
                found[source] = found.get(source, "") + line
        return found


def normalised(text: str) -> str:
    """Without colours, execution counts, addresses and progress bars."""
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    text = re.sub(r"[^\n]*\d+%\|[^\n]*\n?", "", text)
    text = re.sub(r"\b(Out\[\d):\d+\]", r"\1:_]", text)
    return re.sub(r"\b0x[0-9a-f]+", "0x…", text)


class Notebook:
    """Runs cells. Text is normalised, unless it is asked for as it is.

    `doubles_ends`: a line that another engine's output cut short is ended twice (ipyparallel's are); as if it were not.
    """

    def __init__(self, shell: InteractiveShell, capsys: pytest.CaptureFixture[str], doubles_ends: bool) -> None:
        self.shell = shell
        self.names: dict[str, Any] = shell.user_ns
        self._capsys = capsys
        self._doubles_ends = doubles_ends

    def run(self, cell: str, raw: bool = False) -> Shown:
        """Run a cell; its own errors are returned, not raised."""
        self._capsys.readouterr()
        result = self.shell.run_cell(cell)
        shown = self._capsys.readouterr()
        out, err = (shown.out, shown.err) if raw else (normalised(shown.out), normalised(shown.err))
        if self._doubles_ends:
            out, err = (re.sub(r"^(\[std\w+:\d\] ?\n)\n", r"\1", text, flags=re.MULTILINE) for text in (out, err))
        return Shown(out, err, result.result, result.error_in_exec or result.error_before_exec)


@contextmanager
def notebook(capsys: pytest.CaptureFixture[str], doubles_ends: bool) -> Iterator[Notebook]:
    """A shell without colours and without a history on disk; `doubles_ends` as of Notebook."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    try:
        yield Notebook(shell, capsys, doubles_ends)
    finally:
        InteractiveShell.clear_instance()
