"""Maps over inputs that are taken only as fast as results leave."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from .loadbalanced import pack, pack_function
from .requests import MapRequest
from .view import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .loadbalanced import LoadBalancedView

#: Inputs are taken for so long before they are sent and results are looked for, seconds.
_FILL = 0.005
_MOST = 1 << 16


class LazyMapIterator:
    """Results of a lazy map. Inputs are taken in growing chunks, one request each.

    The first inputs are taken and sent at once. A failing input iterator raises here, after the results before it.
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
        self._function = pack_function(f, self._name, star=self._star)
        self._inputs = zip(*sequences, strict=False) if self._star else iter(sequences[0])
        self._ordered = ordered
        self._growing = limit is None
        self._limit = 2 * max(1, len(view)) if limit is None else limit or _MOST
        self._return_exceptions = return_exceptions
        self._requests: deque[MapRequest] = deque()
        self._yielded: dict[int, int] = {}
        self._unanswered = 0
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

    def _take(self) -> None:
        """Take inputs up to the limit, for a short time, and send them."""
        room = self._limit - self._unanswered
        if self._exhausted or room <= 0:
            return
        items: list[Any] = []
        deadline = monotonic() + _FILL
        try:
            while len(items) < room:
                items.append(next(self._inputs))
                if monotonic() > deadline:
                    break
        except StopIteration:
            self._exhausted = True
        except Exception as problem:
            self._exhausted = True
            self._problem = problem
        if not items:
            return
        offsets, packed = pack(items)
        request = MapRequest(self._name, len(items))
        self._view._submit(request, self._function, offsets, packed, self._view._options())
        self._requests.append(request)
        self._yielded[id(request)] = 0
        self._unanswered += len(items)
        if self._growing and self._limit < _MOST:
            self._limit *= 2

    def _available(self) -> tuple[MapRequest, int] | None:
        """A slot whose result is next and has come."""
        for request in self._requests:
            seen = self._yielded[id(request)]
            if self._ordered:
                return (request, seen) if request.slot_done(seen) else None
            if len(request.arrived) > seen:
                return request, request.arrived[seen]
            if request.failure is not None:
                return request, request.count - 1
        return None

    def _iterate(self) -> Iterator[Any]:
        session = self._view.client._session
        while True:
            if self._unanswered <= self._limit // 2:
                self._take()
            ready = self._available()
            if ready is None:
                if self._requests:
                    if not self._exhausted and self._unanswered < self._limit:
                        self._take()
                        if self._available() is not None:
                            continue
                        if not self._exhausted and self._unanswered < self._limit:
                            continue
                    session.wait(lambda: self._available() is not None)
                elif self._exhausted:
                    if self._problem is not None:
                        raise self._problem
                    return
                continue
            request, slot = ready
            self._yielded[id(request)] += 1
            self._unanswered -= 1
            if self._yielded[id(request)] == request.count:
                self._requests.remove(request)
                del self._yielded[id(request)]
            succeeded, value = request.outcome(slot)
            if not succeeded and not self._return_exceptions:
                self.cancel()
                raise value.with_traceback(None)
            yield value
