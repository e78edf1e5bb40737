"""A child that user code forks: it has no comm thread and must never touch MPI, so it is cut off from the runtime."""

from __future__ import annotations

import os
import sys

from . import streams
from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Never

    from .runtime import Runtime


class Orphan:
    """The runtime of a forked child. User code that returns here has run twice; its child ends instead of answering."""

    def __init__(self, parent: Runtime) -> None:
        self.engine_id = parent.engine_id
        self.engine_count = parent.engine_count
        self.cluster_id = parent.cluster_id
        self.uuid = parent.uuid
        self.thread_multiple = False
        self.engines_comm = 0

    def next(self) -> Never:
        """End the process."""
        _end(0)

    def reply(self, _token: int, status: int, *_rest: object) -> Never:
        """End the process, with 1 if the request failed."""
        _end(status)

    def result(self, _token: int, _position: int, status: int, *_rest: object) -> Never:
        """End the process, with 1 if a task failed."""
        _end(int(status != 0))

    def output(self, _token: int, _task: int | None, name: str, data: bytes) -> None:
        """Write to the stream of the process itself."""
        if name in ("stdout", "stderr"):
            os.write(1 if name == "stdout" else 2, data)

    def user_code(self, _on: bool, /) -> None:
        """Nothing: signals go to the child directly."""


def install() -> None:
    """Cut children off from now on, whoever forks them."""
    os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    if state.runtime is not None and not isinstance(state.runtime, Orphan):
        state.runtime = Orphan(state.runtime)
        state.token = None
        streams.restore()


def _end(code: int) -> Never:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)
