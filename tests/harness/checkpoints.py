"""What is in the file of a map with a checkpoint, at any moment."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def results_in(path: Path) -> int:
    """How many results it has; none if it is not there yet."""
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        if not file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return 0  # it is being made
        rows = file.execute("SELECT tasks FROM results WHERE tasks IS NOT NULL").fetchall()
    return len({tasks[at : at + 4] for (tasks,) in rows for at in range(0, len(tasks), 4)})
