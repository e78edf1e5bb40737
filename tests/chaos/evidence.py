"""What everybody did when a run did not end: stacks of Python by SIGUSR2, of everything else by gdb if it is here."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness.processes import Process, processes_with

#: Characters of one stack or log that are shown.
LONGEST = 12_000


def gather(variable: str, folder: Path) -> str:
    """Everything that is known of the processes with CHAOS_FOLDER in their environment."""
    processes = processes_with(variable, str(folder))
    for process in _python(processes, folder):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGUSR2)
    time.sleep(1)
    parts = [("progress", _read(folder / "progress"))]
    for process in processes:
        if "python" in process.command or "pxcluster" in process.command:
            parts.append((str(process), _threads(process.pid)))
    parts += [(path.name, _read(path)) for path in sorted(folder.glob("stacks-*"))]
    parts.append(("session", _read(folder / "session.log")))
    for path in sorted(folder.glob("marks-*")):
        current, count = struct.unpack("<qq", path.read_bytes())
        parts.append((path.name, f"runs {current - 1 if current else 'nothing'}, {count} have succeeded"))
    parts += [(str(path.relative_to(folder)), _read(path)) for path in sorted(folder.glob("px-test-*/*.txt"))]
    return "\n".join(f"--- {name}\n{text}" for name, text in parts)


def _python(processes: list[Process], folder: Path) -> list[int]:
    """Those that have said that SIGUSR2 prints their stacks: the session, and the engines that wrote their file."""
    armed = [process.pid for process in processes if "chaos.session" in process.command]
    held = {str(path) for path in folder.glob("stacks-*")}
    for process in processes:
        with suppress(OSError):
            opened = {str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
            if opened & held and _catches(process.pid):
                armed.append(process.pid)
    return armed


def _catches(pid: int) -> bool:
    """Whether a process has a handler for SIGUSR2: others would end of it (proc(5), SigCgt)."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1)
    return False


def _threads(pid: int) -> str:
    """Stacks of all threads; without gdb what they sleep in."""
    gdb = shutil.which("gdb")
    if gdb is None:
        threads = sorted(Path(f"/proc/{pid}/task").glob("*"))
        return "\n".join(f"{_read(one / 'comm').strip()} in {_read(one / 'wchan')}" for one in threads)
    command = [gdb, "--batch", "-nx", "-p", str(pid), "-ex", "set pagination off", "-ex", "thread apply all bt 25"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "gdb did not end"
    kept = [line for line in ended.stdout.splitlines() if line.startswith(("#", "Thread"))]
    return "\n".join(kept)[:LONGEST]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-LONGEST:]
    except OSError as problem:
        return f"({problem})"
