"""The shared memory of the controller's host: large buffers are written there once and sent by their place.

The controller hands it over as a file descriptor. Places are the controller's to give: a client writes to those that it
was given, and copies what a frame names, so that no array of the user's depends on what becomes of a place later.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .frames import Bytes, Pieces

#: Buffers of at least so many bytes go through shared memory.
LARGE = 512 << 10
#: Bytes that are read at a time.
_PORTION = 16 << 20
#: Bytes that are written at a time: what the controller sends on to other nodes.
_SEGMENT = 4 << 20
#: So many mappings are kept, and so many bytes of them.
_WINDOWS = 4
_WINDOWS_BYTES = 512 << 20
#: Buffers from this size on are read by two threads, bytes.
_SHARED_WORK = 8 << 20
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14


class SharedMemory:
    """One cluster's, open until :meth:`close`. Threads take turns at writing to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        #: Mappings of places that were written to, by offset, the last one at the end: they cost no faults again.
        self._windows: dict[int, mmap.mmap] = {}

    def write(self, place: int, is_warm: bool, buffer: Bytes | Pieces, told: Callable[[int], None]) -> None:
        """Copy `buffer` to `place` and tell `told` of each portion's bytes. OSError: the memory is full.

        `is_warm`: the place has its pages. Where it has not, a mapping would end the process if the memory is full.
        """
        portions = _portions(buffer)
        if is_warm:
            at = 0
            with self._lock, self._window(place, frames.size_of(buffer)) as window:
                for portion in portions:
                    window[at : at + len(portion)] = portion
                    at += len(portion)
                    told(len(portion))
            return
        for portion in portions:
            while portion:
                count = os.pwrite(self._descriptor, portion, place)
                place += count
                portion = portion[count:]
                told(count)

    def _window(self, place: int, length: int) -> memoryview:
        """A mapping of the place to write through."""
        window = self._windows.pop(place, None)
        if window is None or len(window) < length:
            window = mmap.mmap(self._descriptor, length, offset=place)
            try:
                window.madvise(_POPULATE_WRITE)
            except OSError:
                pass  # an older kernel: each page costs a fault
        self._windows[place] = window
        while len(self._windows) > _WINDOWS or sum(map(len, self._windows.values())) > max(_WINDOWS_BYTES, length):
            del self._windows[next(iter(self._windows))]
        return memoryview(window)[:length]

    def read(self, place: int, length: int, buffer: memoryview | None = None) -> memoryview:
        """A copy of what is at `place`, in `buffer` if there is one of that length."""
        if buffer is None:
            buffer = allocate(length)
        half = length // 2 if length >= _SHARED_WORK else length
        if half < length:  # most of the time goes into fresh pages, which two threads get twice as fast
            other = threading.Thread(target=self._read_into, args=(buffer[half:], place + half))
            other.start()
            try:
                self._read_into(buffer[:half], place)
            finally:
                other.join()
        else:
            self._read_into(buffer, place)
        return buffer

    def _read_into(self, buffer: memoryview, place: int) -> None:
        at = 0
        while at < len(buffer):
            count = os.preadv(self._descriptor, [buffer[at : at + _PORTION]], place + at)
            assert count > 0, "the controller's file is longer than any place"
            at += count

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._windows.clear()


def _portions(buffer: Bytes | Pieces) -> Iterator[memoryview]:
    for piece in frames.pieces_of(buffer):
        view = memoryview(piece).cast("B")
        for at in range(0, len(view), _SEGMENT):
            yield view[at : at + _SEGMENT]


def allocate(length: int) -> memoryview:
    """Zeros to be overwritten. Large ones lie in pages of their own, made at once if one thread is to fill them."""
    if length < LARGE:
        return memoryview(bytearray(length))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if length < _SHARED_WORK:
        flags |= mmap.MAP_POPULATE
    return memoryview(mmap.mmap(-1, length, flags=flags))


def fetch(sock: socket.socket, key: str) -> SharedMemory | None:
    """Ask the controller at the other end of a fresh connection for its memory; None if it has none to share."""
    question = {"type": "memory", "protocol_version": frames.PROTOCOL_VERSION, "key": key}
    sock.sendall(b"".join(frames.encode(question)))
    _, descriptors, _, _ = socket.recv_fds(sock, frames.SMALL, 1)
    return SharedMemory(descriptors[0]) if descriptors else None
