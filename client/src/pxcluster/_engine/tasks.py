"""The hot loop: batches of load-balanced tasks. What the engine adds to a task is less than a microsecond."""

from __future__ import annotations

from pickle import dumps as number_dumps

from ..serialize import NUMBERS, loads_plain, loads_task, task_pieces
from . import streams, tracebacks
from .interrupts import deferred_interrupts, enter_user_code, leave_user_code
from .state import ERROR, OK, state
from .unmet import status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Never

    from typing_extensions import Buffer

#: So many failures of one map get their whole traceback on this engine, the others a short one.
FULL_TRACEBACKS = 100


class Map:
    """What the engine keeps of a map between its batches."""

    __slots__ = ("call", "failures", "function", "output_left")

    def __init__(self, function: Buffer) -> None:
        self.function = function
        #: Takes an item, gives its result; None until the function is loaded.
        self.call: Callable[[Any], Any] | None = None
        self.failures = 0
        self.output_left = streams.full_limit()

    def load(self) -> Callable[[Any], Any]:
        """Unpickle the function, once; where that raises, every task of the map raises the same."""
        try:
            with deferred_interrupts():
                self.call = _caller(loads_task(self.function))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.call = _raiser(error)
        return self.call

    def failure(self, error: BaseException) -> bytes:
        """The payload of a failed task."""
        self.failures += 1
        return tracebacks.payload(error, "apply", full=self.failures <= FULL_TRACEBACKS)


_maps: dict[int, Map] = {}


def run_tasks(token: int, map_key: int, function: Buffer | None, items: list[Buffer], first: int) -> None:
    """Run a batch and hand over each result; a task that raises is a result too. `first`: index of the first task.

    An interrupt ends the task in hand, the rest of the batch goes on. Other engines may take from the end of the batch.
    """
    if function is not None and map_key not in _maps:
        _maps[map_key] = Map(function)
    this = _maps[map_key]
    load, load_large = loads_plain, loads_task
    dump, dump_number, numbers, current = task_pieces, number_dumps, NUMBERS, state
    current.token = token
    current.first_task = first
    current.output_left = this.output_left
    current.running = True
    count = len(items)
    position = 0
    goes_on = True
    while goes_on and position < count:
        # The host ignores a second answer to a position, so an interrupt between any two lines does no harm.
        try:
            enter_user_code()
            call = this.call or this.load()
            for position in range(position, count):  # noqa: B020 (goes on where an interrupt left it)
                current.position = position
                try:
                    item = items[position]
                    value = call(load(item) if type(item) is bytes else load_large(item))
                    payload: bytes | list[bytes | memoryview]
                    if type(value) in numbers:
                        payload = dump_number(value, 5)
                    else:
                        payload = dump(value)
                        if len(payload) == 1:
                            payload = payload[0]  # type: ignore[assignment]
                    status, value = OK, None  # it may be large, and is not kept while the next one is made
                except BaseException as error:
                    status, payload = status_of(error), this.failure(error)
                # Looked up each time: in a process that the task has forked it is another one.
                goes_on = current.host.result(token, position, status, payload)
                payload = b""
                if not goes_on:
                    break
            leave_user_code()
        except BaseException as error:
            leave_user_code()
            goes_on = current.host.result(token, position, ERROR, this.failure(error))
        position += 1
    this.output_left = current.output_left
    current.running = False


def fail_tasks(token: int, error: BaseException, count: int) -> None:
    """Answer what is left of a batch with one error."""
    state.running = False
    payload = tracebacks.payload(error, "apply")
    for position in range(count):
        if not state.host.result(token, position, ERROR, payload):
            return


def forget_map(map_key: int) -> None:
    """No more tasks of this map come."""
    _maps.pop(map_key, None)


def _caller(body: dict[str, Any]) -> Callable[[Any], Any]:
    """What to call with an unpickled item."""
    function: Callable[..., Any] = body["function"]
    if body["chunked"]:
        if body["star"]:
            return lambda chunk: [function(*item) for item in chunk]
        return lambda chunk: [function(item) for item in chunk]
    if body["star"]:
        return lambda item: function(*item)
    return function


def _raiser(error: BaseException) -> Callable[[Any], Never]:
    """A function that could not be loaded: each of its tasks fails with the reason."""
    trace = error.__traceback__

    def call(_item: Any) -> Never:
        raise error.with_traceback(trace)

    return call
