"""A peer that speaks the client link by hand, and may speak it badly. Only this machine's loopback is ever called."""

from __future__ import annotations

import json
import os
import platform
import socket
import ssl
import struct
from typing import Any

TIMEOUT = 30.0


def encode(header: dict[str, Any], *buffers: bytes) -> bytes:
    """A frame: `u32 header length · u32 buffer count · u64 length per buffer · JSON header · buffers`."""
    text = json.dumps(header).encode()
    lengths = [len(buffer) for buffer in buffers]
    return struct.pack(f"<II{len(buffers)}Q", len(text), len(buffers), *lengths) + text + b"".join(buffers)


def port_of(connection: dict[str, Any]) -> int:
    """The cluster's TCP port."""
    return int(connection["addresses"][-1].rpartition(":")[2])


def tcp(connection: dict[str, Any]) -> socket.socket:
    """A bare TCP connection."""
    return socket.create_connection(("127.0.0.1", port_of(connection)), TIMEOUT)


def unix(connection: dict[str, Any]) -> socket.socket:
    """A connection by the Unix socket."""
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(TIMEOUT)
    connected.connect(connection["socket"])
    return connected


def tls_context(highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A TLS client that checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = highest
    return context


def tls(connection: dict[str, Any]) -> socket.socket:
    """A TLS 1.3 connection."""
    return tls_context().wrap_socket(tcp(connection))


class Peer:
    """A connection and the frames on it."""

    def __init__(self, connected: socket.socket, connection: dict[str, Any]) -> None:
        self.socket = connected
        self.connection = connection

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, header: dict[str, Any], *buffers: bytes) -> None:
        """Sends one frame."""
        self.socket.sendall(encode(header, *buffers))

    def hello(self, **changes: Any) -> dict[str, Any]:
        """Shows the key, or what `changes` puts in its place; the answer's header."""
        header = {
            "type": "hello",
            "protocol_version": self.connection["protocol_version"],
            "key": self.connection["key"],
            "client_version": "0.1.0",
            "python": platform.python_version().rpartition(".")[0],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "session": None,
        }
        self.send(header | changes)
        answer = self.receive()
        assert answer is not None, "closed without an answer"
        return answer[0]

    def receive(self) -> tuple[dict[str, Any], list[bytes]] | None:
        """The next frame; None when the other side has closed."""
        try:
            prefix = self._exactly(8)
            header_length, count = struct.unpack("<II", prefix)
            lengths = struct.unpack(f"<{count}Q", self._exactly(8 * count))
            header = json.loads(self._exactly(header_length))
            return header, [self._exactly(length) for length in lengths]
        except (EOFError, ConnectionError, ssl.SSLError):
            return None

    def answer_to(self, number: int) -> tuple[dict[str, Any], list[bytes]]:
        """The next frame of this request."""
        while (frame := self.receive()) is not None:
            if frame[0].get("id") == number:
                return frame
        raise AssertionError(f"closed before request {number} was answered")

    def is_closed_by_the_other_side(self) -> bool:
        """Waits for the end of the stream; frames before it are skipped."""
        while self.receive() is not None:
            pass
        return True

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self.socket.recv(count - len(parts))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)
