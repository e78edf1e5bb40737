"""Starting programs so that nothing of them is left, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from measure import MARK, marked_processes

#: Seconds that processes get to end after each way of asking.
PATIENCE = 8.0


class MeasurementError(Exception):
    """A measurement failed; the text says which program and what it said last."""


class Job:
    """A program with everything that it starts, known by a mark in their environment.

    `with Job(...)` ends them all: first as `stop` says, then by SIGTERM, then by SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        stop: Callable[[subprocess.Popen[bytes]], None] | None = None,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.log = log
        #: Seconds that its end took, once it was asked to end.
        self.ending = 0.0
        self._stop = stop
        with log.open("wb") as output:
            self.spawned = time.monotonic()
            try:
                self.process = subprocess.Popen(
                    command,
                    env={**environment, MARK: self.mark},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise MeasurementError(f"{command[0]} does not start: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._stop is not None and self.process.poll() is None:
                begin = time.monotonic()
                self._stop(self.process)
                self._ended(PATIENCE)
                self.ending = time.monotonic() - begin
        finally:
            self._kill()

    def _kill(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for pid in marked_processes(self.mark):
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    continue
            if self._ended(PATIENCE):
                return

    def _ended(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.process.poll()
            if not marked_processes(self.mark):
                self.process.wait()
                return True
            time.sleep(0.05)
        return False

    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.spawned

    def said(self) -> str:
        """The last lines of its output."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]


def wait_for_end(job: Job, seconds: float, *, while_running: Job | None = None) -> None:
    """Waits until `job` has ended well; an error when it fails, takes too long, or the other job ends before it."""
    end = job.spawned + seconds
    while job.process.poll() is None:
        if while_running is not None and while_running.process.poll() is not None:
            raise MeasurementError(f"the cluster ended with {while_running.process.returncode}: {while_running.said()}")
        if time.monotonic() > end:
            raise MeasurementError(f"it took more than {seconds:.0f} s: {job.said()}")
        time.sleep(0.002)
    if job.process.returncode != 0:
        raise MeasurementError(f"it ended with {job.process.returncode}: {job.said()}")


def figures(job: Job) -> dict[str, Any]:
    """The last JSON object that a measuring program printed; empty if there is none."""
    for line in reversed(job.log.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            try:
                found: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            return found
    return {}


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)
