"""Several real hosts on one machine: namespaces with a name, an address, an sshd, /tmp and /dev/shm of their own.

They are joined by a bridge in a namespace of its own, so that the machine's network stays as it is, and share all other
directories. The host ``login`` is where a user would sit. Everything ends with this process, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pxcluster import Client

from . import ssh
from .cluster import Site, program
from .processes import Process, children_of, processes_beside
from .waiting import wait_for

LOGIN = "login"
#: Where ranks run.
NODES = ("h1", "h2", "h3")
#: An address of the network that no host has, and for which no host says so.
NOWHERE = "10.77.0.99"
_NETWORK = "10.77.0"
_PROGRAMS = ("unshare", "nsenter", "setpriv", "mount", "timeout")
_TRIAL = (
    "ip link add name one type bridge && ip link add name two type veth peer name three && mount -t tmpfs tmpfs /mnt"
)
_UNSHARE = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
_CLONE_NEWNET = 0x40000000


def missing() -> str:
    """Why there can be no hosts here, or nothing."""
    if os.getuid() != 0:
        return "hosts of their own need root"
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if ssh.find_daemon("ip") is None:
        absent.append("ip")
    if absent:
        return f"hosts of their own need {', '.join(absent)}"
    if reason := ssh.missing():
        return reason
    trial = [*_UNSHARE, "sh", "-c", _TRIAL]
    tried = subprocess.run(trial, env=_environment(), capture_output=True, text=True, timeout=60, check=False)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass
class _Host:
    address: str
    process: subprocess.Popen[bytes]
    init: int  # its first process, as this machine numbers it


class Rig:
    """Started by `start`. `base` is a directory that all hosts share."""

    def __init__(self) -> None:
        # Not below /tmp, which every host has for itself.
        self.base = Path(tempfile.mkdtemp(prefix="px-rig-", dir="/var/tmp"))
        self.addresses = {LOGIN: f"{_NETWORK}.254"} | {n: f"{_NETWORK}.{i}" for i, n in enumerate(NODES, 1)}
        self._hosts: dict[str, _Host] = {}
        self._cut: set[str] = set()
        #: Called with the name of each host that has come up again.
        self.services: list[Callable[[str], None]] = []
        self._switch: subprocess.Popen[bytes] | None = None

    def start(self) -> Rig:
        """Brings all hosts up, and waits until they let users in."""
        self.base.chmod(0o755)
        (self.base / "tmp").mkdir()
        (self.base / "empty").touch(mode=0o600)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (self.base / "hosts").write_text("\n".join([*lines, ""]))
        ssh.write_settings(self.base, "0.0.0.0", 22)
        # `cat` waits on a pipe that nobody writes to.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "cat"]
        self._switch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        command_file = Path(f"/proc/{self._switch.pid}/comm")
        wait_for(lambda: command_file.read_text() == "cat\n", "the switch has a network")
        self._plug("link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
        self._plug("link", "set", "br0", "up")
        for name in self.addresses:
            self.boot(name)
        for name in self.addresses:
            self.wait_up(name)
        return self

    def stop(self) -> None:
        """Ends everything that runs on the hosts, and them."""
        for host in self._hosts.values():
            host.process.kill()
        for name in list(self._hosts):
            self._buried(name)
        if self._switch is not None:
            self._switch.kill()
            self._switch.communicate()
        shutil.rmtree(self.base)

    def boot(self, name: str) -> None:
        """Starts a host that is not up, and does not wait."""
        script = str(Path(__file__).with_name("host.sh"))
        arguments = [script, str(self.base), name, self.addresses[name], *_shared()]
        command = ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, *arguments]
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment())
        wait_for(lambda: children_of(process.pid) or process.poll() is not None, f"{name} has a first process")
        assert process.poll() is None, self._log(name).read_text()
        host = _Host(self.addresses[name], process, children_of(process.pid)[0])
        wait_for(lambda: os.readlink(f"/proc/{host.init}/ns/net") != os.readlink("/proc/self/ns/net"), f"{name} is new")
        # A fixed hardware address: the others would not find a host again that has come back with another one.
        hardware = f"02:00:0a:4d:00:{int(host.address.rpartition('.')[2]):02x}"
        peer = ("peer", "name", "eth0", "address", hardware, "netns", str(host.init))
        self._plug("link", "add", "name", name, "type", "veth", *peer)
        self._plug("link", "set", name, "master", "br0", "up")
        self._hosts[name] = host

    def wait_up(self, name: str) -> None:
        """Until a host lets users in."""
        log = self._log(name)
        wait_for(lambda: "Server listening" in log.read_text(), lambda: f"{name} is up: {log.read_text()}")

    def cut(self, name: str) -> None:
        """Pulls the cable of a host out of the switch: what goes either way vanishes, and nobody is told."""
        self._plug("link", "set", name, "nomaster")
        self._cut.add(name)

    def heal(self, name: str) -> None:
        """Plugs the cable in again."""
        self._plug("link", "set", name, "master", "br0")
        self._cut.discard(name)

    def kill(self, name: str) -> None:
        """Takes the power away from a host: it is off the network first, and so takes leave of nobody."""
        self.cut(name)
        self._cut.discard(name)
        self._hosts[name].process.kill()
        self._buried(name)
        self._plug("link", "delete", name)

    def restore(self) -> None:
        """Takes the power away from hosts that are cut off, and gives it to all that have none."""
        for name in [name for name in self._hosts if name in self._cut]:
            self.kill(name)
        down = [name for name in self.addresses if name not in self._hosts]
        for name in down:
            self.boot(name)
        for name in down:
            self.wait_up(name)
            for start in self.services:
                start(name)

    def is_up(self, name: str) -> bool:
        """Whether the host has power, and its cable is plugged in."""
        return name in self._hosts and name not in self._cut

    def lead_nowhere(self, name: str, address: str) -> None:
        """Makes what a host sends to an address vanish, as behind a firewall that says nothing."""
        self.run(name, "ip", "route", "replace", address, "dev", "eth0")
        self.run(name, "ip", "neighbour", "replace", address, "lladdr", "02:00:0a:4d:00:ff", "dev", "eth0")

    def enter(self, name: str, folder: Path | str = "/") -> list[str]:
        """What to put before a command that is to run on a host, in a folder."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid")
        return ["nsenter", "--target", str(self._hosts[name].init), *spaces, "env", "--chdir", str(folder)]

    def run(self, name: str, *command: str) -> str:
        """What a command prints on a host, which must succeed."""
        line = [*self.enter(name), *command]
        done = subprocess.run(line, env=_environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{name}: {command}: {done.stderr}"
        return done.stdout

    def processes(self, name: str) -> list[Process]:
        """What runs on a host, beside its first process."""
        return processes_beside(self._hosts[name].init)

    def shared_memory(self, name: str) -> list[str]:
        """Names of the files in a host's shared memory."""
        return sorted(os.listdir(f"/proc/{self._hosts[name].init}/root/dev/shm"))

    def received(self, name: str) -> int:
        """Bytes that a host has got from the network."""
        return int(self.run(name, "cat", "/sys/class/net/eth0/statistics/rx_bytes"))

    @contextmanager
    def network(self, name: str) -> Iterator[None]:
        """What this thread, or one that it starts inside, connects to, it connects to from a host."""
        with open("/proc/thread-self/ns/net") as own, open(f"/proc/{self._hosts[name].init}/ns/net") as other:
            _set_network(other.fileno())
            try:
                yield
            finally:
                _set_network(own.fileno())

    def _buried(self, name: str) -> None:
        """Waits until all is gone of a host whose `unshare` is killed: first its first process, then all others."""
        host = self._hosts.pop(name)
        host.process.wait()
        wait_for(lambda: not Path(f"/proc/{host.init}").exists(), f"{name} has no processes")

    def _log(self, name: str) -> Path:
        return self.base / f"{name}.log"

    def _plug(self, *words: str) -> None:
        assert self._switch is not None
        command = ["nsenter", "--target", str(self._switch.pid), "--net", "ip", *words]
        subprocess.run(command, env=_environment(), check=True, timeout=60)


class Login(Site):
    """A place for clusters on the hosts: all share its files, and each keeps its sockets to itself."""

    def __init__(self, rig: Rig, env: Mapping[str, str | None] | None = None) -> None:
        super().__init__({"XDG_RUNTIME_DIR": None, **(env or {})}, rig.base)
        self.rig = rig
        self._clients: list[Client] = []
        self._before = {name: {process.pid for process in rig.processes(name)} for name in rig.addresses}

    def command(self, on: str, *command: str, timeout: float = 100) -> list[str]:
        """A command line that runs a program of the environment on a host, and ends it after some seconds."""
        limit = ["timeout", "--kill-after=5", str(timeout)]
        return [*self.rig.enter(on, self.base), *limit, program(command[0]), *command[1:]]

    def run(
        self, *command: str, on: str = LOGIN, timeout: float = 100, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment on a host to its end; never raises for its exit code."""
        options = {"stdin": subprocess.DEVNULL, "env": self.env} | options
        line = self.command(on, *command, timeout=timeout)
        return subprocess.run(line, capture_output=True, text=True, check=False, **options)

    def said(self, *command: str, on: str = LOGIN) -> str:
        """What a program of the environment prints on a host, which must succeed."""
        done = self.run(*command, on=on)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command: str, on: str = LOGIN, **options: Any) -> subprocess.Popen[str]:
        """Starts a program of the environment on a host."""
        options = {"stdin": subprocess.DEVNULL, "env": self.env, "text": True} | options
        return subprocess.Popen(self.command(on, *command, timeout=200), **options)

    def client(self, cluster_id: str = "default", **options: Any) -> Client:
        """A client on the host ``login`` in this process; closed with this place."""
        with self.rig.network(LOGIN):
            file = self.directory / cluster_id / "connection.json"
            self._clients.append(Client(**({"connection_info": str(file), "timeout": 60} | options)))
        return self._clients[-1]

    def close_clients(self) -> None:
        """Closes every client made here."""
        while self._clients:
            with suppress(OSError):
                self._clients.pop().close()

    def processes_on(self, name: str) -> list[Process]:
        """What was started on a host since this place was made, and still runs."""
        return [process for process in self.rig.processes(name) if process.pid not in self._before[name]]

    def remains(self) -> list[str]:
        """Such processes, and files in shared memory, on all hosts that can be reached."""
        names = list(filter(self.rig.is_up, self.rig.addresses))
        left = [(name, what) for name in names for what in [*self.processes_on(name), *self.rig.shared_memory(name)]]
        return [f"{name}: {what}" for name, what in left]

    def wait_until_nothing_remains(self) -> None:
        """On no host that can be reached, and no connection file."""

        def left() -> list[str]:
            return [*self.remains(), *self.files()]

        wait_for(lambda: not left(), lambda: f"these should be gone: {left()}", 30)

    def processes(self) -> list[Process]:
        """Everything that was started here on any host and still runs."""
        hosts = filter(self.rig.is_up, self.rig.addresses)
        return [process for name in hosts for process in self.processes_on(name)]


def _shared() -> list[str]:
    """Directories below /tmp that ranks and programs need: the environment's, and those of these tests."""
    wanted = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2]]
    wanted += [Path(path).absolute() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    below = sorted({str(path) for path in wanted if path.is_relative_to("/tmp") and path.exists()})
    return [path for path in below if not any(Path(path).is_relative_to(other) and path != other for other in below)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"}


def _set_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
