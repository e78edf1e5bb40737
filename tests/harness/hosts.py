"""Several hosts on one machine: ranks that are started under other host names, as MPI's launchers start them by ssh.

MPI takes ranks of different names for ranks that share no memory, and so does the cluster: each host has a shared file
of its own. Processes, files and network are the machine's.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What the launchers call in the place of ssh: options, host, command. Sets the host's variables.
_AGENT = """\
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
case $host in
%s
esac
exec unshare --uts sh -c 'hostname "$0" && exec sh -c "$*"' "$host" "$@"
"""


class Hosts:
    """This machine, where rank 0 runs, and others: `launcher` starts `ranks` ranks on each.

    `env`: by host, variables of its ranks. Files are made in `folder`.
    """

    def __init__(
        self, folder: Path, others: Sequence[str], ranks: int, env: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.names = [socket.gethostname(), *others]
        self.engines = ranks * len(self.names) - 1
        settings = [
            f"{host}) export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()) + " ;;"
            for host, variables in (env or {}).items()
        ]
        agent = folder / "ssh-to-nowhere"
        agent.write_text(_AGENT % "\n".join(settings))
        agent.chmod(0o755)
        places = ",".join(f"{name}:{ranks}" for name in self.names)
        if is_hydra():
            self.launcher = ("mpirun", "-launcher", "ssh", "-launcher-exec", str(agent), "-hosts", places)
        else:
            options = ("--mca", "plm_rsh_agent", str(agent), "--bind-to", "none", "--map-by", "slot", "--host", places)
            self.launcher = ("mpirun", *options)


def is_hydra() -> bool:
    """Whether mpirun is MPICH's."""
    said = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, timeout=60, check=True)
    return "HYDRA" in said.stdout


def missing() -> str:
    """Why there can be no other hosts here, or nothing."""
    if os.getuid() != 0:
        return "other host names need root"
    renamed = "hostname elsewhere && hostname"
    try:
        said = subprocess.run(
            ["unshare", "--uts", "sh", "-c", renamed], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError as problem:
        return f"other host names need unshare: {problem}"
    return "" if said.stdout == "elsewhere\n" else f"unshare gives no other host name here: {said.stderr.strip()}"
