"""What has been answered of a map: columns, and pickles that stay packed until somebody asks for their values."""

from __future__ import annotations

from array import array
from itertools import pairwise
from time import time

from . import serialize
from .requests import OK, PENDING, Request, decode_error, unloadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .frames import Bytes
    from .reply import Metadata
    from .requests import Outcome

#: Pickles of more bytes than this, on average, are loaded from where they are; smaller ones are copied once, together.
_SMALL = 4096
#: A payload of so many bytes may hold more than pickles alone.
_LARGE = 64 << 10


class _Run:
    """Results of consecutive tasks that came together: their pickles back to back."""

    __slots__ = ("count", "first", "left", "offsets", "payload")

    def __init__(self, first: int, offsets: memoryview, payload: memoryview) -> None:
        self.first = first
        self.count = len(offsets) - 1
        #: u64[n + 1], bytes, into `payload`.
        self.offsets = offsets
        self.payload = payload
        #: How many have not been decoded. Nobody asks for the others again, so the last one frees the bytes.
        self.left = self.count

    def pickle(self, slot: int) -> memoryview:
        at = slot - self.first
        return self.payload[self.offsets[at] : self.offsets[at + 1]]

    def value(self, slot: int) -> Any:
        """The one of `slot`, loaded."""
        at = slot - self.first
        return self._load(self.offsets[at], self.offsets[at + 1])

    def _load(self, start: int, end: int) -> Any:
        # A large result has come alone: it begins where the payload does, which is aligned.
        return serialize.loads_task(self.payload[start:end], start == 0 and not self.payload.readonly)

    def values(self) -> list[Any]:
        """All of them loaded, in order. Raises whatever loading one raises."""
        offsets = self.offsets.tolist()
        if len(self.payload) <= _SMALL * self.count and len(self.payload) < _LARGE:
            data = bytes(self.payload)
            loads = serialize.loads_plain
            return [loads(data[start:end]) for start, end in pairwise(offsets)]
        return [self._load(start, end) for start, end in pairwise(offsets)]

    def let_go(self, count: int) -> None:
        """So many have been decoded."""
        self.left -= count
        if self.left == 0:
            self.offsets = self.payload = memoryview(b"")


