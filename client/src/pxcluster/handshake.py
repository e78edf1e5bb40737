"""The first frames of a connection: who the client is, and what the controller answers."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections import deque
from time import monotonic

from . import __version__, frames
from .ahead import AheadDecoder
from .error import VersionMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .frames import Frame, Header
    from .registry import Registry


def decoder_for(channel: Channel, registry: Registry) -> frames.Decoder:
    """What turns the bytes of `channel` into frames, whose buffers go where requests in `registry` want them."""
    return AheadDecoder(channel.memory, registry.land)


def greet(
    channel: Channel, decoder: frames.Decoder, key: str, timeout: float, session: str | None, received: int | None
) -> tuple[Header, list[Frame]]:
    """Say hello, for a new session or to resume `session`; the welcome, and frames that came with it.

    `received`: how many frames of answers this process has had in that session, None if it knows nothing of it.
    Raises ConnectionRefusedError (refused), VersionMismatch, TimeoutError, other OSErrors.
    """
    hello: Header = {
        "type": "hello",
        "protocol_version": frames.PROTOCOL_VERSION,
        "key": key,
        "client_version": __version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "session": session,
    }
    if received is not None:
        hello["received"] = received
    if channel.memory is not None:
        hello["shares"] = True
    if not channel.send(deque(memoryview(piece) for piece in frames.encode(hello))):
        raise ConnectionError("the controller does not take the handshake")
    answer, early = _answer(channel, decoder, timeout)
    if answer["type"] == "refused":
        raise ConnectionRefusedError(f"the controller refused this client: {answer['reason']}")
    if answer["type"] != "welcome":
        raise ConnectionError(f"the controller answered the handshake with {answer['type']!r}")
    ours, theirs = hello["python"], str(answer["python"])
    if ".".join(theirs.split(".")[:2]) != ours:
        raise VersionMismatch(
            f"this client runs Python {ours} but the engines of cluster {answer['cluster_id']!r} run Python "
            f"{theirs} (on {answer['host']}): start the cluster from the same environment, or run this client "
            f"with Python {theirs}"
        )
    return answer, early


def _answer(channel: Channel, decoder: frames.Decoder, timeout: float) -> tuple[Header, list[Frame]]:
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    deadline = monotonic() + timeout
    while True:
        left = deadline - monotonic()
        if left <= 0 or not poller.poll(1000 * left):
            raise TimeoutError(f"the controller has not answered within {timeout} seconds")
        count = channel.recv_into(decoder.space())
        if count == 0:
            raise ConnectionResetError("the controller closed the connection during the handshake")
        found = list(decoder.received(count or 0))
        if found:
            return found[0][0], found[1:]
