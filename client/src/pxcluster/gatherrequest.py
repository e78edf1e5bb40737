"""Requests for the parts of a sequence, one per engine, that are to be put together again."""

from __future__ import annotations

from itertools import accumulate

from .landing import Landing
from .requests import PENDING, DirectRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class GatherRequest(DirectRequest):
    """A direct request to several engines whose answers follow each other in the result."""

    __slots__ = ("_landing",)

    def __init__(self, name: str, kind: str, targets: Sequence[int], label: str | None = None) -> None:
        super().__init__(name, kind, targets, label)
        self._landing = Landing(self.count)

    def land(self, engine: int, sizes: Sequence[int]) -> dict[int, memoryview]:
        """Where buffers of the engine's answer, of these sizes, are to be read to, by index. Called by the reader."""
        slot = self.slot_of(engine)
        if slot is None or self.status(slot) != PENDING:  # one that comes again must not touch what may be in use
            return {}
        return self._landing.place(slot, sizes)

    def whole(self) -> Any:
        """All parts as one array, where they lie; None if that cannot be, or if somebody has had a part.

        From then on the parts are views of it.
        """
        with self.lock:
            if any(value is not None for value in self._values):
                return None
            outcomes = [self._decode(slot) for slot in range(self.count)]
            self._values = [*outcomes]
            if not all(succeeded for succeeded, _ in outcomes):
                return None
            parts = [value for _, value in outcomes]
            whole = self._landing.join(parts)
            if whole is not None:
                ends = accumulate(map(len, parts))
                self._values = [(True, whole[end - len(part) : end]) for part, end in zip(parts, ends, strict=True)]
            return whole
