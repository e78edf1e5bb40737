"""Running the program ``pxcluster``, with an event loop or without, and ending clusters of a Python that dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from .twins import pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: How often a program is looked after, seconds.
_INTERVAL = 0.02

#: Waits for a line through the pipe; at its end instead it stops the cluster, if it is still the one with that socket.
_GUARD = 'read -r line || { grep -qF "$1" "$2" && shift 2 && exec "$@"; }'


def locate() -> str:
    """The program ``pxcluster``: this interpreter's own, else the one on ``PATH``. FileNotFoundError."""
    folders = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]
    for folder in folders:
        found = shutil.which("pxcluster", path=folder) if folder else None
        if found is not None:
            return found
    found = shutil.which("pxcluster")
    if found is None:
        raise FileNotFoundError(
            f"there is no program pxcluster in {folders[0] or 'the environment of this Python'} or on PATH, so no "
            "cluster can be started or stopped from here: install all of pxcluster (`pip install .` in its source; "
            "`pip install ./client` is the client alone)"
        )
    return found


def environment(directory: str) -> dict[str, str]:
    """That of this process, with `directory` as the one of all clusters."""
    return {**os.environ, "PXCLUSTER_DIR": directory}


class Program:
    """A ``pxcluster start`` or ``stop`` under way. It has a process group of its own: a Ctrl-C is this process's."""

    def __init__(self, command: Sequence[str], directory: str) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open until the program has ended
        self._seen = 0
        self._rest = b""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=environment(directory),
                process_group=0,
            )
        except BaseException:
            self._said.close()
            raise

    def news(self) -> list[str]:
        """The lines that it has written to standard error since this was asked last."""
        fd = self._said.fileno()
        piece = os.pread(fd, 1 << 16, self._seen)
        self._seen += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    async def wait(self, tick: Callable[[], None] | None = None) -> None:
        """Wait for the end; `tick` is called now and then."""
        while self._process.poll() is None:
            await pause(_INTERVAL)
            if tick is not None:
                tick()

    def give_up(self) -> None:
        """Tell it to give up, and :meth:`join` it."""
        self._process.terminate()
        self.join()

    def join(self) -> None:
        """Wait for the end, whatever interrupts that."""
        while True:
            try:
                self._process.wait()
                return
            except KeyboardInterrupt:
                continue

    def result(self) -> tuple[int, str]:
        """Exit code (minus the signal) and standard error of the program, which has ended."""
        if not self._said.closed:
            self._said.seek(0)
            self._text = self._said.read().decode(errors="replace")
            self._said.close()
        return self._process.wait(), self._text


class Guard:
    """Stops a cluster when this process is gone and has not done so, however it went: killed, crashed, out of memory.

    A shell waits at the end of a pipe that closes with this process.
    """

    def __init__(self, stop: Sequence[str], directory: str, connection_file: str, mark: str) -> None:
        """`stop`: the command to run. `mark`: what stands in the connection file of this cluster alone, no secret."""
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", mark, connection_file, *stop],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(directory),
            cwd="/",
            start_new_session=True,
        )

    def release(self) -> None:
        """It is not needed any more. A second call does nothing."""
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        try:
            pipe.write(b"\n")
            pipe.close()
        except OSError:
            pass  # somebody has killed it
        self._process.wait()
