"""Engines that are seen to be busy."""

from __future__ import annotations

from pathlib import Path

from pxcluster import AsyncResult, Client

from .waiting import wait_for

SLEEP = "import time; time.sleep(1000)"
SPIN = "while True: pass"


def keep_busy(client: Client, code: str, marks: Path, targets: object = "all") -> AsyncResult:
    """Runs `code` on engines and waits until all of them have begun; `marks`: an empty directory."""
    marks.mkdir(exist_ok=True)
    view = client.direct_view(targets)
    engines = len(view)
    mark = f"import os, pathlib; pathlib.Path({str(marks)!r}, str(os.getpid())).touch()\n"
    result = view.execute(mark + code, block=False)
    wait_for(lambda: len(list(marks.iterdir())) == engines, "all engines begin")
    return result
