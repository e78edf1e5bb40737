"""A real Slurm, private to the tests: munged, slurmctld and slurmd as children of this process.

It has one node, this machine, or those of a rig, whose host ``login`` is the controller's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

from .rig import LOGIN, NODES, Rig
from .ssh import find_daemon
from .waiting import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo", "sbatch", "salloc", "scontrol", "scancel")

_CONFIGURATION = """\
ClusterName=pxtest
SlurmctldHost={controller}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge/socket
SlurmdTimeout={silence}
MessageTimeout={patience}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PlugStackConfig={base}/plugstack.conf
StateSaveLocation={base}/state
SlurmctldPidFile={base}/slurmctld.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdPidFile={base}/slurmd.%n.pid
SlurmdLogFile={base}/slurmd.%n.log
SlurmdSpoolDir={base}/spool.%n
KillWait=5
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs={cpus} Sockets=1 CoresPerSocket={cpus} Gres=gpu:2 State=UNKNOWN
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=9 MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here, or nothing."""
    if os.getuid() != 0:
        return "a private Slurm needs root"
    absent = [name for name in PROGRAMS if find_daemon(name) is None]
    return f"Slurm is not installed here: there is no {', '.join(absent)}" if absent else ""


class Slurm:
    """Started by `start`; `environment` is for those who use it. `rig`: whose nodes it has."""

    def __init__(self, rig: Rig | None = None) -> None:
        # Short: the path of a Unix socket may have 107 bytes only.
        self.base = Path(tempfile.mkdtemp(prefix="px-slurm-", dir=rig and rig.base))
        self.nodes = NODES if rig else ("n1",)
        self.environment = {"SLURM_CONF": str(self.base / "slurm.conf")}
        self._rig = rig
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> Slurm:
        """Starts everything, and waits until all nodes are idle."""
        self.base.chmod(0o755)
        for name in ("munge", "state"):
            (self.base / name).mkdir(mode=0o711)
        key = self.base / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        munge = self.base / "munge"
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        # One for all hosts: its socket is a file that they share.
        options = [f"--{option}={munge / name}" for option, name in names.items()]
        self._run("munged", "-F", "--force", *options, on=LOGIN)
        wait_for((munge / "socket").exists, self._logs)
        (self.base / "plugstack.conf").touch()
        (self.base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not used, but looked for
        for number in range(2):
            os.mknod(self.base / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # any device will do
        (self.base / "gres.conf").write_text(f"Name=gpu File={self.base}/gpu[0-1]\n")
        (self.base / "slurm.conf").write_text(_CONFIGURATION.format(base=self.base, **self._places()))
        self._run("slurmctld", "-D", on=LOGIN)
        for node in self.nodes:
            self._start_node(node)
        if self._rig is not None:
            self._rig.services.append(self._start_node)
        self.wait_idle()
        return self

    def _start_node(self, name: str) -> None:
        self._run("slurmd", "-D", "-N", name, on=name)

    def wait_idle(self) -> None:
        """Until every node is idle, also those whose host had been down."""
        wait_for(lambda: self._states() == ["idle"] * len(self.nodes), self._logs, pause=0.1)

    def stop(self) -> None:
        """Ends everything; what runs on the hosts of a rig ends with them, if it has not yet."""
        for daemon in reversed(self._daemons):
            if daemon.poll() is not None:
                continue  # its host is down
            # On a host of a rig it is a child in the process group of `nsenter`, which hands no signal on.
            os.killpg(daemon.pid, signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
        if self._rig is None:  # else it is removed with the rig
            shutil.rmtree(self.base)

    def _places(self) -> dict[str, str]:
        """What of the configuration depends on where everything runs."""
        if self._rig is None:
            host = socket.gethostname().partition(".")[0]
            node = f"NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()}"
            places = {"controller": f"{host}(127.0.0.1)", "port": str(_free_port()), "nodes": node}
            return places | {"cpus": "16", "silence": "300", "patience": "10"}
        addresses = self._rig.addresses
        nodes = "\n".join(f"NodeName={name} NodeAddr={addresses[name]}" for name in self.nodes)
        places = {"controller": f"{LOGIN}({addresses[LOGIN]})", "port": "6817", "nodes": nodes}
        return places | {"cpus": "4", "silence": "10", "patience": "5"}

    def _run(self, name: str, *arguments: str, on: str | None = None) -> None:
        before = self._rig.enter(on) if self._rig and on else []
        with (self.base / f"{name}.out").open("ab") as output:
            program = [*before, find_daemon(name) or name, *arguments]
            env = {**os.environ, **self.environment}
            self._daemons.append(
                subprocess.Popen(
                    program, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd="/", process_group=0
                )
            )

    def _states(self) -> list[str]:
        before = self._rig.enter(LOGIN) if self._rig else []
        command = [*before, find_daemon("sinfo") or "sinfo", "--noheader", "--Node", "--partition=main", "--format=%t"]
        env = {**os.environ, **self.environment}
        said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        return said.stdout.split()

    def _logs(self) -> str:
        texts = [f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in self.base.glob("*.out")]
        return "Slurm is ready; " + "\n".join(texts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
