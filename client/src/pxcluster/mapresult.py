"""Results of maps: one list, however the work was cut; iterable while it comes in."""

from __future__ import annotations

from array import array
from typing import Any

from .asyncresult import AsyncResult
from .gatherrequest import GatherRequest
from .maprequest import MapRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .client import Client
    from .requests import Request


class AsyncMapResult(AsyncResult):
    """The result of a map: a list as long as the input.

    Iterating yields values as they arrive, in the order of the input or, with ``ordered=False``, of their arrival; it
    raises the first failure it meets. ``len`` and ``progress`` count items.

    `sizes`: number of items per slot when slots are chunks (their values are lists), None when each slot is an item.
    `join`: makes the final value of the slots' values. `order`: the slot of each task of its one request, None if they
    are the same.
    """

    def __init__(
        self,
        client: Client,
        requests: Sequence[Request],
        *,
        fname: str = "unknown",
        ordered: bool = True,
        return_exceptions: bool = False,
        sizes: Sequence[int] | None = None,
        join: Callable[[Sequence[Any]], Any] | None = None,
        order: Sequence[int] | None = None,
    ) -> None:
        self._order = order
        super().__init__(client, requests, fname=fname, return_exceptions=return_exceptions)
        self.ordered = ordered
        self._sizes = sizes
        self._join = join

    def _slots(self) -> list[tuple[Request, int]]:
        if self._order is None:
            return super()._slots()
        request = self._requests[0]
        return [(request, slot) for slot in self._order]

    def _evaluate(self) -> None:
        if self._success is None and len(self._requests) == 1:
            whole = self._at_once(self._requests[0])
            if whole is not None:
                self._result_cache = whole
                self._success = True
                return
        super()._evaluate()

    def _at_once(self, request: Request) -> Any:
        """The final value of a request that can give it without a look at each slot, otherwise None."""
        if isinstance(request, MapRequest):
            values = request.values()
            if values is not None and self._order is not None:
                values = [values[slot] for slot in self._order]
            return None if values is None else self._assemble(values)
        return request.whole() if isinstance(request, GatherRequest) else None

    def _assemble(self, values: list[Any]) -> Any:
        if self._join is not None:
            return self._join(values)
        if self._sizes is None:
            return values
        return [item for chunk in values for item in chunk]

    def _assemble_with_exceptions(self, values: list[Any]) -> Any:
        if self._sizes is None and self._join is None:
            return values
        flat: list[Any] = []
        for (request, slot), value in zip(self._slots(), values, strict=True):
            if request.outcome(slot)[0] and isinstance(value, list):
                flat += value
            else:
                flat.append(value)
        return flat

    def __len__(self) -> int:
        return super().__len__() if self._sizes is None else sum(self._sizes)

    @property
    def progress(self) -> int:
        """Number of items that have been answered, of ``len(ar)``."""
        finished = super().progress
        if self._sizes is None:
            return finished
        sized = zip(self._sizes, self._slots(), strict=True)
        return sum(size for size, (request, slot) in sized if request.slot_done(slot))

    def _iterate(self) -> Iterator[Any]:
        return self._values(self._ordered() if self.ordered else self._by_arrival())

    def _values(self, indices: Iterable[int]) -> Iterator[Any]:
        """The values at `indices`, those of chunks one by one."""
        for index in indices:
            value = self._value(index)
            if self._chunked() and isinstance(value, list | tuple):
                yield from value
            else:
                yield value

    def _chunked(self) -> bool:
        return self._sizes is not None or self._join is not None

    def _ordered(self, deadline: float | None = None) -> Iterator[int]:
        index = 0
        for request in self._requests:
            for slot in range(request.count) if self._order is None else self._order:
                self._wait_for(request, slot, deadline)
                yield index
                index += 1

    def _by_arrival(self) -> Iterator[int]:
        if len(self._requests) == 1 and isinstance(self._requests[0], MapRequest):
            arriving = arrivals(self._requests[0], self._wait_until)
            yield from arriving if self._order is None else map(_inverse(self._order).__getitem__, arriving)
            return
        slots = self._slots()
        left = dict.fromkeys(range(len(slots)))
        while left:
            ready = [index for index in left if slots[index][0].slot_done(slots[index][1])]
            for index in ready:
                del left[index]
                yield index
            if not ready:
                self._wait_until(lambda: any(slots[index][0].slot_done(slots[index][1]) for index in left), None)

    def _value(self, index: int) -> Any:
        if len(self._requests) > 1:
            return super()._value(index)
        request = self._requests[0]
        succeeded, value = request.outcome(index if self._order is None else self._order[index])
        if not succeeded and not self._return_exceptions:
            raise self._combine([index]).with_traceback(None)
        return value


def _inverse(order: Sequence[int]) -> array[int]:
    """The task of each slot."""
    tasks = array("I", order)
    for task, slot in enumerate(order):
        tasks[slot] = task
    return tasks


def arrivals(request: MapRequest, wait: Callable[[Callable[[], bool], float | None], bool]) -> Iterator[int]:
    """The tasks of `request` in the order of their results, then those that will never have one."""
    seen = 0
    while seen < request.count:
        if len(request.arrived) == seen:
            if request.done:
                break
            wait(lambda: len(request.arrived) > seen or request.done, None)  # noqa: B023
            continue
        yield request.arrived[seen]
        seen += 1
    if seen < request.count:
        answered = set(request.arrived)
        yield from (slot for slot in range(request.count) if slot not in answered)
