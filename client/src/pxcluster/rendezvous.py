"""Waiting for a connection file that is not there yet, as long as something shows that it will be.

What shows it: the cluster's job in Slurm's queue, the signs of ``starting.py``, or a caller who gives a time. While it
is waited for, one line says why; what can never come is told at once.
"""

from __future__ import annotations

import math
import os
import re
import time
from typing import Any

from . import connection, stale, starting
from .progress import StatusLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .slurmjobs import Job

#: How long is waited where there is a reason and nobody has said how long, seconds.
PATIENCE = 10.0
#: How long a connection may take, with or without a file that is waited for, seconds.
_SHORTEST, _LONGEST = 1.0, 60.0
#: How often the file, the signs of a start, and Slurm are looked at, seconds; Slurm less often after a while.
_LOOK, _LOOK_FOR_SIGNS, _ASK_FIRST, _ASK_LATER = 0.05, 0.2, 1.0, 5.0
_AT_FIRST = 20.0
_STARTING = "its engines are starting"
#: So many clusters are named when the wanted one is not there.
_NAMED = 8


def join(path: str, timeout: float | None, connect: Callable[[dict[str, Any], float], None]) -> None:
    """Wait for the connection file at `path` and call `connect` with its content and the seconds that it may take.

    `timeout`: seconds to wait for the file; negative or infinite: for ever; None: ten where something shows that it
    will come. OSError, ValueError, VersionMismatch, and what `connect` raises.
    """
    limit = math.inf if timeout is not None and timeout < 0 else timeout
    seconds = seconds_of(timeout)
    info = wait_for(path, limit)
    try:
        connect(info, seconds)
    except stale.JobWaits as problem:
        if limit == 0:
            raise
        connect(wait_for(path, limit, former=info, why=problem), seconds)


def seconds_of(timeout: float | None) -> float:
    """How long a connection may take when somebody waits up to `timeout` for the connection file."""
    if timeout is None:
        return PATIENCE
    return _LONGEST if timeout < 0 else min(max(timeout, _SHORTEST), _LONGEST)


def wait_for(
    path: str, timeout: float | None, former: Mapping[str, Any] | None = None, why: Exception | None = None
) -> dict[str, Any]:
    """Read the connection file, waiting up to `timeout` seconds until it is there; None as of :func:`join`.

    `former`: the content of a file that does not count, `why` the reason. OSError: it is not there in time, or
    never will be; ValueError, VersionMismatch: it cannot be used.
    """
    if former is None and os.path.exists(path):
        return connection.read(path)
    watch = _Watch(path, former)
    with StatusLine() as line:
        while not watch.is_there():
            reason = watch.reason()
            if watch.is_there():
                break
            if reason is None and timeout is None:
                raise watch.nothing()
            if time.monotonic() - watch.begun >= (PATIENCE if timeout is None else timeout):
                raise watch.too_late(reason) from why
            line.show(reason or f"Waiting for connection file: {connection.shorten(path)}")
            time.sleep(_LOOK)
    return connection.read(path)


