"""One session of a cluster: requests go out, frames come in and fill them.

A session outlives its connections. When one is lost while the cluster goes on, the daemon makes another (``_broken`` is
set meanwhile, and threads wait): the controller has kept what was not confirmed.

Who reads. A thread that waits for something reads the socket itself (the leader); other threads that wait meanwhile
(followers) sleep until the leader has dispatched something or leaves. When nobody waits, a daemon thread reads, so
that callbacks run and results arrive; it polls beside the leader, finds the reader's lock taken and then keeps away
until no leader has come for a few milliseconds. So a request costs no change of thread, and an idle client costs
nothing.

Locks. ``_reading``: held while bytes are received and dispatched, never while blocked by the daemon or while
callbacks run. ``_sending``: numbering and writing of frames. A thread never takes ``_reading`` while it holds
``_sending``.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from time import monotonic, sleep

from . import frames
from .controlrequest import ControlRequest, FetchRequest
from .error import ConnectionLost
from .handshake import decoder_for, greet
from .interrupt import guard
from .progress import UploadBar
from .reconnect import reconnect
from .registry import Registry
from .sharedmemory import LARGE
from .sleepers import Sleepers
from .uploads import Uploads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .channel import Channel
    from .frames import Bytes, Header, Pieces
    from .reconnect import Opener
    from .requests import Request
    from .sharedmemory import SharedMemory

#: How long a thread looks for the answer before it sleeps, seconds, once in each wait. Engines answer small requests
#: within that time, and waking a sleeping core would cost a third of the round trip (215 to 145 µs seen, 2 cores).
_LOOK_OUT = 0.00025
#: How long the daemon keeps away after it has met a leader, seconds.
_PARKED = 0.01
#: Frames that the controller keeps until they are confirmed.
_ANSWERS = frozenset(("reply", "results", "output", "failed", "done", "request"))
#: They are confirmed when so many have come, or so many bytes, or with the next request, or when nothing happens.
_CONFIRM_FRAMES = 256
_CONFIRM_BYTES = 4 << 20
_CONFIRM_ALONG = 16
_CONFIRM_AFTER = 1000.0  # milliseconds


class Session:
    """A connection after its handshake. All methods may be called from any thread of the process that made it."""

    def __init__(self, reopen: Opener, key: str, timeout: float, resume: str | None = None) -> None:
        self._reopen = reopen
        self._key = key
        self.registry = Registry()
        channel = reopen(timeout)
        self._use(channel, decoder_for(channel, self.registry))
        self._process = os.getpid()
        self._closing: str | None = None
        #: Why the connection is lost while another one is made.
        self._broken: str | None = None
        #: Frames of answers that have come, those of them that the controller knows of, and bytes since then.
        self._received = self._confirmed = self._fresh = 0
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._followers = Sleepers()
        self._turns = 0
        self._outbox: deque[memoryview] = deque()
        self._uploads = Uploads(self)
        self._callbacks = self.registry.callbacks
        #: Why the session is over, None while it is not.
        self.lost: ConnectionLost | None = None
        try:
            self.welcome, early = greet(self._channel, self._decoder, key, timeout, resume, None)
        except BaseException:
            self._channel.close()
            raise
        self._next_id: int = self.welcome.get("last_request", 0)
        self.name: str = self.welcome["session"]
        self.cluster_id: str = self.welcome["cluster_id"]
        self.registry.set_engines(self.welcome["engines"])
        for header, buffers in early:
            self._dispatch(header, buffers)
        self._wake_receive, self._wake_send = os.pipe()
        os.set_blocking(self._wake_send, False)
        os.set_blocking(self._wake_receive, False)
        self._daemon = threading.Thread(target=self._serve, name="pxcluster-client", daemon=True)
        self._daemon.start()

    def _use(self, channel: Channel, decoder: frames.Decoder) -> None:
        self._channel = channel
        self._decoder = decoder
        self._poller = select.poll()
        self._poller.register(channel, select.POLLIN)

    @property
    def memory(self) -> SharedMemory | None:
        """The memory that the present connection shares with the controller."""
        return self._channel.memory

    # -- sending -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what makes new requests impossible, if anything does."""
        if self._process != os.getpid():
            raise RuntimeError(
                f"this Client was made by process {self._process} and cannot be used after a fork in process "
                f"{os.getpid()}: make a new Client there"
            )
        if self.lost is not None:
            raise ConnectionLost(*self.lost.args)

    def submit(self, request: Request, header: Header, buffers: Sequence[Bytes | Pieces] = ()) -> None:
        """Number `request`, send it and keep it until it is answered. ``header["id"]`` is filled in."""
        if self._broken is not None:
            self.wait(lambda: self._broken is None)
        channel = self._channel
        places = None
        if channel.memory is not None and buffers:
            places = self._uploads.upload(channel.memory, header, buffers)
        main = guard.applies()
        was_open = guard.hold() if main else False
        try:
            with self._sending:
                self.check()
                self._next_id += 1
                request.id = header["id"] = self._next_id
                request.session = self.name
                request.uuids = self.registry.uuids
                self.registry.register(request)
                if places and channel is self._channel:
                    pieces = frames.encode(header, buffers, places)
                else:
                    pieces = frames.encode(header, buffers)
                if self._received - self._confirmed >= _CONFIRM_ALONG:
                    self._outbox.append(self._confirmation())
                self._outbox.extend(map(memoryview, pieces))
                self._flush(main)
            if self._callbacks:
                self._wake()
        finally:
            if main:
                guard.release(was_open)

    def tell(self, header: Header) -> None:
        """Send a frame that is no request."""
        main = guard.applies()
        was_open = guard.hold() if main else False
        try:
            with self._sending:
                self.check()
                self._outbox.extend(map(memoryview, frames.encode(header)))
                self._flush(main)
        finally:
            if main:
                guard.release(was_open)

    def _flush(self, main: bool) -> None:
        """Send the outbox. An interrupt leaves the rest of it to the daemon."""
        try:
            if self._channel.send(self._outbox):
                return
            poller = select.poll()
            poller.register(self._channel, select.POLLOUT)
            left = sum(map(len, self._outbox))
            bar = UploadBar(left)
            while True:
                if main:
                    guard.open()
                poller.poll()
                if left >= LARGE:
                    bar.move(left - (left := sum(map(len, self._outbox))))
                if main:
                    guard.shut()
                if self._channel.send(self._outbox):
                    bar.close()
                    return
        except OSError:
            self._outbox.clear()
            self._channel.shutdown()  # the reader finds the end of the stream and does the rest
        except BaseException:
            if main:
                guard.shut()
            self._wake()
            raise

    def _confirmation(self) -> memoryview:
        """The frame that tells what has come. Holds the sender's lock."""
        self._confirmed = self._received
        self._fresh = 0
        return memoryview(frames.encode({"type": "received", "frames": self._confirmed})[0])

    def _confirm(self) -> None:
        """Tell what has come, unless somebody is sending: then the next one does."""
        if self._received == self._confirmed or not self._sending.acquire(False):
            return
        try:
            self._outbox.append(self._confirmation())
            if not self._channel.send(self._outbox):
                self._wake()
        except OSError:
            self._outbox.clear()
            self._channel.shutdown()
        finally:
            self._sending.release()

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``ready()``, at most `timeout` seconds (None: for ever); whether it is so.

        Raises ConnectionLost if it can never be, and KeyboardInterrupt at once, in the main thread, on Ctrl-C.
        """
        if ready():
            return True
        if self._process != os.getpid():
            self.check()
        deadline = None if timeout is None else monotonic() + timeout
        main = guard.applies()
        was_open = guard.hold() if main else False
        sleepless = monotonic() + _LOOK_OUT
        try:
            while True:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                if self._broken is not None and threading.current_thread() is self._daemon:
                    self._mend()  # in a callback: nobody else would
                elif self._broken is not None or not self._reading.acquire(False):
                    self._follow(ready, left, main)
                else:
                    try:
                        if not ready() and self.lost is None:
                            self._lead(left, main, sleepless)
                    finally:
                        self._reading.release()
                        self._followers.wake()
                if self._callbacks:
                    self._run_callbacks(main)
                if ready():
                    return True
                self.check()
                if left == 0.0:
                    return False
        finally:
            if main:
                guard.release(was_open)

    def _lead(self, left: float | None, main: bool, sleepless: float) -> None:
        """Wait for bytes, without sleeping until the time `sleepless`, and dispatch them. Holds the reader's lock."""
        self._turns += 1
        try:
            if main:
                guard.open()
            poll = self._poller.poll
            events = poll(0)
            if left != 0.0:
                while not events and monotonic() < sleepless:
                    events = poll(0)
                events = events or poll(None if left is None else 1000 * left)
        finally:
            if main:
                guard.shut()
        if events:
            self._read()

    def _follow(self, ready: Callable[[], bool], left: float | None, main: bool) -> None:
        """Sleep until the leader has dispatched something or leaves."""
        alarm = self._followers.join()
        try:
            # The leader looks at the followers after each dispatch and after it has left: whatever happened before the
            # line above is seen by the next one.
            if ready() or not (self._reading.locked() or self._broken is not None) or self.lost is not None:
                return
            try:
                if main:
                    guard.open()
                alarm.acquire(timeout=-1 if left is None else left)
            finally:
                if main:
                    guard.shut()
        finally:
            self._followers.leave(alarm)

    def _run_callbacks(self, main: bool) -> None:
        try:
            if main:
                guard.open()
            while True:
                try:
                    callback = self._callbacks.popleft()
                except IndexError:
                    return
                callback()
        finally:
            if main:
                guard.shut()
            if self._callbacks:
                self._wake()

    # -- the daemon ----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            os.write(self._wake_send, b"\0")
        except OSError:
            pass  # full: it wakes anyway; closed: it has ended

    def _serve(self) -> None:
        """Read while nobody else does, and send what an interrupt left behind."""
        poller = select.poll()
        poller.register(self._wake_receive, select.POLLIN)
        poller.register(self._channel, select.POLLIN)
        while self.lost is None:
            if self._broken is not None:
                poller.unregister(self._channel)
                self._mend()
                poller.register(self._channel, select.POLLIN)
                self._run_callbacks(False)
                continue
            poller.modify(self._channel, select.POLLIN | (select.POLLOUT if self._outbox else 0))
            events = dict(poller.poll(_CONFIRM_AFTER if self._received != self._confirmed else None))
            if not events:
                self._confirm()
            if self._wake_receive in events:
                self._drain_wakes()
            if self._broken is not None:
                continue
            if self._outbox and self._sending.acquire(False):
                try:
                    self._channel.send(self._outbox)
                except OSError:
                    self._outbox.clear()
                    self._channel.shutdown()
                finally:
                    self._sending.release()
            if self._reading.acquire(False):
                try:
                    if self.lost is None and events.get(self._channel.fileno(), 0) & ~select.POLLOUT:
                        self._read()
                finally:
                    self._reading.release()
                    self._followers.wake()
            else:
                self._park()
            if self._callbacks:
                self._run_callbacks(False)
        self._run_callbacks(False)

    def _mend(self) -> None:
        """Give the session another connection, or end it."""
        try:
            with self._reading:
                if self._broken is not None and self.lost is None:
                    reconnect(self, self._reopen, self._broken)
        finally:
            self._followers.wake()

    def _drain_wakes(self) -> None:
        os.read(self._wake_receive, 4096)

    def _park(self) -> None:
        """Keep away while leaders come and go, but not while one is blocked: then there is nothing to poll for."""
        turns = -1
        while turns != self._turns and self.lost is None and not self._callbacks and not self._outbox:
            turns = self._turns
            sleep(_PARKED)

    # -- receiving -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Receive what is there and dispatch it. Holds the reader's lock."""
        try:
            while True:
                count = self._channel.recv_into(self._decoder.space())
                if count is None:
                    break
                if count == 0:
                    self._break("the connection to the controller ended")
                    break
                shared = self._decoder.shared
                for header, buffers in self._decoder.received(count):
                    self._dispatch(header, buffers)
                self._fresh += count + self._decoder.shared - shared
                if self._fresh >= _CONFIRM_BYTES or self._received - self._confirmed >= _CONFIRM_FRAMES:
                    self._confirm()
                if not self._channel.buffered:
                    break
        except OSError as problem:
            self._break(f"the connection to the controller broke: {problem.strerror or problem}")
        except Exception as problem:
            self._lose(f"the controller sent something unintelligible: {type(problem).__name__}: {problem}")
        self._followers.wake()

    def _dispatch(self, header: Header, buffers: list[Bytes]) -> None:
        kind = header["type"]
        if kind in _ANSWERS:
            self._received += 1
        if kind == "refused":
            self._lose(header["reason"])
        elif kind == "closing":
            self._lose(f"cluster {self.cluster_id!r} has stopped: {self.registry.last_word(header['reason'])}")
        elif kind == "reserved":
            self._uploads.answered(header)
        else:
            self.registry.take(header, buffers)

    def _break(self, reason: str) -> None:
        """The end of a connection: the daemon makes another one. Holds the reader's lock."""
        if self._closing is not None:
            self._lose(reason)
        elif self.lost is None:
            self._channel.shutdown()  # so that a sender that is blocked lets go of its lock
            self._broken = self._broken or reason
            self._wake()

    def _lose(self, reason: str) -> None:
        """The end of the session: everything that waits fails now. Holds the reader's lock, or follows the daemon."""
        if self.lost is not None:
            return
        self._channel.shutdown()  # first, so that a sender that is blocked lets go of its lock
        with self._sending:
            self.lost = ConnectionLost(self._closing or reason)
            self.registry.set_engines(())
            self._outbox.clear()
        self.registry.fail(self.registry.pending.values(), self.lost)
        self._wake()

    # -- control -------------------------------------------------------------------------------------------------

    def request(self, header: Header, block: bool = True) -> ControlRequest:
        """Send a control request and, if `block`, wait for its answer."""
        request = ControlRequest(header["type"])
        self.submit(request, header)
        if block:
            self.wait(lambda: request.done)
            if request.failure is not None:
                raise request.failure
        return request

    def fetch(self, session: str, number: int) -> Request:
        """A request of this or another session that the cluster still knows, its answers, and those that come.

        KeyError: it does not.
        """
        found = self.registry.fetched.get((session, number))
        if found is None:
            request = FetchRequest(session, number)
            own = None if session == self.name else session
            self.submit(request, {"type": "fetch", "id": 0, "session": own, "request": number})
            self.wait(lambda: request.done)
            if request.found is None:
                raise request.failure or KeyError(number)
            found = self.registry.fetched[session, number] = request.found
        return found

    def close(self) -> None:
        """Say goodbye, end the daemon and close the connection. What is pending fails with ConnectionLost."""
        if self._process != os.getpid():
            return
        self._closing = "this Client is closed"
        if self.lost is None and self._sending.acquire(timeout=1.0):
            try:
                if self._received != self._confirmed:
                    self._outbox.append(self._confirmation())
                self._outbox.extend(map(memoryview, frames.encode({"type": "goodbye"})))
                self._channel.send(self._outbox)
            except OSError:
                pass  # it is gone already
            finally:
                self._sending.release()
        self._channel.shutdown()  # a leader, or else the daemon, finds the end of the stream
        if threading.current_thread() is self._daemon:
            return
        self._daemon.join(timeout=2.0)
        if not self._daemon.is_alive() and self._wake_send >= 0:
            os.close(self._wake_send)
            os.close(self._wake_receive)
            self._wake_send = -1
            self._channel.close()
