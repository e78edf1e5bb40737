"""A program in a terminal: what stands on its screen, keys pressed, how it left the terminal."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
from collections.abc import Mapping

import pyte

from .waiting import PATIENCE, wait_for

_ENTER, _LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
_HIDE, _SHOW = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """Runs `command` in a terminal of its own. Close it at the end."""

    def __init__(self, command: list[str], env: Mapping[str, str], columns: int = 80, lines: int = 24) -> None:
        self._master, self._slave = os.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._written = b""
        self.resize(columns, lines)
        self._before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, columns: int, lines: int) -> None:
        """Another size; the program is told by SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self._master, keys.encode())

    def lines(self) -> list[str]:
        """The screen."""
        while select.select([self._master], [], [], 0)[0]:
            some = os.read(self._master, 1 << 16)
            self._written += some
            self._stream.feed(some)
        return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        """The screen in one piece."""
        return "\n".join(self.lines())

    def wait_for(self, *texts: str) -> str:
        """Waits until all of these stand on the screen."""
        return wait_for(
            lambda: shown if all(text in (shown := self.text()) for text in texts) else "",
            lambda: f"{texts} should be on the screen:\n{self.text()}",
        )

    def wait_ended(self) -> int:
        """Waits for the end of the program; its exit code."""
        wait_for(lambda: [self.lines()] if self.process.poll() is not None else [], "the program ends", PATIENCE)
        self.lines()
        return self.process.returncode

    def was_full(self) -> bool:
        """Whether the program has taken the whole screen."""
        return _ENTER in self._written

    def is_restored(self) -> bool:
        """Whether the terminal is as it was: its modes, its screen, its cursor."""
        modes = termios.tcgetattr(self._slave) == self._before
        screen = self._written.rfind(_LEAVE) >= self._written.rfind(_ENTER)
        return modes and screen and self._written.rfind(_SHOW) >= self._written.rfind(_HIDE)

    def after(self) -> list[str]:
        """What the program has printed since it gave the screen back."""
        return self._written.rpartition(_LEAVE)[2].replace(_SHOW, b"").decode().split("\r\n")

    def close(self) -> None:
        """Ends what still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        os.close(self._master)
        os.close(self._slave)
