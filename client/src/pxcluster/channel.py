"""Byte channels to the controller: a Unix socket on the same host, TLS 1.3 from anywhere else.

Channels never block and never wait: the session polls :meth:`Channel.fileno`. One thread may send while another one
receives. The TLS engine works on memory buffers behind a lock, because an SSL object serves one thread at a time.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections import deque
    from typing import Protocol

    from .sharedmemory import SharedMemory

    class Channel(Protocol):
        """What the session needs of a connection."""

        @property
        def buffered(self) -> bool:
            """Whether received bytes may wait inside the channel although the socket is not readable."""

        @property
        def memory(self) -> SharedMemory | None:
            """The memory that both ends share, if they do."""

        def fileno(self) -> int:
            """The descriptor to poll."""

        def recv_into(self, view: memoryview) -> int | None:
            """Bytes received into `view`; 0 at the end of the stream, None when there are none now."""

        def send(self, pieces: deque[memoryview]) -> bool:
            """Send from the front of `pieces`, dropping what is sent; True when all has left, False: call again."""

        def shutdown(self) -> None:
            """End the stream: whoever polls or receives wakes up."""

        def close(self) -> None:
            """Give the descriptor back."""


_MOST_PIECES = 64
_PORTION = 256 << 10
#: After so many bytes a call of `send` returns, though there may be room for more: callers have something to show.
_AT_ONCE = 32 << 20


def connect_unix(path: str, key: str, timeout: float) -> UnixChannel:
    """Connect to the controller's socket file. OSError: nobody listens there, or somebody else does."""
    from .sharedmemory import fetch

    with _open_unix(path, timeout) as sock:
        memory = fetch(sock, key)
    try:
        return UnixChannel(_open_unix(path, timeout), memory)
    except BaseException:
        if memory is not None:
            memory.close()
        raise


def _open_unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
        _, owner, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if owner != os.getuid():
            raise PermissionError(f"socket {path} is served by user {owner}, not by you: the key stays secret")
    except BaseException:
        sock.close()
        raise
    return sock


def _drop(pieces: deque[memoryview], count: int) -> None:
    """Remove the first `count` bytes of `pieces`."""
    while count:
        first = pieces[0]
        if count < len(first):
            pieces[0] = first[count:]
            return
        count -= len(first)
        pieces.popleft()


class _SocketChannel:
    """What both kinds have in common."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.fileno = sock.fileno

    def shutdown(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        self._sock.close()


class UnixChannel(_SocketChannel):
    """Plain bytes over a connected stream socket, and the shared memory of the host."""

    buffered = False

    def __init__(self, sock: socket.socket, memory: SharedMemory | None) -> None:
        super().__init__(sock)
        self.memory = memory

    def close(self) -> None:
        super().close()
        if self.memory is not None:
            self.memory.close()

    def recv_into(self, view: memoryview) -> int | None:
        try:
            return self._sock.recv_into(view)
        except BlockingIOError:
            return None

    def send(self, pieces: deque[memoryview]) -> bool:
        left = _AT_ONCE
        while pieces:
            if left <= 0:
                return False
            try:
                if len(pieces) == 1:
                    sent = self._sock.send(pieces[0])
                else:
                    sent = self._sock.sendmsg(list(islice(pieces, _MOST_PIECES)))
            except BlockingIOError:
                return False
            left -= sent
            _drop(pieces, sent)
        return True


class TlsChannel(_SocketChannel):
    """TLS 1.3 over a TCP socket, the peer's certificate pinned."""

    memory = None

    def __init__(self, sock: socket.socket, certificate: str) -> None:
        import ssl  # here, because most clients never need it and it takes long to load

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate itself is compared, byte for byte
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=certificate)
        self._lock = threading.Lock()
        self._want_read = (ssl.SSLWantReadError,)
        self._closed_by_peer = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject = context.wrap_bio(self._incoming, self._outgoing)
        self._unsent = memoryview(b"")
        self._handshake(sock)
        if self._tls.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(certificate):
            raise ssl.SSLError("the controller's certificate is not the one of the connection file")
        super().__init__(sock)

    def _handshake(self, sock: socket.socket) -> None:
        """While the socket still blocks, with its time limit."""
        while True:
            try:
                self._tls.do_handshake()
            except self._want_read:
                sock.sendall(self._outgoing.read())
                data = sock.recv(_PORTION)
                if not data:
                    raise ConnectionResetError("the connection was closed during the TLS handshake") from None
                self._incoming.write(data)
            else:
                sock.sendall(self._outgoing.read())
                return

    @property
    def buffered(self) -> bool:
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def recv_into(self, view: memoryview) -> int | None:
        # The lock is not held while the socket is read: only one thread receives at a time.
        while True:
            with self._lock:
                try:
                    # With a buffer as second argument the answer is a number.
                    return self._tls.read(len(view), view)  # type: ignore[return-value]
                except self._want_read:
                    self._flush()
                except self._closed_by_peer:
                    return 0
            try:
                data = self._sock.recv(_PORTION)
            except BlockingIOError:
                return None
            with self._lock:
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()

    def send(self, pieces: deque[memoryview]) -> bool:
        left = _AT_ONCE
        while True:
            with self._lock:
                if not self._flush():
                    return False
                if not pieces:
                    return True
                if left <= 0:
                    return False
                sent = self._tls.write(pieces[0][:_PORTION])
                left -= sent
                _drop(pieces, sent)

    def _flush(self) -> bool:
        """Pass encrypted bytes on to the socket; True when none are left."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                self._unsent = memoryview(self._outgoing.read())
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                return False
