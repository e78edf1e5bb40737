"""Why nobody answers where a connection file leads: its controller is gone, its job is over, the way is blocked."""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .slurmjobs import Job

#: How far the clock may have been set since the cluster was ready, seconds.
_CLOCK_SLACK = 5.0
#: While calls wait to be told of the end, Slurm may take so long, seconds.
_LAST_WORD = 3.0


class JobWaits(ConnectionRefusedError):
    """The file is of a former run of a job that is in the queue again."""


def gone_here(info: Mapping[str, Any]) -> str | None:
    """Why the controller is gone, if it was on this host and is seen to be; never wrongly, perhaps too late."""
    pid = info["pid"]
    if info["host"] != socket.gethostname():
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            raise FileNotFoundError
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return f"its controller (process {pid} on {info['host']}) is gone"
    except (OSError, IndexError):
        return None
    began = _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    # A clock that was set since would make it look younger, but not another program.
    if began > info.get("started", began) + _CLOCK_SLACK and b"pxcluster" not in argv:
        return f"its controller is gone (process {pid} on {info['host']} is another program by now)"
    return None


def _boot_time() -> float:
    with open("/proc/stat", "rb") as file:
        return next((float(line.split()[1]) for line in file if line.startswith(b"btime ")), 0.0)


def job_of(info: Mapping[str, Any], timeout: float = 10.0) -> tuple[str, Job | None] | None:
    """The job of the cluster and what Slurm says of it, perhaps nothing. None: no job, or nobody to be asked."""
    job = info.get("slurm_job_id")
    if not isinstance(job, str) or not job.isdigit():
        return None
    from . import slurmjobs  # here, because most clients never need it and what it loads takes long

    if not slurmjobs.is_here():
        return None
    try:
        return job, slurmjobs.ask(job, timeout)
    except slurmjobs.NoAnswer:
        return None


def check_job(info: Mapping[str, Any], shown: str) -> None:
    """Raise ConnectionRefusedError if the cluster's job is over, JobWaits if it has yet to begin once more."""
    asked = job_of(info)
    if asked is None:
        return
    number, job = asked
    if job is not None and job.is_waiting:
        raise JobWaits(
            f"connection file {shown} is stale: job {number} was put back into the queue and is {job.sentence()}; its "
            "clients can connect when it runs"
        )
    if job is None or not job.goes_on:
        how = "is not known to Slurm any more" if job is None else job.sentence()
        raise ConnectionRefusedError(
            f"connection file {shown} is stale: job {number}, which had the cluster, {how}; submit a job again, and "
            f"remove {shown} if its cluster has the same name"
        )


def last_word(info: Mapping[str, Any], reason: str) -> str:
    """The reason that a controller gives for its end, and what has ended its job, if it was told to end."""
    if "SIG" in reason:
        asked = job_of(info, _LAST_WORD)
        job = asked[1] if asked is not None else None
        if job is not None and not job.goes_on and job.state != "COMPLETED" and job.sentence() != "is ending":
            return f"{reason}; job {job.id} {job.sentence()}"
    return reason
