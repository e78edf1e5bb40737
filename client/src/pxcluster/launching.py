"""From a Cluster's arguments to command lines of ``pxcluster``, and from what it prints to exceptions. Pure."""

from __future__ import annotations

import operator
import os
import random
import re
import string
from collections.abc import Mapping

from . import slurmjobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_KINDS = ("mpi", "local", "slurm")
#: A kind, or the name of the class that launches it in ipyparallel.
_LAUNCHER = re.compile(r"(?:[\w.]*\.)?(?P<kind>[a-z]+?)(?:(?:engineset|controller)(?:launcher)?)?", re.IGNORECASE)
_TOO_SLOW = re.compile(r"the cluster was not ready after|job \d+ runs, but its cluster was not ready after")
_FLAG = re.compile(r"-{0,2}[A-Za-z][\w-]*")
#: What options have no say in, and what has; what makes no cluster of a job.
_OURS = {
    "n": "Cluster(n=…) says how many engines there are",
    "engines": "Cluster(n=…) says how many engines there are",
    "cluster-id": "Cluster(cluster_id=…) is the name",
    "timeout": "Cluster(engine_timeout=…) is the time in which engines must be ready",
    **dict.fromkeys(
        ("python", "port", "interface", "advertise", "log", "hung-after", "lost-after", "grace", "no-nanny"),
        "it is one of pxcluster, for controller_args",
    ),
}
_ALIEN = frozenset(
    ("array", "a", "wrap", "parsable", "test-only", "help", "h", "usage", "version", "V", "print", "wait")
)
#: What ``pxcluster submit --wait`` says now and then: what is waited for, and how long already.
_STATE = re.compile(r"(?:pxcluster: )?(?P<state>.*?(?:\((?P<reason>\w+)\))?), \d+:\d\d")
_SUFFIX = string.ascii_lowercase + string.digits


def new_cluster_id(now: float) -> str:
    """A name that no other cluster has: Unix seconds and four random characters."""
    return f"{int(now)}-{''.join(random.choices(_SUFFIX, k=4))}"


def parse_kind(argument: str, name: Any, launcher_class: Any = None) -> str:
    """What `argument`, or its long form, says: ``"mpi"``, ``"local"`` or ``"slurm"``, or a launcher class of that name.

    ValueError: anything else; TypeError: both are given.
    """
    if name is not None and launcher_class is not None:
        long = f"{argument.removesuffix('s')}_launcher_class"
        raise TypeError(f"Only specify one of {argument!r} or {long!r}, not both")
    given = name or launcher_class or "mpi"
    match = _LAUNCHER.fullmatch(given if isinstance(given, str) else getattr(given, "__name__", str(given)))
    kind = match["kind"].lower() if match else ""
    if kind not in _KINDS:
        raise ValueError(
            f"{argument}={given!r} is not there, as a cluster is one MPI program: take 'mpi' ('local' is the same; "
            "controller_args=['--hostfile', FILE] for several hosts) or 'slurm'; in a job of "
            "another batch system run `pxcluster start`, and Cluster.from_file() finds its cluster"
        )
    return kind


def is_submitted(kind: str, options: Mapping[str, Any] | None, environment: Mapping[str, str]) -> bool:
    """Whether a cluster is a batch job of its own: one of Slurm's, but for the allocation that `environment` is in."""
    return kind == "slurm" and (options is not None or not environment.get("SLURM_JOB_ID"))


def check_options(kind: str, options: Any) -> dict[str, Any] | None:
    """Flags of sbatch by name. TypeError, ValueError: they are for something else, or cannot be flags."""
    if options is None:
        return None
    if kind != "slurm":
        raise ValueError(f"options are flags of sbatch, for engines='slurm', not for engines={kind!r}")
    if not isinstance(options, Mapping):
        raise TypeError(f"options is a dict of sbatch's flags, such as {{'partition': 'compute'}}, not {options!r}")
    for name, value in options.items():
        _check_option(name, value)
    return dict(options)


