"""Signs that a cluster is being started: its lock, the log of a start under way, a process of this user here."""

from __future__ import annotations

import fcntl
import os
import re
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What is shown of a log.
_TAIL_LINES = 20
_TAIL_BYTES = 8 << 10
_PROGRAMS = ("pxcluster", "pxcluster-rank")
#: Programs that run these.
_RUNNERS = re.compile(r"pxcluster|mpi|srun|orterun|prterun|hydra|python")
#: Those of its commands that start a cluster; anything else behind ``pxcluster`` that is no flag does not.
_STARTS = ("start", "run")


def is_started(directory: str) -> bool:
    """Whether something shows that the cluster with this directory is being started."""
    if os.path.exists(os.path.join(directory, "lock")) or is_locked(os.path.join(directory, "log")):
        return True
    base, name = os.path.split(directory)
    return _is_process(os.path.realpath(base), name)


def is_locked(log: str) -> bool:
    """Whether a ``pxcluster start`` that is under way holds this log. It waits for who looks."""
    try:
        with open(log, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # there is none, or its file system has no locks
    return False


def _is_process(base: str, name: str) -> bool:
    """Whether a process of this user's on this host starts the cluster `name` in the directory `base`."""
    me = os.getuid()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid != me:
                continue
            argv = _words(f"/proc/{pid}/cmdline")
            if not any(os.path.basename(word) in _PROGRAMS for word in argv):
                continue
            environment = dict(word.split("=", 1) for word in _words(f"/proc/{pid}/environ") if "=" in word)
        except OSError:
            continue  # it has ended
        found = started_by(argv, environment)
        if found is not None and (os.path.realpath(found[0]), found[1]) == (base, name):
            return True
    return False


def _words(path: str) -> list[str]:
    with open(path, "rb") as file:
        return os.fsdecode(file.read()).split("\0")


def started_by(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Directory of clusters, and the name of the one that a process starts or is a part of; None if it does not."""
    place = next((i for i, word in enumerate(argv) if os.path.basename(word) in _PROGRAMS), None)
    if place is None or not _RUNNERS.match(os.path.basename(argv[0])):
        return None
    words = [word for word in argv[place + 1 :] if word]
    if words and not words[0].startswith("-") and words[0] not in _STARTS:
        return None
    name = environment.get("PXCLUSTER_CLUSTER_ID") or "default"
    for word, following in pairwise([*words, ""]):
        if word == "--":
            break
        given = re.fullmatch(r"--cluster-id(?:=(.+))?", word)
        if given is not None:
            name = given[1] or following
    home = os.path.join(environment.get("HOME", ""), ".pxcluster")
    return environment.get("PXCLUSTER_DIR") or home, name


def tail(log: str, shown: str) -> str:
    """The end of a log, as the last part of a message; `shown` is how it is called there."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return f"its log {shown} is not there"
    if not lines:
        return f"its log {shown} is empty"
    return f"the end of its log {shown}:\n  " + "\n  ".join(lines[-_TAIL_LINES:])
