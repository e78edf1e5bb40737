"""Jobs of Slurm's: what it says of them, and how they end. `said` calls a command, and gives back what it prints."""

from __future__ import annotations

from collections.abc import Callable

from .waiting import wait_for

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")

Said = Callable[..., str]


def describe(said: Said, job: str) -> dict[str, str]:
    """What Slurm knows of a job."""
    shown = said("scontrol", "--oneliner", "show", "job", job)
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def wait_state(said: Said, job: str, *states: str, outputs: Callable[[], str] = str) -> dict[str, str]:
    """What Slurm knows of a job when it is in one of these states; `outputs`: what there is to see if it never is."""
    what: dict[str, str] = {}

    def is_there() -> bool:
        what.update(describe(said, job))
        return what["JobState"] in states

    wait_for(is_there, lambda: f"job {job} is {' or '.join(states)}: {what}\n{outputs()}", 150, pause=0.1)
    return what


def wait_ended(said: Said, job: str, outputs: Callable[[], str] = str) -> dict[str, str]:
    """What Slurm knows of a job when it is over."""
    return wait_state(said, job, *ENDED, outputs=outputs)


def start_soon(said: Said, job: str) -> None:
    """Lets a job that was put back start again, for which Slurm would wait two minutes."""
    # Not at once: a node takes a start in the second of the end for the one that it has ended ("credential revoked").
    said("scontrol", "update", f"JobId={job}", "StartTime=now+2")
