"""A real sshd for this user alone, and an ssh that knows it as ``login``."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from .waiting import wait_for

_SERVER = """\
Port {port}
ListenAddress {address}
HostKey {base}/host
AuthorizedKeysFile {base}/user.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin yes
"""
_CLIENT = """\
IdentityFile {base}/user
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def missing() -> str:
    """Why there can be no sshd here, or nothing."""
    absent = [name for name in ("sshd", "ssh", "ssh-keygen") if find_daemon(name) is None]
    return f"there is no {', '.join(absent)} here" if absent else ""


def write_settings(base: Path, address: str, port: int) -> None:
    """Keys, ``sshd_config`` of a server on this address and port, and ``ssh_config`` of a user whom it lets in."""
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)]
        subprocess.run(keygen, check=True, timeout=60)
    for name, text in (("sshd_config", _SERVER), ("ssh_config", _CLIENT)):
        (base / name).write_text(text.format(base=base, address=address, port=port))


class Sshd:
    """Started at once, in `base`. `command`: the ssh that finds it."""

    def __init__(self, base: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        write_settings(base, "127.0.0.1", self.port)
        with (base / "ssh_config").open("a") as settings:
            settings.write(f"Host login\n    HostName 127.0.0.1\n    Port {self.port}\n")
        Path("/run/sshd").mkdir(exist_ok=True)  # where it wants to be when root starts it
        self.command = f"ssh -F {base / 'ssh_config'}"
        self._log = base / "sshd.log"
        with self._log.open("wb") as log:
            program = [find_daemon("sshd") or "sshd", "-D", "-e", "-f", str(base / "sshd_config")]
            self._process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._listens, lambda: f"sshd listens: {self._log.read_text()}")

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(20)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def find_daemon(name: str) -> str | None:
    """The path of a program that may stand where users do not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
