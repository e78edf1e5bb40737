"""Counts what arrives at a client before the client looks at it: it would drop a second result without a word."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from pxcluster.session import Session


class Tally:
    """Results by request and task, and when each engine was reported as gone, in all sessions of this process."""

    def __init__(self) -> None:
        self.total = 0
        self.results: dict[tuple[int, int], Counter[int]] = {}
        self.gone: dict[int, float] = {}
        dispatch = Session._dispatch

        def counted(session: Any, header: Any, buffers: Any) -> None:
            if header["type"] == "results":
                self._note((id(session), header["id"]), memoryview(buffers[0]).cast("I").tolist())
            elif header["type"] == "engines":
                for entry in header["lost"]:
                    self.gone.setdefault(entry["id"], time.time())
            dispatch(session, header, buffers)

        Session._dispatch = counted

    def _note(self, request: tuple[int, int], tasks: list[int]) -> None:
        self.results.setdefault(request, Counter()).update(tasks)
        self.total += len(tasks)

    def doubled(self) -> int:
        """Results that arrived for a task that had one."""
        return sum(count - 1 for tasks in self.results.values() for count in tasks.values())
