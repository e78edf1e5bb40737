"""Starts a run in a process of its own, and ends it with evidence when it takes too long."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.processes import processes_with
from harness.waiting import wait_for

from . import evidence
from .report import Outcome

#: Every process of a run has it in its environment: the run's folder.
FOLDER = "CHAOS_FOLDER"
#: Seconds after which a run hangs. They take less than ten.
LIMIT = 180.0


def run_seed(seed: int, kills: int | None = None, limit: float = LIMIT) -> Outcome:
    """One run; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="px-chaos-"))
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "chaos.session", str(seed), *([] if kills is None else [str(kills)])]
    env = {**os.environ, FOLDER: str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(tests)}
    log = folder / "session.log"
    try:
        with log.open("w") as output:
            session = subprocess.Popen(
                command, cwd=tests, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                session.wait(limit)
            except subprocess.TimeoutExpired:
                breach = f"it did not end within {limit:.0f} seconds"
                return Outcome(seed, limit, hang=True, breaches=[breach], evidence=evidence.gather(FOLDER, folder))
            finally:
                _kill(folder)
                session.wait()
        return _outcome(seed, session.returncode, log.read_text(errors="replace"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(seed: int, code: int, log: str) -> Outcome:
    for line in reversed(log.splitlines()):
        if line.startswith('{"seed"'):
            return Outcome(**json.loads(line))
    return Outcome(seed, breaches=[f"the session ended with {code} and no outcome"], evidence=log[-6000:])


def _kill(folder: Path) -> None:
    """Whatever still runs."""

    def killed() -> bool:
        left = processes_with(FOLDER, str(folder))
        for process in left:
            process.kill()
        return not left

    wait_for(killed, "processes end that were killed")