def _check_option(name: Any, value: Any) -> None:
    if not isinstance(name, str) or not _FLAG.fullmatch(name):
        raise ValueError(f"options has {name!r}, which is no flag of sbatch (see `man sbatch`)")
    bare = name.lstrip("-").replace("_", "-")
    if bare in _OURS:
        raise ValueError(f"options[{name!r}] is no flag of sbatch: {_OURS[bare]}")
    if bare in _ALIEN:
        raise ValueError(f"options[{name!r}] does not go with a cluster, which is one job that runs: leave it out")
    if value is not None and not isinstance(value, bool | str | int | float | os.PathLike):
        raise TypeError(f"options[{name!r}] is a text or a number, or True for a flag without a value, not {value!r}")
    if any(character in str(value) for character in "\n\r\0"):
        raise ValueError(f"options[{name!r}] is one line of a batch script, which {value!r} is not")


def sbatch_flags(options: Mapping[str, Any]) -> list[str]:
    """``{"time": "1:00:00", "p": "compute", "exclusive": True}`` as flags; False and None leave one out."""
    flags = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        flag = name if name.startswith("-") else f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        else:
            flags += [flag, str(value)] if len(flag) == 2 else [f"{flag}={value}"]
    return flags


def submit_command(
    program: str,
    cluster_id: str,
    n: int | None,
    timeout: float,
    python: str,
    args: Sequence[str],
    options: Mapping[str, Any],
) -> list[str]:
    """``pxcluster submit --wait``, as :func:`start_command`; `options`: flags of sbatch by name."""
    start = start_command(program, cluster_id, n, timeout, python, args)
    return [program, "submit", "--wait", *start[2:], *sbatch_flags(options)]


def start_command(
    program: str, cluster_id: str, n: int | None, timeout: float, python: str, args: Sequence[str]
) -> list[str]:
    """``pxcluster start``: `n` engines (None: as many as there is room for) that run `python` unless `args` say else.

    `timeout`: seconds until every engine must be ready. `args`: more flags of ``pxcluster start``.
    """
    command = [program, "start", "--cluster-id", cluster_id]
    if n is not None:
        command += ["-n", str(n)]
    given = [argument.partition("=")[0] for argument in args]
    if "--timeout" not in given:
        command += ["--timeout", f"{timeout:g}"]
    if python and "--python" not in given:
        command += ["--python", python]
    return [*command, *args]


def stop_command(program: str, cluster_id: str) -> list[str]:
    """``pxcluster stop``."""
    return [program, "stop", "--cluster-id", cluster_id]


def check_n(n: Any) -> int | None:
    """A number of engines, or None. ValueError, TypeError."""
    if n is None:
        return None
    number = operator.index(n)
    if number < 1:
        raise ValueError(f"n={number}: a cluster has at least one engine, or n=None for as many as there is room for")
    return number


def check_tasks(n: int | None, options: Mapping[str, Any]) -> None:
    """ValueError: `n` engines and a number of tasks are asked for."""
    if n is not None and any(name.lstrip("-") == "ntasks" for name in options):
        raise ValueError(f"n={n} engines are {n + 1} tasks of the job: leave ntasks out of the options, or n")


def parse_state(line: str) -> str | None:
    """What a line of ``pxcluster submit --wait`` says of the job, and what to do about it; None: it is another line."""
    found = _STATE.fullmatch(line)
    if found is None:
        return None
    state, more = found["state"], slurmjobs.hint("", found["reason"] or "")
    return f"{state[:-1]}{more})" if more else state


def failure_of(code: int, said: str) -> Exception:
    """What to raise when ``pxcluster`` ended with `code`, and `said` so on standard error."""
    lines = (line for line in said.splitlines(keepends=True) if parse_state(line.rstrip()) is None)
    text = "".join(lines).strip().removeprefix("pxcluster: ").removeprefix("error: ")
    if code == 2:  # its flags make no sense
        first = " ".join(text.partition("\n\n")[0].split())
        return ValueError(f"{first}: controller_args are flags of `pxcluster start` (see `pxcluster start --help`)")
    if code < 0:
        return RuntimeError(f"pxcluster was ended by signal {-code}" + (f": {text}" if text else ""))
    if _TOO_SLOW.match(text):
        return TimeoutError(text.replace("--timeout gives", "engine_timeout= gives", 1))
    return RuntimeError(text or f"pxcluster ended with exit code {code} and said nothing")
