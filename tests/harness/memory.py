"""Memory: of processes, of the file that the ranks of a node share, and small file systems in memory."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KILO, MEGA, GIGA = 1 << 10, 1 << 20, 1 << 30


def no_large_file_system() -> str:
    """Why large buffers do not lie in shared memory here, as in a container with 64 MB of it, or nothing."""
    where = os.environ.get("PXCLUSTER_SHM_DIR", "/dev/shm")
    there = os.statvfs(where)
    free = there.f_bavail * there.f_frsize
    return "" if free >= GIGA else f"{where} has {free / MEGA:.0f} MB free, and these tests need 1 GB"


def shared_bytes(pid: int) -> int:
    """Bytes that the file that a rank shares with those of its node has at this moment, whoever maps them."""
    found = [path for path in Path(f"/proc/{pid}/fd").iterdir() if "/pxcluster-arena-" in _target(path)]
    assert found, f"process {pid} has no shared memory open"
    return found[0].stat().st_blocks * 512


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""  # closed meanwhile


def private_bytes(pid: int) -> int:
    """Bytes that belong to this process alone: not those of files that it only reads."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Anonymous")


def shared_part_of(pid: int) -> int:
    """A process's part of what it and others have read of the shared file."""
    parts = re.findall(
        r"^\S+ \S+ \S+ \S+ \d+ +\S*/pxcluster-arena-\S*(?: \(deleted\))?\n(?:\w.*: .*\n)*?Pss: +(\d+) kB",
        Path(f"/proc/{pid}/smaps").read_text(),
        re.MULTILINE,
    )
    return sum(map(int, parts)) * KILO


def available_bytes() -> int:
    """Bytes that this machine could give to new processes."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


class Peak:
    """How much more memory than at the start of `with` a process has had at any moment since then."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._reset = Path(f"/proc/{pid}/clear_refs")
        self.growth = 0
        self._start = 0

    def __enter__(self) -> Peak:
        self._reset.write_text("5")  # the peak is what there is now
        self._start = _kilobytes(self._status, "VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.growth = _kilobytes(self._status, "VmHWM") - self._start


def _kilobytes(path: Path, name: str) -> int:
    """The value of a line `name: 12 kB`, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    assert found, f"{path} has no {name}"
    return int(found[1]) * KILO


@contextmanager
def small_file_system(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory, mounted there; needs root."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True, timeout=20)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=20)


def no_small_file_system(folder: Path) -> str:
    """Why there can be none here, or nothing."""
    if os.getuid() != 0:
        return "mounting a small file system needs root"
    try:
        with small_file_system(folder, 1):
            return ""
    except (OSError, subprocess.SubprocessError) as problem:
        return f"no file system can be mounted here: {problem}"
