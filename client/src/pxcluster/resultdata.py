"""What is known of a call besides its values: its slots, their metadata, and how long everything took."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .reply import Metadata
    from .requests import Request


class ResultData(Future[Any]):
    """The slots of some requests, or with `parts` some of them; a single one if `single`."""

    def __init__(self, requests: Sequence[Request], single: bool, parts: Sequence[tuple[Request, int]] | None) -> None:
        super().__init__()
        self._requests = list(requests)
        self._single = single
        self._parts = None if parts is None else list(parts)

    def _slots(self) -> list[tuple[Request, int]]:
        if self._parts is not None:
            return self._parts
        return [(request, slot) for request in self._requests for slot in range(request.count)]

    def _all_done(self) -> bool:
        if self._parts is not None:
            return all(request.slot_done(slot) for request, slot in self._parts)
        return all(request.done for request in self._requests)

    def _any_failed(self) -> bool:
        if self._parts is not None:
            return any(request.slot_failed(slot) for request, slot in self._parts)
        return any(request.failed() for request in self._requests)

    @property
    def msg_ids(self) -> list[str]:
        """A name per engine or task, understood by Client.get_result and others."""
        return [request.msg_id(slot) for request, slot in self._slots()]

    @property
    def metadata(self) -> Metadata | list[Metadata]:
        """The metadata as it is now: one Metadata, or a list."""
        everything = [request.metadata(slot) for request, slot in self._slots()]
        return everything[0] if self._single else everything

    def timedelta(
        self,
        start: datetime | Iterable[datetime],
        end: datetime | Iterable[datetime],
        start_key: Callable[[Iterable[datetime]], datetime] = min,
        end_key: Callable[[Iterable[datetime]], datetime] = max,
    ) -> float:
        """Seconds between two sets of times, by default from the earliest `start` to the latest `end`."""
        first = start if isinstance(start, datetime) else start_key(start)
        last = end if isinstance(end, datetime) else end_key(end)
        return (last - first).total_seconds()

    def _submitted(self) -> float:
        return min((request.submitted for request in self._requests), default=0.0)

    @property
    def elapsed(self) -> float:
        """Seconds since the submission, or :attr:`wall_time` when it is done."""
        if self._all_done():
            return self.wall_time
        return datetime.now(UTC).timestamp() - self._submitted()

    @property
    def serial_time(self) -> float:
        """Sum of the seconds that engines computed. TimeoutError: not ready."""
        self._check_ready()
        times = (request.times(slot) for request, slot in self._slots())
        return sum(completed - started for started, completed, _ in times if started and completed)

    @property
    def wall_time(self) -> float:
        """Seconds from the submission to the last answer. TimeoutError: not ready."""
        self._check_ready()
        received = [request.times(slot)[2] for request, slot in self._slots()]
        return max((stamp for stamp in received if stamp), default=self._submitted()) - self._submitted()

    def _check_ready(self) -> None:
        if not self._all_done():
            raise TimeoutError("result not ready")
