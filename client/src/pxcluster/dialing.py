"""TLS to whichever of a controller's addresses answers, the first ones preferred (as RFC 8305 does it).

Each address begins a quarter of a second after the one before, or at once when that has failed, and none is given up
before the time is over: one that leads nowhere delays the others and does not use up their time.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .channel import TlsChannel

#: Seconds between the beginnings of two attempts.
STAGGER = 0.25
#: Seconds after which it is asked whether the controller can be there at all.
_DOUBT = 2.0
#: Seconds that a TLS handshake may take: another address may be the right one.
_HANDSHAKE = 5.0


class NoAnswer(OSError):
    """No address led to the controller. `problems`: what each said, in order."""

    def __init__(self, problems: dict[str, str], refused: bool) -> None:
        super().__init__("; ".join(f"{address}: {problem}" for address, problem in problems.items()))
        self.problems = problems
        #: Whether a host answered each time, and nobody listened.
        self.refused = refused


def dial(
    addresses: Sequence[str], certificate: str, timeout: float, doubt: Callable[[], None] | None = None
) -> TlsChannel:
    """A channel to the one of `addresses` (``host:port``) that shows exactly `certificate` (PEM), within `timeout` s.

    `doubt` is called once when none has answered for two seconds; what it raises is raised. NoAnswer.
    """
    from .channel import TlsChannel

    race = _Race(addresses, timeout, doubt)
    try:
        for address, sock in race.connected():
            try:
                sock.settimeout(_HANDSHAKE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return TlsChannel(sock, certificate)
            except (OSError, ValueError) as problem:  # somebody else listens there, or the certificate is none
                sock.close()
                race.note(address, problem)
            except BaseException:
                sock.close()
                raise
    finally:
        race.close()
    raise NoAnswer(race.problems, race.refused)


class _Race:
    """Attempts to connect, some of which are under way."""

    def __init__(self, addresses: Sequence[str], timeout: float, doubt: Callable[[], None] | None) -> None:
        self._order = list(addresses)
        #: Each with where it leads, once its name is resolved.
        self._waiting: deque[tuple[str, Any]] = deque((address, None) for address in addresses)
        self._pending: dict[int, tuple[str, socket.socket]] = {}
        self._poller = select.poll()
        self._doubt = doubt
        self._begun = monotonic()
        self._timeout = timeout
        self._said: dict[str, str] = {}
        self.refused = bool(addresses)

    @property
    def problems(self) -> dict[str, str]:
        """What went wrong, by address, in their order."""
        return {address: self._said[address] for address in self._order if address in self._said}

    def note(self, address: str, problem: Exception) -> None:
        """An attempt has failed."""
        if not isinstance(problem, ConnectionRefusedError):
            self.refused = False
        self._said[address] = str(getattr(problem, "strerror", None) or problem)

    def close(self) -> None:
        """End all attempts."""
        for _, sock in self._pending.values():
            sock.close()
        self._pending.clear()

    def connected(self) -> Iterator[tuple[str, socket.socket]]:
        """Sockets as they connect; they are the caller's, who asks for another if one does not lead to the goal."""
        next_begin = self._begun
        while self._waiting or self._pending:
            now = monotonic()
            if now - self._begun >= self._timeout:
                self._give_up()
                return
            if self._doubt is not None and now - self._begun >= _DOUBT:
                doubt, self._doubt = self._doubt, None
                doubt()
            if self._waiting and (now >= next_begin or not self._pending):
                next_begin = now + STAGGER if self._begin(*self._waiting.popleft()) else now
                continue
            for address, sock in self._finished(next_begin if self._waiting else None):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    sock.close()
                    self.note(address, OSError(code, os.strerror(code)))
                    next_begin = monotonic()
                else:
                    yield address, sock

    def _begin(self, address: str, target: Any) -> bool:
        """Begin an attempt; False: it has failed, or is several."""
        try:
            if target is None:
                host, _, port = address.rpartition(":")
                found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
                self._waiting.extendleft((address, (each[0], each[4])) for each in reversed(found))
                return False
            sock = socket.socket(target[0], socket.SOCK_STREAM)
        except (OSError, ValueError) as problem:
            self.note(address, problem)
            return False
        sock.setblocking(False)
        code = sock.connect_ex(target[1])
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self.note(address, OSError(code, os.strerror(code)))
            return False
        self._poller.register(sock, select.POLLOUT)
        self._pending[sock.fileno()] = (address, sock)
        return True

    def _finished(self, until: float | None) -> list[tuple[str, socket.socket]]:
        """Attempts that have ended by the time `until`, one way or the other."""
        ends = [self._begun + self._timeout, *([] if until is None else [until])]
        if self._doubt is not None:
            ends.append(self._begun + _DOUBT)
        found = []
        for fd, _ in self._poller.poll(max(0.0, 1000 * (min(ends) - monotonic())) + 1):
            self._poller.unregister(fd)
            found.append(self._pending.pop(fd))
        return found

    def _give_up(self) -> None:
        for address, _ in [*self._pending.values(), *self._waiting]:
            if address not in self._said:
                self.note(address, TimeoutError(f"no answer within {self._timeout:g} seconds"))
