"""Asks an engine for things as a client does, without any network between them."""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

from fake_runtime import FakeRuntime
from pxcluster import serialize
from pxcluster._engine import main


class Failed(Exception):
    """The engine answered with an error."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(f"{payload['ename']}: {payload['evalue']}")
        self.payload = payload
        self.traceback: str = payload["traceback"]


class Engine:
    """A started engine, its runtime and its namespace."""

    def __init__(self, runtime: FakeRuntime, space: dict[str, Any], tokens: Iterator[int]) -> None:
        self.runtime = runtime
        self.space = space
        self.tokens = tokens
        self.token = 0
        self.streams = sys.stdout, sys.stderr
        self.client = types.ModuleType("__main__")

    def cell(self, text: str, label: tuple[str, str] | None = None) -> dict[str, Any]:
        """Run `text` in the client's own __main__."""
        name = f"<client-cell-{id(self)}-{hash(text)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        if label is not None:
            serialize._source._labels[name] = label
        exec(compile(text, name, "exec", dont_inherit=True), self.client.__dict__)
        return self.client.__dict__

    def dumps(self, body: object) -> list[Any]:
        """Pickle as the client does."""
        engine_main = sys.modules["__main__"]
        sys.modules["__main__"] = self.client
        try:
            return [bytes(part) for part in serialize.dumps(body)]
        finally:
            sys.modules["__main__"] = engine_main

    def _serve(self, *work: Any) -> tuple[int, Any]:
        self.runtime.work = iter([work])
        before = sys.stdout, sys.stderr  # pytest exchanges them between set-up and test
        sys.stdout, sys.stderr = self.streams
        try:
            main.serve(self.runtime.next())
        finally:
            sys.stdout, sys.stderr = before
        assert not self.runtime.open
        return self.runtime.replies[self.token]

    def direct(self, kind: str, body: object) -> Any:
        """One direct request; raises Failed."""
        self.token = next(self.tokens)
        status, result = self._serve("direct", self.token, kind, self.dumps(body))
        if status:
            raise Failed(result)
        return result

    def apply(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call on the engine."""
        return self.direct("apply", (function, args, kwargs))

    def execute(self, code: str, silent: bool = False) -> Any:
        """Run a cell; the displayed text or None."""
        reply = self.direct("execute", {"code": code, "silent": silent, "store_history": True})
        self.count = reply["execution_count"]
        result = reply["execute_result"]
        return None if result is None else result["data"]["text/plain"]

    def map_batch(
        self, function: Any, items: Sequence[Any], *, key: int = 1, first: int = 0, star: bool = False,
        chunked: bool = False, known: bool = False
    ) -> list[Any]:  # fmt: skip
        """One batch of a map: its results, error payloads among them."""
        self.token = next(self.tokens)
        body = {"function": function, "star": star, "chunked": chunked, "name": "f"}
        data = [serialize.dumps_task(item) for item in items]
        function_body = None if known else self.dumps(body)[0]
        result: list[Any] = self._serve("tasks", self.token, key, function_body, data, first)[1]
        return result
