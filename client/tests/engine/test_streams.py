"""sys.stdout and sys.stderr inside an engine."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from engine_client import Engine, Failed
from pxcluster._engine import streams
from pxcluster._engine.state import state


def test_writes_belong_to_the_request(engine: Engine) -> None:
    engine.execute("import sys\nprint('a', 1); print('b', file=sys.stderr); sys.stdout.buffer.write('ü'.encode())")
    assert engine.runtime.text("stdout", engine.token) == "a 1\nü"
    assert engine.runtime.text("stderr") == "b\n"


def test_stream_attributes(engine: Engine) -> None:
    stdout: Any = engine.streams[0]
    assert stdout.isatty() is False
    assert stdout.encoding == "utf-8"
    assert stdout.writable()
    assert stdout.name == "<stdout>"
    assert stdout.fileno() == sys.__stdout__.fileno()  # type: ignore[union-attr]
    stdout.reconfigure(line_buffering=True)
    stdout.writelines([])
    with pytest.raises(TypeError, match="must be str"):
        stdout.write(b"x")
    engine.execute("print('\\ud800')")
    assert engine.runtime.text() == "\\ud800\n"


def test_threads_write_for_the_last_request(engine: Engine) -> None:
    engine.execute(
        "import threading, sys\ngo = threading.Event()\n"
        "def late(out=sys.stdout):\n  go.wait()\n  out.write('late')\nt = threading.Thread(target=late); t.start()"
    )
    thread: threading.Thread = engine.space["t"]
    engine.space["go"].set()
    thread.join()
    assert engine.runtime.text("stdout", engine.token) == "late"


def test_outside_of_requests_the_process_writes(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.execute("1")
    engine.streams[0].write("")
    real = streams.Stream("stdout", sys.stdout)
    real.write("to the process\n")
    real.flush()
    assert engine.runtime.outputs == []
    assert capfd.readouterr().out == "to the process\n"


def test_output_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_limit", 10)
    engine.execute("print('abcdefgäxxx'); print('more'); print('again')")
    assert engine.runtime.text() == "abcdefgäx"[:9]
    notices = engine.runtime.text("stderr")
    assert notices.count("engine 3 wrote more than 10 bytes") == 1
    assert "PXCLUSTER_OUTPUT_LIMIT" in notices
    assert "dropped 14 bytes" in notices
    engine.execute("print('fresh')")
    assert engine.runtime.text().endswith("fresh\n")


def test_output_limit_cuts_between_characters(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_limit", 4)
    engine.execute("import sys\nn = sys.stdout.write('abcäd')")
    assert engine.runtime.text() == "abc"


def test_output_limit_holds_for_a_whole_map(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_limit", 10)
    space = engine.cell("def f(n): print('abcd')")
    engine.map_batch(space["f"], [1], key=77)
    engine.map_batch(None, [1], key=77, known=True)
    engine.map_batch(None, [1], key=77, known=True)
    assert engine.runtime.text() == "abcd\nabcd\n"
    assert engine.runtime.text("stderr").count("wrote more than") == 1


@pytest.mark.parametrize(("text", "limit", "complaint"), [("1000", 1000, ""), ("much", None, "no number of bytes")])
def test_limit_from_the_environment(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, limit: int | None,
    complaint: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(streams, "_limit", streams.DEFAULT_LIMIT)
    monkeypatch.setenv("PXCLUSTER_OUTPUT_LIMIT", text)
    streams.install()
    streams.restore()
    assert streams.full_limit() == (limit or streams.DEFAULT_LIMIT)
    assert complaint in capsys.readouterr().err


def test_failing_request_leaves_the_state_clean(engine: Engine) -> None:
    with pytest.raises(Failed):
        engine.execute("1 / 0")
    assert state.running is False
    assert state.interruptible is False
