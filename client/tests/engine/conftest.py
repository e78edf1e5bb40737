"""An engine inside the test's process: its main thread is the test's, its __main__ a module of its own."""

from __future__ import annotations

import atexit
import builtins
import signal
import sys
import types
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from engine_client import Engine
from fake_runtime import FakeRuntime
from pxcluster import serialize
from pxcluster._engine import main, shell, streams, tasks
from pxcluster._engine.state import state


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A started engine with a fresh namespace; everything it changed in the interpreter is put back."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    monkeypatch.setattr(builtins, "input", builtins.input)
    handler = signal.getsignal(signal.SIGINT)
    tasks._maps.clear()
    runtime = FakeRuntime()
    main.start(runtime)
    yield Engine(runtime, module.__dict__, count(1))
    if shell._shell is not None:
        atexit.unregister(shell._shell.atexit_operations)
        type(shell._shell).clear_instance()
        shell._shell = None
    signal.signal(signal.SIGINT, handler)
    streams.restore()
    serialize.resolve_references(None)
    state.runtime = state.token = state.first_task = None


@pytest.fixture
def cell(engine: Engine) -> Any:
    """Defines things in a client's cell and gives its namespace."""
    return engine.cell
