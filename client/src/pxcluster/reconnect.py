"""A session whose connection is lost goes on over another one.

The controller keeps a session, its requests and every answer that was not confirmed. What it has of the session's
requests is told by its welcome; requests beyond that were never sent and fail.
"""

from __future__ import annotations

import select
from time import monotonic

from . import frames
from .connection import Unreachable
from .controlrequest import ControlRequest
from .error import ConnectionLost
from .handshake import decoder_for, greet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Channel
    from .frames import Frame, Header
    from .session import Session

    #: Opens a channel within so many seconds. ConnectionRefusedError: the controller is gone; Unreachable: perhaps.
    Opener = Callable[[float], Channel]

#: How long it is tried while answers are waited for, seconds.
_PATIENCE = 10.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
#: Questions whose answers the controller does not keep: they are asked again.
_NOT_KEPT = ("status", "history")


def reconnect(session: Session, reopen: Opener, reason: str) -> None:
    """Give `session` a new connection, or end it. Holds the reader's lock."""
    deadline = monotonic() + _PATIENCE
    pause = _FIRST_PAUSE
    while session._closing is None:
        left = deadline - monotonic()
        try:
            channel, decoder, welcome, early = _resume(session, reopen, max(left, 1.0))
        except Unreachable as problem:
            failure: Exception = problem
        except (ConnectionRefusedError, ValueError) as problem:
            session._lose(f"{reason}, and the session is over: {problem}")
            return
        except OSError as problem:
            failure = problem
        else:
            _go_on(session, channel, decoder, welcome)
            for header, buffers in early:
                session._dispatch(header, buffers)
            return
        if left <= 0 or not session.registry.pending:
            session._lose(f"{reason}, and no other can be made: {failure}")
            return
        _pause(session, pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    session._lose(reason)


def _pause(session: Session, seconds: float) -> None:
    poller = select.poll()
    poller.register(session._wake_receive, select.POLLIN)
    if poller.poll(1000 * seconds):
        session._drain_wakes()


def _resume(session: Session, reopen: Opener, timeout: float) -> tuple[Channel, frames.Decoder, Header, list[Frame]]:
    channel = reopen(timeout)
    decoder = decoder_for(channel, session.registry)
    try:
        return (channel, decoder, *greet(channel, decoder, session._key, timeout, session.name, session._received))
    except BaseException:
        channel.close()
        raise


def _go_on(session: Session, channel: Channel, decoder: frames.Decoder, welcome: Header) -> None:
    last = welcome.get("last_request", 0)
    with session._sending:
        session._channel.close()  # nobody else looks at it: senders and readers hold the two locks
        session._use(channel, decoder)
        session._outbox.clear()
        session._confirmed = session._received
        pending = session.registry.pending
        unsent = [request for number, request in pending.items() if number > last]
        for request in unsent:
            pending.pop(request.id, None)
        for number, request in pending.items():
            if isinstance(request, ControlRequest) and request.name in _NOT_KEPT:
                session._outbox.extend(map(memoryview, frames.encode({"type": request.name, "id": number})))
        session._broken = None
    session.registry.set_engines(welcome["engines"])
    lost = ConnectionLost("the connection was lost before this was sent; the session goes on: call again")
    session.registry.fail(unsent, lost)
    if session._closing is not None:
        channel.shutdown()  # closed meanwhile: the daemon finds the end of the stream
