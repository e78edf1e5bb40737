"""What Slurm says of a batch job. Its programs are asked; what they print is understood apart from that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: How long one of Slurm's programs may take, seconds.
_TIMEOUT = 10.0

#: States of a job that will run, or runs (squeue(1), JOB STATE CODES).
_GOES_ON = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"),
        *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"),
    )
)
#: How others have ended.
_ENDS = {
    "COMPLETED": "has ended",
    "CANCELLED": "was cancelled",
    "TIMEOUT": "has reached its time limit",
    "DEADLINE": "has reached its deadline",
    "NODE_FAIL": "has lost a node",
    "BOOT_FAIL": "was given nodes that do not boot",
    "OUT_OF_MEMORY": "has used more memory than it asked for",
    "PREEMPTED": "was preempted by another job",
    "REVOKED": "was taken over by another Slurm cluster",
}
#: Reasons that do not go away by waiting (squeue(1), JOB REASON CODES), and the mend.
_HINTS = {
    "JobHeldUser": "`scontrol release{id}` lets it go",
    "JobHeldAdmin": "an administrator has to release it",
    "PartitionTimeLimit": "its partition allows less time: ask for less",
    "PartitionNodeLimit": "its partition has fewer nodes: ask for less",
    "PartitionDown": "its partition takes no jobs at the moment",
    "PartitionInactive": "its partition takes no jobs at the moment",
    "BadConstraints": "no node is as it wants",
    "DependencyNeverSatisfied": "what it waits for has failed",
    "InvalidAccount": "ask for another account",
    "InvalidQOS": "ask for another QOS",
    "AssocMaxWallDurationPerJobLimit": "your account allows less time: ask for less",
    "QOSMaxWallDurationPerJobLimit": "its QOS allows less time: ask for less",
}


class NoAnswer(Exception):
    """Slurm does not answer at the moment. Says what its program has said."""


@dataclass(frozen=True)
class Job:
    """A job as Slurm sees it now. `log`: where its output goes, or nothing; `code`: its exit code, if it has one."""

    id: str
    state: str
    reason: str = ""
    nodes: str = ""
    log: str = ""
    code: int = 0
    signal: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether it runs or will run."""
        return self.state in _GOES_ON

    @property
    def is_waiting(self) -> bool:
        """Whether it has yet to begin, perhaps once more."""
        return self.goes_on and self.state not in ("RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING")

    def sentence(self) -> str:
        """``pending (Resources)``, ``running on n[001-004]``, ``was cancelled``."""
        if self.state == "RUNNING":
            return f"running on {self.nodes}"
        if self.goes_on:
            state = self.state.lower().replace("_", " ")
            return f"{state} ({self.reason}{hint(self.id, self.reason)})" if self.reason else state
        if self.state == "COMPLETING":
            return _ENDS["TIMEOUT"] if self.reason == "TimeLimit" else "is ending"
        if self.state == "FAILED":
            return f"was ended by signal {self.signal}" if self.signal else f"has failed with exit code {self.code}"
        return _ENDS.get(self.state, f"has ended ({self.state.lower()})")


def hint(job: str, reason: str) -> str:
    """What to do about a reason that waiting does not mend, behind a colon, or nothing."""
    found = _HINTS.get(reason)
    return ": " + found.format(id=f" {job}" if job else "") if found else ""


def is_here() -> bool:
    """Whether Slurm's programs are on this host."""
    return shutil.which("scontrol") is not None


def ask(job: str, timeout: float = _TIMEOUT) -> Job | None:
    """What Slurm knows of a job, from its records when it has left the queue; None: nothing. NoAnswer."""
    code, printed, said = _run(["scontrol", "show", "job", job], timeout)
    if code == 0:
        return parse_job(job, printed)
    if "invalid job id" not in said.lower():
        raise NoAnswer(said.strip().rpartition("\n")[2] or f"scontrol ended with {code}")
    if shutil.which("sacct") is None:
        return None
    fields = ["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode,NodeList"]
    try:
        _, printed, _ = _run(["sacct", *fields, "--jobs", job], timeout)
    except NoAnswer:
        return None
    return parse_record(job, printed)


def find(log: str, timeout: float = _TIMEOUT) -> str | None:
    """The id of the latest job of this user whose output goes to the file `log`."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--Format=JobID:|,STDOUT:|"]
    try:
        _, printed, _ = _run(command, timeout)
    except NoAnswer:
        return None
    return parse_outputs(printed).get(log)


def parse_job(job: str, printed: str) -> Job | None:
    """The record of `job` among those that ``scontrol show job`` has printed, several for an array."""
    for record in re.split(r"\n\s*\n", printed):
        found = re.match(r"JobId=(\d+)\s", record)
        if found is None or found[1] != job:
            continue
        lines = [line.strip() for line in record.splitlines()]
        state = next((line for line in lines if line.startswith("JobState=")), "")
        code = re.search(r" ExitCode=(\d+):(\d+)", record)
        return Job(
            job,
            _word(state, "JobState"),
            "" if (reason := _word(state, "Reason")) == "None" else reason,
            "" if (nodes := _rest(lines, "NodeList=")) == "(null)" else nodes,
            _rest(lines, "StdOut="),
            *((int(code[1]), int(code[2])) if code else ()),
        )
    return None


def parse_record(job: str, printed: str) -> Job | None:
    """The last line that ``sacct --parsable2 --format=State,ExitCode,NodeList`` has printed: that of the last run."""
    for line in reversed(printed.splitlines()):
        found = re.fullmatch(r"(\w+)\+?(?: by \d+)?\|(\d+):(\d+)\|(.*)", line.strip())
        if found is not None:
            return Job(job, found[1], "", found[4], "", int(found[2]), int(found[3]))
    return None


def parse_outputs(printed: str) -> dict[str, str]:
    """Latest jobs by the files of their output, as ``squeue --Format='JobID:|,STDOUT:|'`` has printed them."""
    lines = (line.split("|") for line in printed.splitlines())
    found = sorted((int(fields[0]), fields[1]) for fields in lines if len(fields) > 2 and fields[0].isdigit())
    return {log: str(job) for job, log in found}


def _word(line: str, name: str) -> str:
    found = re.search(rf"(?:^| ){name}=(\S+)", line)
    return found[1] if found else ""


def _rest(lines: Sequence[str], start: str) -> str:
    return next((line.removeprefix(start) for line in lines if line.startswith(start)), "")


def _run(command: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit code, standard output and standard error. NoAnswer: it does not run, or takes too long."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} takes longer than {timeout:g} seconds") from None
    except OSError as problem:
        raise NoAnswer(f"{command[0]} cannot be run: {problem.strerror}") from None
    return done.returncode, done.stdout, done.stderr
