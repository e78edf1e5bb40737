"""A client's way through ssh: ``pxcluster proxy`` on the other host hands bytes on to the controller.

No port is opened and no file is copied. What is said between client and controller is what it would be without ssh: TLS
with the controller's certificate, where the two are on different hosts of the cluster.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import tempfile
from time import monotonic
from typing import Any

from . import connection
from .channel import TlsChannel, UnixChannel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel

#: The ssh to use with its options, as ``GIT_SSH_COMMAND``; the program ``pxcluster`` on the other host.
_SSH, _REMOTE = "PXCLUSTER_SSH", "PXCLUSTER_REMOTE"
#: Somebody may have to type a password, seconds.
_LOGIN_TIMEOUT = 120.0
_LONGEST_LINE = 1 << 20
_GREETING = b'{"connection":'
_END_TIMEOUT = 5.0


class Tunnel:
    """Ways to cluster `cluster_id` of the host that ssh knows as `server`. `info`: the connection file there.

    OSError, with what ssh or ``pxcluster proxy`` has said: there is none.
    """

    def __init__(self, server: str, cluster_id: str | None, key: str | None = None) -> None:
        self._server = server
        program = shlex.split(os.environ.get(_REMOTE) or "pxcluster")
        remote = [*program, "proxy", "--cluster-id", connection.cluster_id_of(cluster_id)]
        login = shlex.join(["sh", "-lc", "exec " + shlex.join(remote)])
        ssh = shlex.split(os.environ.get(_SSH) or "ssh")
        self._command = [*ssh, "-T", *(["-i", key] if key else []), server, login]
        self._first: _Way | None = _Way(self._command, server, _LOGIN_TIMEOUT)
        self.info: dict[str, Any] = connection.check(self._first.greeting["connection"], f"that of {server}")

    def dial(self, timeout: float) -> Channel:
        """A channel to the controller: over the way that is there, then over new ones."""
        way, self._first = self._first, None
        if way is None:
            way = _Way(self._command, self._server, timeout)
        return way.channel(timeout)


class _Way:
    """One ssh, and what the proxy has said at first."""

    def __init__(self, command: list[str], server: str, timeout: float) -> None:
        self._server = server
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open until ssh has ended
            try:
                # A Ctrl-C at the terminal is this program's, and ssh leaves an ignored SIGINT ignored.
                quiet = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
                self.process = subprocess.Popen(quiet, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._said)
            except BaseException:
                self._socket.close()
                self._said.close()
                raise
        try:
            deadline = monotonic() + timeout
            while not (line := self._line(deadline)).startswith(_GREETING):
                pass  # the profile of the shell there has something to say
            self.greeting: dict[str, Any] = json.loads(line)
        except BaseException:
            self.close()
            raise

    def _line(self, deadline: float) -> bytes:
        """The next line; not a byte of what follows is taken from the socket."""
        line = b""
        while not line.endswith(b"\n"):
            self._socket.settimeout(max(0.01, deadline - monotonic()))
            try:
                seen = self._socket.recv(4096, socket.MSG_PEEK)
            except TimeoutError:
                raise TimeoutError(f"ssh {self._server} says nothing; try it by hand") from None
            if not seen or len(line) > _LONGEST_LINE:
                raise ConnectionRefusedError(self._failure())
            line += self._socket.recv(seen.find(b"\n") + 1 or len(seen))
        return line

    def _failure(self) -> str:
        """Why there is no line."""
        try:
            code: int | str = self.process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            code = "no end"
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        hint = f"; {_REMOTE} names the program pxcluster there" if code == 127 else ""
        return f"ssh {self._server} ended with {code}: {words or 'it said nothing'}{hint}"

    def channel(self, timeout: float) -> Channel:
        """The channel that begins behind the first line. It ends ssh with it."""
        self._socket.settimeout(timeout)
        try:
            if self.greeting["tls"]:
                return _SshTlsChannel(self, self._socket, self.greeting["connection"]["certificate"])
            return _SshChannel(self, self._socket)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it: ssh ends when nobody listens to it."""
        self._socket.close()
        try:
            self.process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._said.close()


class _SshChannel(UnixChannel):
    """The proxy is on the controller's host, and what ssh carries needs no second cipher."""

    def __init__(self, way: _Way, sock: socket.socket) -> None:
        self._way = way
        super().__init__(sock, None)

    def close(self) -> None:
        super().close()
        self._way.close()


class _SshTlsChannel(TlsChannel):
    """From the proxy's host to the controller's there is a network."""

    def __init__(self, way: _Way, sock: socket.socket, certificate: str) -> None:
        self._way = way
        super().__init__(sock, certificate)

    def close(self) -> None:
        super().close()
        self._way.close()
