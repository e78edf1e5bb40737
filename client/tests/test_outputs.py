"""How the streams of engines are written one after the other."""

from __future__ import annotations

import io

import pytest
from pxcluster.outputs import StreamWriter

A, B = "[stdout:0] ", "[stdout:1] "


@pytest.mark.parametrize(
    ("texts", "written"),
    [
        ([(A, "one\n"), (A, "two\n")], "[stdout:0] \none\ntwo\n"),
        ([(A, "one\n"), (B, "two\n")], "[stdout:0] \none\n[stdout:1] \ntwo\n"),
        ([(A, "one"), (B, "two\n"), (A, "\n")], "[stdout:0] \none\n[stdout:1] \ntwo\n"),
        ([(A, "one"), (B, "two"), (A, "\n"), (B, "\n")], "[stdout:0] \none\n[stdout:1] \ntwo\n"),
        ([(A, "o"), (B, "two\n"), (A, "ne\n")], "[stdout:0] \no\n[stdout:1] \ntwo\n[stdout:0] \nne\n"),
        ([(A, "one"), (B, "two\n"), (A, "\n\nthree\n")], "[stdout:0] \none\n[stdout:1] \ntwo\n[stdout:0] \n\nthree\n"),
        ([(A, "one"), (A, "\n"), (A, "\n")], "[stdout:0] \none\n\n"),
        ([("", "one"), ("", "\n")], "one\n"),
    ],
)
def test_lines_are_ended_once(texts: list[tuple[str, str]], written: str) -> None:
    file = io.StringIO()
    writer = StreamWriter()
    for prefix, text in texts:
        writer.write(text, prefix, file)
    assert file.getvalue() == written