class MapRequest(Request):
    """Load-balanced tasks. Everything is kept in columns; `arrived` lists the tasks in the order of their results."""

    __slots__ = (
        "_completed", "_decoded", "_engines", "_received", "_run_of", "_runs", "_started", "_states", "_tries",
        "_values", "after", "arrived", "follow",
    )  # fmt: skip

    def __init__(self, name: str, tasks: int, label: str | None = None) -> None:
        super().__init__(name, tasks, label)
        #: The msg_ids that its tasks wait for; lists that all of its metadata share.
        self.after: list[str] = []
        self.follow: list[str] = []
        #: How often tasks were tried, those that were not tried just once.
        self._tries: dict[int, int] = {}
        self._states = bytearray((PENDING,)) * tasks
        self._engines = memoryview(bytearray(4 * tasks)).cast("I")
        self._started = memoryview(bytearray(8 * tasks)).cast("d")
        self._completed = memoryview(bytearray(8 * tasks)).cast("d")
        self._received = memoryview(bytearray(8 * tasks)).cast("d")
        #: The run that holds the pickle of each answered task, by its place in `_runs`.
        self._run_of = memoryview(bytearray(4 * tasks)).cast("I")
        self._runs: list[_Run] = []
        self._values: list[Any] = [None] * tasks
        #: 1: `_values` has the value; 2: it has the exception.
        self._decoded = bytearray(tasks)
        self.arrived = array("I")

    # -- filled by the reader ------------------------------------------------------------------------------------

    def take_results(self, buffers: list[Bytes]) -> list[Callable[[], None]]:
        """Fill the slots of one frame of results; the callbacks to run."""
        slots = memoryview(buffers[0]).cast("I").tolist()
        before = len(self.arrived)
        for begin, end in _consecutive(slots):
            if self._states.count(PENDING, slots[begin], slots[begin] + end - begin) == end - begin:
                self._take_run(slots[begin], begin, end, buffers)
                continue
            for at in range(begin, end):  # a result that has come before is ignored
                if self._states[slots[at]] == PENDING:
                    self._take_run(slots[at], at, at + 1, buffers)
        callbacks: list[Callable[[], None]] = []
        if self._slot_callbacks or self.listener is not None:
            for slot in self.arrived[before:]:
                callbacks += self.slot_filled(slot)
        if len(self.arrived) == self.count:
            callbacks += self.finish()
        return callbacks

    def _take_run(self, first: int, begin: int, end: int, buffers: list[Bytes]) -> None:
        """Fill the slots from `first` on with rows `begin` to `end` of the columns of a frame."""
        count, last = end - begin, first + end - begin
        engines, statuses = memoryview(buffers[1]).cast("I"), memoryview(buffers[2])
        started, completed = memoryview(buffers[3]).cast("d"), memoryview(buffers[4]).cast("d")
        offsets, payload = memoryview(buffers[5]).cast("Q"), memoryview(buffers[6])
        self._engines[first:last] = engines[begin:end]
        self._started[first:last] = started[begin:end]
        self._completed[first:last] = completed[begin:end]
        self._received[first:last] = array("d", (time(),)) * count
        self._run_of[first:last] = array("I", (len(self._runs),)) * count
        self._runs.append(_Run(first, offsets[begin : end + 1], payload))
        if len(buffers) > 7:
            tries = memoryview(buffers[7]).cast("I")[begin:end]
            self._tries.update((first + at, often) for at, often in enumerate(tries) if often != 1)
        # Last: who sees the state finds the rest.
        self._states[first:last] = statuses[begin:end]
        self.arrived.extend(range(first, last))

    # -- asked by results ----------------------------------------------------------------------------------------

    def finished(self) -> int:
        return len(self.arrived) if self.failure is None else self.count

    def failed(self) -> bool:
        states = self._states
        return self.failure is not None or states.count(OK) + states.count(PENDING) != self.count

    def status(self, slot: int) -> int:
        return self._states[slot]

    def number_of(self, status: int) -> int:
        return self._states.count(status)

    def engine(self, slot: int) -> int | None:
        return None if self._states[slot] == PENDING else self._engines[slot]

    def times(self, slot: int) -> tuple[float | None, float | None, float | None]:
        if self._states[slot] == PENDING:
            return None, None, None
        return self._started[slot], self._completed[slot], self._received[slot]

    def _times_and_output(self, slot: int) -> Metadata:
        metadata = super()._times_and_output(slot)
        metadata["after"], metadata["follow"] = self.after, self.follow
        metadata["tries"] = self._tries.get(slot, 1)
        return metadata

    # -- values --------------------------------------------------------------------------------------------------

    def outcome(self, slot: int) -> Outcome:
        if not self._decoded[slot]:
            with self.lock:
                if not self._decoded[slot]:
                    self._decode(slot)
        return self._decoded[slot] == 1, self._values[slot]

    def values(self) -> list[Any] | None:
        """The values of all tasks when every one succeeded, otherwise None."""
        if self._states.count(OK) != self.count:
            return None
        with self.lock:
            for run in self._runs:
                self._decode_run(run)
        return None if self._decoded.count(2) else list(self._values)

    def _decode_run(self, run: _Run) -> None:
        first, last = run.first, run.first + run.count
        if run.left == run.count:
            try:
                loaded = run.values()
            except Exception:
                pass  # one by one, to learn which
            else:
                self._values[first:last] = loaded
                self._decoded[first:last] = b"\1" * run.count
                run.let_go(run.count)
        for slot in range(first, last) if run.left else ():
            if not self._decoded[slot]:
                self._decode(slot)

    def _decode(self, slot: int) -> None:
        """Find the value of a slot (decoded 1), or its exception (decoded 2)."""
        state = self._states[slot]
        if state == PENDING:
            self._values[slot] = self.failure or TimeoutError("Result not ready.")
            if self.failure is not None:
                self._decoded[slot] = 2
            return
        run = self._runs[self._run_of[slot]]
        decoded = 2
        if state == OK:
            try:
                self._values[slot] = run.value(slot)
                decoded = 1
            except Exception as reason:
                self._values[slot] = unloadable(self.engine(slot), reason)
        else:
            self._values[slot] = decode_error(state, run.pickle(slot), self.msg_id(slot), self.ending)
        self._decoded[slot] = decoded
        run.let_go(1)


def _consecutive(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The parts (begin, end) of `slots` in which each is one more than the one before."""
    begin = 0
    if slots and slots != list(range(slots[0], slots[0] + len(slots))):
        for at, (one, following) in enumerate(pairwise(slots), 1):
            if following != one + 1:
                yield begin, at
                begin = at
    if slots:
        yield begin, len(slots)
