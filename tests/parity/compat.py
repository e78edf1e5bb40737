"""docs/ipyparallel-compat.md as data: the rows that excuse a difference, the names that are named as different."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ipyparallel-compat.md"

#: The sections whose first columns name what a comparison of signatures finds, in code spans.
MISSING = "Not there yet"
OTHER_ARGUMENTS = "Other arguments"
ONLY_HERE = "Only in pxcluster"
ON_PURPOSE = "Different on purpose"


@cache
def _tables() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    title = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line[3:].strip()
            found[title] = []
        elif line.startswith("|") and title:
            found[title].append(line)
    return {title: lines[2:] for title, lines in found.items()}


def rows(section: str) -> list[str]:
    """The lines of a section's table, its header left out."""
    return _tables()[section]


def sections() -> dict[str, list[str]]:
    """The first cells of each section's table."""
    return {title: [line.strip("|").split("|")[0].strip() for line in lines] for title, lines in _tables().items()}


def row(first_column: str) -> str:
    """The first cell of a row of any table; AssertionError if the page has no such row."""
    known = [cell for cells in sections().values() for cell in cells]
    assert first_column in known, f"{PAGE.name} has no row {first_column!r}; it has {known}"
    return first_column


def names(section: str) -> set[str]:
    """The names in code spans of the section's first column: `name`, `Class.name`, `Class()` for its constructor."""
    assert section in sections(), f"{PAGE.name} has no section {section!r}"
    spans = [span for cell in sections()[section] for span in re.findall(r"`([^`]+)`", cell)]
    return {span for span in spans if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\(\))?", span)}
