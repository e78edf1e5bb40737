"""Maps over inputs that are taken only as fast as results leave."""

from __future__ import annotations

from array import array
from collections import deque
from time import monotonic
from typing import Any

from . import serialize
from .maprequest import MapRequest
from .shared import Mentions
from .view import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .loadbalanced import LoadBalancedView

#: Inputs are taken for so long before they are sent and results are looked for, seconds.
_FILL = 0.005
_MOST = 1 << 16
#: Pickled inputs whose results have not been asked for, bytes. So much may lie in the client, the controller and the
#: engines together, whatever the number of tasks; one input may be larger.
MOST_BYTES = 64 << 20


class _Chunk:
    """A request and what of it has not been asked for."""

    __slots__ = ("bytes", "offsets", "request", "yielded")

    def __init__(self, request: MapRequest, offsets: array[int]) -> None:
        self.request = request
        self.offsets = offsets
        self.bytes = offsets[-1]
        self.yielded = 0

    def next_slot(self, ordered: bool) -> int | None:
        """A slot whose result is next and has come."""
        request = self.request
        if ordered:
            return self.yielded if request.slot_done(self.yielded) else None
        if len(request.arrived) > self.yielded:
            return request.arrived[self.yielded]
        return None if request.failure is None else request.count - 1

    def release(self, slot: int) -> int:
        """Note that `slot` has been asked for; the bytes of its input."""
        self.yielded += 1
        size = self.offsets[slot + 1] - self.offsets[slot]
        freed = self.bytes if self.is_over() else min(self.bytes, size)
        self.bytes -= freed
        return freed

    def is_over(self) -> bool:
        """Whether every result has been asked for."""
        return self.yielded == self.request.count


class LazyMapIterator:
    """Results of a lazy map. Inputs are taken in growing chunks, one request each.

    Inputs are taken only while fewer than the limit, and less than MOST_BYTES of them, have been sent without their
    results having been asked for. The first inputs are taken and sent at once; the view's flags of that moment hold for
    all. An input iterator that fails, or an input that cannot be pickled, raises here after the results before it.
    """

    def __init__(
        self,
        view: LoadBalancedView,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        ordered: bool,
        limit: int | None,
        return_exceptions: bool,
    ) -> None:
        self._view = view
        self._name = name_of(f)
        self._star = len(sequences) > 1
        #: What the function mentions, until the last inputs are taken; each request holds it as well.
        self._mentions = Mentions()
        with self._mentions:
            self._function = view._packer(self._mentions).pack(f, self._name, star=self._star)
        self._inputs = zip(*sequences, strict=False) if self._star else iter(sequences[0])
        self._ordered = ordered
        self._growing = limit is None
        self._limit = 2 * max(1, len(view)) if limit is None else limit or _MOST
        self._return_exceptions = return_exceptions
        self._options = view._options()
        self._chunks: deque[_Chunk] = deque()
        self._starved = False
        self._unanswered = 0
        self._bytes = 0
        self._exhausted = False
        self._problem: Exception | None = None
        self._results = self._iterate()
        self._take()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._results)

    def cancel(self) -> None:
        """Take no more inputs; results of what has been sent still come."""
        self._exhausted = True
        self._mentions.leases = set()

    def _may_take(self) -> bool:
        return not self._exhausted and self._unanswered < self._limit and self._bytes < MOST_BYTES

    def _take(self) -> None:
        """Take inputs up to the limits, for a short time, and send them."""
        self._grow()
        if not self._may_take():
            return
        dumps = serialize.dumps_task
        packed = bytearray()
        offsets = array("Q", (0,))
        room, room_bytes = self._limit - self._unanswered, MOST_BYTES - self._bytes
        deadline = monotonic() + _FILL
        mentions = Mentions()
        mentions.leases |= self._mentions.leases
        try:
            with mentions:
                while len(offsets) <= room and len(packed) < room_bytes:
                    packed += dumps(next(self._inputs))
                    offsets.append(len(packed))
                    if monotonic() > deadline:
                        break
        except StopIteration:
            self.cancel()
        except Exception as problem:
            self.cancel()
            self._problem = problem
        count = len(offsets) - 1
        if count == 0:
            return
        request = MapRequest(self._name, count)
        self._view._submit(request, self._function, offsets, packed, mentions, self._options)
        self._chunks.append(_Chunk(request, offsets))
        self._unanswered += count
        self._bytes += len(packed)

    def _grow(self) -> None:
        """Double the limit if results were waited for while the engines had little left to do."""
        if self._growing and self._starved and self._limit < _MOST:
            self._starved = False
            unfinished = sum(chunk.request.count - chunk.request.finished() for chunk in self._chunks)
            if 4 * unfinished <= self._limit:
                self._limit *= 2

    def _available(self) -> tuple[_Chunk, int] | None:
        """A chunk and the slot of it whose result is next and has come."""
        for chunk in self._chunks:
            slot = chunk.next_slot(self._ordered)
            if slot is not None:
                return chunk, slot
            if self._ordered:
                break
        return None

    def _iterate(self) -> Iterator[Any]:
        session = self._view.client._session
        while True:
            if self._unanswered <= self._limit // 2 and self._bytes <= MOST_BYTES // 2:
                self._take()
            ready = self._available()
            if ready is not None:
                yield self._value(*ready)
            elif not self._chunks and self._exhausted:
                if self._problem is not None:
                    raise self._problem
                return
            elif self._may_take():
                self._take()
            else:
                self._starved = True
                session.wait(lambda: self._available() is not None)

    def _value(self, chunk: _Chunk, slot: int) -> Any:
        """The result of a slot, which counts no more."""
        self._unanswered -= 1
        self._bytes -= chunk.release(slot)
        if chunk.is_over():
            self._chunks.remove(chunk)
        succeeded, value = chunk.request.outcome(slot)
        if not succeeded and not self._return_exceptions:
            self.cancel()
            raise value.with_traceback(None)
        return value
