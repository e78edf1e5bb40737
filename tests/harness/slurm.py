"""A real Slurm of one node, private to the tests: munged, slurmctld and slurmd as children of this process."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

from .waiting import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo", "sbatch", "salloc", "scontrol", "scancel")
_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

_CONFIGURATION = """\
ClusterName=pxtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge/socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PlugStackConfig={base}/plugstack.conf
StateSaveLocation={base}/state
SlurmctldPidFile={base}/slurmctld.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdPidFile={base}/slurmd.pid
SlurmdLogFile={base}/slurmd.log
SlurmdSpoolDir={base}/spool
KillWait=5
ReturnToService=2
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=16 Sockets=1 CoresPerSocket=16 Gres=gpu:2 \
 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=9 MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here, or nothing."""
    if os.getuid() != 0:
        return "a private Slurm needs root"
    absent = [name for name in PROGRAMS if _find(name) is None]
    return f"Slurm is not installed here: there is no {', '.join(absent)}" if absent else ""


class Slurm:
    """Started by `start`; `environment` is for those who use it."""

    def __init__(self) -> None:
        # Short: the path of a Unix socket may have 107 bytes only.
        self.base = Path(tempfile.mkdtemp(prefix="px-slurm-"))
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {"SLURM_CONF": str(self.base / "slurm.conf")}

    def start(self) -> Slurm:
        """Starts everything, and waits until the node is idle."""
        self.base.chmod(0o755)
        for name in ("munge", "state", "spool"):
            (self.base / name).mkdir(mode=0o711)
        key = self.base / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        munge = self.base / "munge"
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._run("munged", "-F", "--force", *(f"--{option}={munge / name}" for option, name in names.items()))
        wait_for((munge / "socket").exists, self._logs)
        (self.base / "plugstack.conf").touch()
        (self.base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not used, but looked for
        for number in range(2):
            os.mknod(self.base / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # any device will do
        (self.base / "gres.conf").write_text(f"Name=gpu File={self.base}/gpu[0-1]\n")
        host = socket.gethostname().partition(".")[0]
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        (self.base / "slurm.conf").write_text(_CONFIGURATION.format(base=self.base, host=host, **ports))
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D", "-N", "n1")
        wait_for(self._is_idle, self._logs, 60)
        return self

    def stop(self) -> None:
        """Ends everything."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.base)

    def _run(self, name: str, *arguments: str) -> None:
        with (self.base / f"{name}.out").open("wb") as output:
            program = _find(name) or name
            env = {**os.environ, **self.environment}
            self._daemons.append(
                subprocess.Popen(
                    [program, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd="/"
                )
            )

    def _is_idle(self) -> bool:
        env = {**os.environ, **self.environment}
        command = [_find("sinfo") or "sinfo", "--noheader", "--format=%t"]
        said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        return said.stdout.strip() == "idle"

    def _logs(self) -> str:
        texts = [f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in self.base.glob("*.out")]
        return "Slurm is ready; " + "\n".join(texts)


def _find(name: str) -> str | None:
    return shutil.which(name, path=_SEARCHED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
