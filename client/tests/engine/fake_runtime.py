"""The runtime of the tests: work from a list or a function, answers and output kept; every call is checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pxcluster import serialize


class FakeRuntime:
    """Implements pxcluster._engine.runtime.Runtime within this process."""

    engine_id = 3
    engine_count = 4
    cluster_id = "default"
    uuid = "3c1e"
    thread_multiple = True
    engines_comm = 17

    def __init__(self, work: Iterable[Any] = ()) -> None:
        self.work = iter(work)
        self.open: dict[int, int] = {}
        self.replies: dict[int, tuple[int, Any]] = {}
        self.answers: dict[int, list[tuple[int, Any]]] = {}
        #: So many tasks at the end of each batch have been given to another engine.
        self.stolen = 0
        self.outputs: list[tuple[int, int | None, str, Any]] = []
        self.in_user_code = False
        self.on_user_code: Callable[[bool], None] = lambda _on: None

    def next(self) -> Any:
        assert not self.in_user_code
        work = next(self.work, None)
        if work is not None and work[0] != "forget":
            assert work[1] not in self.open
            self.open[work[1]] = len(work[4]) if work[0] == "tasks" else 1
        return work

    def reply(self, token: int, status: int, started: float, completed: float, buffers: Sequence[Any]) -> None:
        assert not self.in_user_code
        del self.open[token]
        assert started <= completed
        data = [bytes(buffer) for buffer in buffers]
        self.replies[token] = status, serialize.loads(data) if status == 0 else json.loads(data[0])

    def result(self, token: int, position: int, status: int, payload: bytes | list[Any], /) -> bool:
        payload = payload if isinstance(payload, bytes) else b"".join(payload)
        if token not in self.open:
            return False
        answers = self.answers.setdefault(token, [])
        if position == len(answers):
            answers.append((status, serialize.loads_task(payload) if status == 0 else json.loads(payload)))
        if len(answers) < self.open[token] - self.stolen:
            return True
        del self.open[token]
        self.replies[token] = max(status for status, _ in answers), [value for _, value in answers]
        return False

    def output(self, token: int, task: int | None, name: str, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.outputs.append((token, task, name, json.loads(data) if name == "display" else data.decode()))

    def user_code(self, on: bool, /) -> None:
        self.in_user_code = on
        self.on_user_code(on)

    def text(self, name: str = "stdout", token: int | None = None) -> str:
        """What was written to a stream, by one request or by all."""
        return "".join(data for t, _, n, data in self.outputs if n == name and token in (None, t))

    def displays(self) -> list[Any]:
        """Everything displayed."""
        return [data for _, _, name, data in self.outputs if name == "display"]
