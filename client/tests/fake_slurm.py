"""Programs of Slurm's that say what files say: ``scontrol``, ``squeue``, ``sacct`` and the like, on PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path

# A program prints the file of its name and, after what `then` has written there, a later one.
PROGRAM = """#!/bin/sh
echo "$(basename $0) $@" >> "{base}/calls"
for said in "{base}/$(basename $0)".*; do
    case $said in *.code) continue ;; esac
    next=$said
    break
done
[ -e "$next" ] || exit 0
code=$(cat "$next.code")
if [ "$code" = 0 ]; then cat "$next"; else cat "$next" >&2; fi
[ "$(echo "{base}/$(basename $0)".*.code | wc -w)" = 1 ] || rm "$next" "$next.code"
exit "$code"
"""

JOB = """\
JobId={id} JobName=pxcluster
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   Priority=0 Nice=0 Account=(null) QOS=(null)
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={code}:0
   RunTime=00:00:00 TimeLimit=UNLIMITED TimeMin=N/A
   Partition=main AllocNode:Sid=localhost:13599
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList={nodes}
   Comment=JobState=by hand
   WorkDir=/tmp
   StdErr={log}
   StdIn=/dev/null
   StdOut={log}
   Power=
"""

UNKNOWN = "slurm_load_jobs error: Invalid job id specified"


def job(number, state, reason="None", nodes="(null)", log="/nowhere/out", code=0):
    """What ``scontrol show job`` prints of a job."""
    return JOB.format(id=number, state=state, reason=reason, nodes=nodes, log=log, code=code)


class FakeSlurm:
    """Programs in a folder; `says` gives one of them its answers, the last of which stays."""

    def __init__(self, base: Path, monkeypatch) -> None:
        self._base = base / "slurm"
        self._programs = self._base / "bin"
        self._programs.mkdir(parents=True)
        for name in ("scontrol", "squeue"):
            self.install(name)
        monkeypatch.setenv("PATH", f"{self._programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
        self._hide("sacct")

    def install(self, name):
        """Put a program there."""
        program = self._programs / name
        program.write_text(PROGRAM.format(base=self._base))
        program.chmod(0o755)

    def _hide(self, name):
        """A program of this host's own does not count: there is no accounting."""
        self.install(name)
        self.says(name, (1, "Slurm accounting storage is disabled"))

    def says(self, name, *answers):
        """What a program prints at each call, a text or (exit code, text on standard error)."""
        for old in self._base.glob(f"{name}.*"):
            old.unlink()
        for number, answer in enumerate(answers):
            code, text = (0, answer) if isinstance(answer, str) else answer
            (self._base / f"{name}.{number:03}").write_text(text)
            (self._base / f"{name}.{number:03}.code").write_text(str(code))

    def calls(self):
        """Command lines so far."""
        file = self._base / "calls"
        return file.read_text().splitlines() if file.exists() else []


def publish(path, info):
    """Write a connection file as a controller does: whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(".new")
    draft.write_text(json.dumps(info))
    draft.chmod(0o600)
    draft.rename(path)
