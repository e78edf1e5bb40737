"""Large buffers of replies that come before their replies, while the controller still receives them from an engine."""

from __future__ import annotations

from .frames import Decoder, FrameError
from .sharedmemory import allocate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .frames import Bytes, Frame, Header
    from .sharedmemory import SharedMemory


class AheadDecoder(Decoder):
    """A decoder for one connection, which keeps what comes ahead until the reply names it, and shows the reply alone.

    `memory`: what the controller shares, if it does; parts of buffers there come as news of how far they are written.
    `land`: where buffers of a frame belong, as for :class:`Decoder`.
    """

    def __init__(
        self, memory: SharedMemory | None, land: Callable[[Header, Sequence[int]], Mapping[int, memoryview]]
    ) -> None:
        super().__init__(allocate, self._read_place, self._place)
        self._memory = memory
        self._land_reply = land
        #: By the controller's place: the whole buffer, and how much of it is there.
        self._begun: dict[int, tuple[memoryview, int]] = {}

    def received(self, count: int) -> Iterator[Frame]:
        """As in the base class, without the frames about what comes ahead."""
        for header, buffers in super().received(count):
            if header["type"] == "ahead":
                self._take(header, buffers)
            elif header["type"] == "forget":
                self._begun.pop(header["place"], None)
            else:
                yield header, buffers

    def _place(self, header: Header, sizes: Sequence[int]) -> Mapping[int, memoryview]:
        if header["type"] == "ahead":
            part = self._part(header)
            if [len(part)] != list(sizes):
                raise FrameError(f"{sizes} bytes come ahead where {len(part)} were announced")
            return {0: part}
        return self._land_reply(header, sizes)

    def _part(self, header: Header) -> memoryview:
        """The memory for a part; with the first one that of the whole buffer is made."""
        place, at = header["place"], header["at"]
        if at == 0:
            reply = {"type": "reply", "id": header["id"], "engine": header["engine"]}
            sizes, index = header["sizes"], header["buffer"]
            buffer = self._land_reply(reply, sizes).get(index)
            self._begun[place] = (allocate(sizes[index]) if buffer is None else buffer), 0
        elif place not in self._begun or self._begun[place][1] != at:
            raise FrameError(f"a part from byte {at} on comes ahead without those before it")
        return self._begun[place][0][at : header["upto"]]

    def _take(self, header: Header, buffers: Sequence[Bytes]) -> None:
        """A part has come."""
        place, at = header["place"], header["at"]
        if not buffers or isinstance(buffers[0], bytes):  # it was not received to where it belongs
            part = self._part(header)
            if buffers:
                part[:] = buffers[0]
            elif self._memory is not None:
                self._memory.read(place + at, len(part), part)
        self._begun[place] = self._begun[place][0], header["upto"]

    def _read_place(self, place: int, length: int, landed: memoryview | None) -> memoryview:
        """The bytes at a place that a reply names."""
        buffer, done = self._begun.pop(place, (landed, 0))
        if self._memory is None:
            if buffer is None or done < length or len(buffer) != length:
                raise FrameError(f"a reply names {length} bytes that have not come before it")
            return buffer
        if buffer is None or len(buffer) != length:
            return self._memory.read(place, length)
        if done < length:
            self._memory.read(place + done, length - done, buffer[done:])
        return buffer
