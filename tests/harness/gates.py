"""Tasks that run until the test lets them end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pxcluster import interactive

from .waiting import wait_for


@interactive
def pass_gate(_item: Any, folder: str) -> int:
    """Runs on engines: leaves a mark and waits until the gate is open."""
    import os
    import pathlib
    import time
    import uuid

    pathlib.Path(folder, f"mark-{uuid.uuid4()}").touch()
    while not os.path.exists(os.path.join(folder, "open")):
        time.sleep(0.01)
    return os.getpid()


class Gate:
    """What `pass_gate` waits for; `with` opens it at the latest at its end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder
        self.folder = str(folder)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()

    def wait_for_marks(self, count: int) -> None:
        """Wait until so many tasks have begun."""
        wait_for(lambda: len(list(self.path.glob("mark-*"))) >= count, f"{count} tasks begin")

    def open(self) -> None:
        """Let them end."""
        (self.path / "open").touch()
