"""Processes and shared memory of this machine, read from /proc."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Process:
    """A living process; zombies are none."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})"

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def processes_with(variable: str, value: str) -> list[Process]:
    """All processes that were started with this variable in their environment."""
    wanted = f"{variable}={value}".encode()
    return [process for process in _all() if wanted in _read(process.pid, "environ").split(b"\0")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return _process(pid) is not None


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped by a signal."""
    threads = [_read(int(thread.name), "stat") for thread in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(b")")[2].split()[:1] == [b"T"] for stat in threads)


def parent_of(pid: int) -> int:
    """The process id of the parent."""
    return int(_read(pid, "stat").rpartition(b")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    """The process ids of the children of a process's first thread."""
    return [int(child) for child in _read(pid, f"task/{pid}/children").split()]


def processes_beside(init: int) -> list[Process]:
    """All processes of the namespace that this process is the first one of, without it."""
    wanted = os.readlink(f"/proc/{init}/ns/pid")

    def namespace(pid: int) -> str:
        with suppress(OSError):
            return os.readlink(f"/proc/{pid}/ns/pid")
        return ""

    return [process for process in _all() if process.pid != init and namespace(process.pid) == wanted]


def abandoned_shared_memory(before: set[str]) -> set[str]:
    """Files in /dev/shm that are not among `before` and that no process has open or mapped."""
    new = shared_memory() - before
    if not new:
        return set()
    used: set[str] = set()
    for process in _all():
        used.update(
            line.split()[-1].decode() for line in _read(process.pid, "maps").splitlines() if b"/dev/shm/" in line
        )
        with suppress(OSError):
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    used.add(str(descriptor.readlink()))
    return {name for name in shared_memory() & new if str(SHARED_MEMORY / name) not in used}


def shared_memory() -> set[str]:
    """Names of the files in /dev/shm."""
    return {path.name for path in SHARED_MEMORY.iterdir()}


def _all() -> list[Process]:
    found = (_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def _process(pid: int) -> Process | None:
    state = _read(pid, "stat").rpartition(b")")[2].split()[:1]
    if not state or state[0] in b"ZX":
        return None
    return Process(pid, _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip())


def _read(pid: int, name: str) -> bytes:
    """A file of /proc; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