class _Watch:
    """What is known of a cluster that has no connection file, looked at from time to time."""

    def __init__(self, path: str, former: Mapping[str, Any] | None) -> None:
        from . import slurmjobs  # here, because most clients never need it and what it loads takes long

        self._path = path
        self._former = former
        self._directory = os.path.dirname(os.path.abspath(path))
        self._log = os.path.join(self._directory, "log")
        self.name = os.path.basename(self._directory)
        self.begun = time.monotonic()
        self._asks = slurmjobs.is_here()
        found = re.fullmatch(r"job-(\d+)", self.name)
        #: Its job, if it is known which.
        self._number: str | None = former["slurm_job_id"] if former else found[1] if found else None
        self._job: Job | None = None
        self._asked = self._looked = -math.inf
        self._queue: str | None = None
        self._starts = False
        #: Whether there was a sign of a start, and how often there was none since.
        self._begins = False
        self._missed = 0

    def is_there(self) -> bool:
        """Whether the file is there."""
        if self._former is None or not os.path.exists(self._path):
            return os.path.exists(self._path)
        try:
            return bool(connection.read(self._path)["key"] != self._former["key"])
        except FileNotFoundError:
            return False

    def reason(self) -> str | None:
        """Why the file may be expected, None if nothing shows it. OSError: it is certain that it will not come."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_FOR_SIGNS:
            self._looked = now
            self._starts = starting.is_started(self._directory)
            self._missed = 0 if self._starts else self._missed + 1
            self._begins = self._begins or self._starts
        if self._asks and now - self._asked >= (_ASK_FIRST if now - self.begun < _AT_FIRST else _ASK_LATER):
            self._asked = now
            self._queue = self._ask()
        if self._queue is not None:
            runs = self._job is not None and not self._job.is_waiting
            return f"{self._queue}, {_STARTING}" if runs and self._starts else self._queue
        if self._starts or (self._begins and self._missed < 2):  # the file may have come between two looks
            return f"cluster {self.name!r}: {_STARTING}"
        if self._begins and not self.is_there():
            if self._asks:
                self._ask()  # it knows more, if it was a job
            raise OSError(f"cluster {self.name!r} has ended before a client could connect; {self._tail()}")
        return None

    def _ask(self) -> str | None:
        """What Slurm says of the job, None if nobody knows of one. OSError: it is over."""
        from . import slurmjobs

        if self._number is None and os.path.isdir(self._directory):
            self._number = slurmjobs.find(self._log)
        if self._number is None:
            return None
        try:
            job = slurmjobs.ask(self._number)
        except slurmjobs.NoAnswer as problem:
            return f"job {self._number}: Slurm does not answer ({problem})"
        if job is not None and job.goes_on:
            self._job = job
            return f"job {job.id}: {job.sentence()}"
        if self.is_there() or (self._job is None and self._starts):
            return None
        if job is None and self._job is None:
            tail = f"; {self._tail()}" if os.path.exists(self._log) else ""
            raise OSError(
                f"Slurm does not know job {self._number}: it has ended, or there was none; `squeue --me` shows your "
                f"jobs{self._known()}{tail}"
            )
        how = "has ended and is not known to Slurm any more" if job is None else job.sentence()
        self._job = job if job is not None and job.log else self._job or job
        raise OSError(f"job {self._number} {how}, and there is no cluster of it; {self._tail()}")

    def _tail(self) -> str:
        """The end of what the job, or else the start, has printed."""
        log = self._job.log if self._job is not None and self._job.log else self._log
        if self._number is None and not os.path.exists(log):
            return "whatever started it has printed why"
        if not os.path.exists(log):
            return f"its output cannot be read here: `scontrol show job {self._number}` says where it is"
        return starting.tail(log, connection.shorten(log))

    def _known(self) -> str:
        """Which clusters there are, behind a semicolon, or nothing."""
        names = connection.known(os.path.dirname(self._directory))
        if not names:
            return ""
        more = ", …" if len(names) > _NAMED else ""
        return f"; clusters that have a connection file: {', '.join(map(repr, names[:_NAMED]))}{more}"

    def nothing(self) -> OSError:
        """There is no such cluster, and nothing shows that there will be."""
        return FileNotFoundError(
            f"Connection file {connection.shorten(self._path)!r} not found.\n"
            "You have attempted to connect to a pxcluster cluster but no controller could be found, and nothing shows "
            f"that a cluster {self.name!r} is being started{self._known()}.\n"
            "Please start one (pxcluster start -n 4) or name another with cluster_id=; timeout=60 waits for one that "
            "starts elsewhere."
        )

    def too_late(self, reason: str | None) -> OSError:
        """The time is over."""
        waited = f"{time.monotonic() - self.begun:.0f} seconds"
        if reason is None:
            return self.nothing()
        how = f"ipp.Client(cluster_id={self.name!r}, timeout=600) waits longer"
        if self._queue is not None and self._job is not None:
            how += f", `scancel {self._job.id}` takes the job back"
        elif os.path.exists(os.path.join(self._directory, "lock")):
            how += f"; if nobody starts it, remove {connection.shorten(os.path.join(self._directory, 'lock'))}"
        return TimeoutError(f"{reason}: not ready within {waited}; {how}")
