"""Results of calls that may still be running."""

from __future__ import annotations

import concurrent.futures
import sys
import warnings
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from contextlib import contextmanager
from time import monotonic
from typing import Any

from .error import CompositeError, entry_of
from .reply import METADATA_KEYS
from .requests import ABORTED, DirectRequest
from .resultdata import ResultData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import Self

    from .client import Client
    from .error import Entry
    from .outputs import LiveOutput
    from .requests import Request

_IN_PROGRESS = object()
#: So long cancel() waits for engines to confirm what the controller has aborted, seconds.
_CONFIRMED = 0.25


class AsyncResult(ResultData):
    """The results of a call, one per engine or task. Made by views; it is a ``concurrent.futures.Future`` too.

    Times are in seconds; a timeout of None or below 0 means no limit. Index it for values (``ar[0]``), name it for
    metadata (``ar["stdout"]``, ``ar.engine_id``): one entry, or a list with one per engine or task.
    """

    #: As in ipyparallel, where the owner takes a result from its client: here results go when nobody holds them.
    owner: bool = False

    def __init__(
        self,
        client: Client,
        requests: Sequence[Request],
        *,
        fname: str = "unknown",
        single: bool = False,
        return_exceptions: bool = False,
        parts: Sequence[tuple[Request, int]] | None = None,
    ) -> None:
        super().__init__(requests, single, parts)
        self._client = client
        self._fname = fname
        self._return_exceptions = return_exceptions
        self._live: LiveOutput | None = None
        self._split: tuple[AsyncResult, ...] | None = None
        self._result_cache: Any = _IN_PROGRESS
        self._success: bool | None = None
        self._error: BaseException | None = None

    def _watch(self) -> Self:
        """Become a finished Future when everything has been answered."""
        waiting = len(self._requests) if self._parts is None else len(self._parts)

        def answered() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting <= 0 and self._all_done():
                self._become_finished()

        if self._parts is None:
            for request in self._requests:
                request.when_done(answered)
        else:
            for request, slot in self._parts:
                request.when_done(answered, slot)
        return self

    def _become_finished(self) -> None:
        with self._condition:
            if self._state == "FINISHED":
                return
            failed = self._any_failed()
        try:
            if failed:
                # The Future's own fields serve concurrent.futures.wait(); values are decoded when they are asked for.
                super().set_exception(CompositeError(self._message(), []))
            else:
                super().set_result(None)
        except concurrent.futures.InvalidStateError:
            pass  # two threads saw the last answer

    def _message(self) -> str:
        return f"one or more exceptions raised in: {self._fname}"

    # -- waiting -------------------------------------------------------------------------------------------------

    def _wait_for(self, request: Request, slot: int, deadline: float | None = None) -> None:
        """Wait until a slot has its answer. TimeoutError: it has none at the time `deadline`."""
        if not request.slot_done(slot):
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not self._wait_until(lambda: request.slot_done(slot), left):
                raise TimeoutError("Result not ready.")

    def _wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for `ready`; live output is shown meanwhile, here, in the thread that waits."""
        session = self._client._session
        live = self._live
        if live is None:
            return session.wait(ready, timeout)
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            done = ready()
            live.show(final=done)
            left = None if deadline is None else deadline - monotonic()
            if done or (left is not None and left <= 0):
                return done
            delay = live.delay()
            waits = [seconds for seconds in (left, delay) if seconds is not None]
            session.wait(lambda: ready() or live.pending(), min(waits) if waits else None)

    def wait(self, timeout: float | None = -1, return_when: str | None = None) -> Any:
        """Wait until everything has been answered; whether it has.

        With `return_when` (a constant of concurrent.futures): the sets (done, pending) of results, one per engine or
        task, when the first has completed, the first has failed, or all have completed.
        """
        timeout = _limit(timeout)
        if return_when is None:
            return self._wait_until(self._all_done, timeout)
        if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
            raise ValueError(f"Unrecognized return_when={return_when!r}")
        self._wait_until(lambda: self._enough(return_when), timeout)
        results = self.split()
        done = {result for result in results if result._all_done()}
        return done, set(results) - done

    def _enough(self, return_when: str) -> bool:
        if self._all_done():
            return True
        if return_when == FIRST_COMPLETED:
            return any(request.finished() for request, _ in self._slots())
        if return_when == FIRST_EXCEPTION:
            return any(request.slot_done(slot) and request.slot_failed(slot) for request, slot in self._slots())
        return False

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait until all output has come. It comes before the answer, so this is :meth:`wait`."""
        return bool(self.wait(timeout))

    def ready(self) -> bool:
        """Whether everything has been answered."""
        return self._all_done() or bool(self._wait_until(self._all_done, 0))

    def done(self) -> bool:
        """Whether everything has been answered."""
        return self._all_done()

    def running(self) -> bool:
        """Whether something has not been answered."""
        return not self._all_done()

    def cancel(self) -> bool:
        """Abort what has not started. True: nothing had started, and everything ended as aborted.

        What runs, runs on, so False says that something had started or finished; the rest is aborted all the same.
        What has not started is confirmed within milliseconds, wherever it waits; what is still unconfirmed after a
        moment (a quarter of a second) runs: then False as well, and :meth:`cancelled` knows in the end.
        Nothing is aborted, and False returned, if this result is only a part of its call.
        """
        if not self._all_done():
            if not self._is_whole():
                return False
            pending = [request.id for request in self._requests if not request.done]
            session = self._client._session
            session.request({"type": "abort", "id": 0, "requests": pending, "targets": None})
            session.wait(lambda: self._all_done() or not self._may_be_cancelled(), _CONFIRMED)
        return self.cancelled()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what engines run of this call now, and in nothing else.

        Not in ipyparallel. What has not started goes on afterwards: :meth:`abort` it before.
        """
        pending = [request.id for request in self._requests if not request.done]
        if pending:
            self._client._session.request({"type": "interrupt", "id": 0, "requests": pending})

    def cancelled(self) -> bool:
        """Whether every call or task was aborted before it started."""
        if self._parts is not None:
            return all(request.status(slot) == ABORTED for request, slot in self._parts)
        return all(request.number_of(ABORTED) == request.count for request in self._requests)

    def _may_be_cancelled(self) -> bool:
        """Whether nothing has been answered but with aborted."""
        return all(request.finished() == request.number_of(ABORTED) for request in self._requests)

    def _is_whole(self) -> bool:
        """Whether nobody else's results are in these requests."""
        if self._parts is None:
            return True
        slots = {(request.id, slot) for request, slot in self._parts}
        return len(slots) == sum({request.id: request.count for request, _ in self._parts}.values())

    def successful(self) -> bool:
        """Whether nothing failed. RuntimeError: not everything has been answered."""
        if not self.ready():
            raise RuntimeError("Cannot check successful() if not done.")
        self._evaluate()
        return bool(self._success)

    # -- values --------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Decode everything that has been answered, once."""
        if self._success is not None:
            return
        outcomes = [request.outcome(slot) for request, slot in self._slots()]
        failed = [index for index, (succeeded, _) in enumerate(outcomes) if not succeeded]
        if failed:
            self._error = self._combine(failed)
            self._result_cache = [value for _, value in outcomes]
            self._success = False
        else:
            self._result_cache = self._assemble([value for _, value in outcomes])
            self._success = True

    def _combine(self, failed: Iterable[int]) -> BaseException:
        """The exception for the slots that failed."""
        slots = self._slots()
        entries: list[Entry] = []
        for index in failed:
            request, slot = slots[index]
            problem = request.outcome(slot)[1]
            if self._single or request.failure is not None:
                return problem  # type: ignore[no-any-return]
            entries += entry_of(problem, request.engine(slot))
        return CompositeError(self._message(), entries)

    def _assemble(self, values: list[Any]) -> Any:
        return values[0] if self._single else values

    def _assemble_with_exceptions(self, values: list[Any]) -> Any:
        return values[0] if self._single else values

    def get(
        self, timeout: float | None = None, return_exceptions: bool | None = None, return_when: str | None = None
    ) -> Any:
        """Wait for the values and return them: a list, or the bare value of a call on one engine or of one task.

        Raises TimeoutError after `timeout` seconds, RemoteError (one engine or task) or CompositeError if the call
        failed; with `return_exceptions` the exceptions stand in the list instead. With
        ``return_when=FIRST_EXCEPTION`` the first failure is raised without waiting for the rest.
        """
        if return_when == FIRST_COMPLETED:
            warnings.warn("Ignoring unsupported AsyncResult.get(return_when=FIRST_COMPLETED)", stacklevel=2)
        elif return_when == FIRST_EXCEPTION:
            done, pending = self.wait(timeout, return_when)
            for result in done if pending else ():
                if not result.successful():
                    return result.get(return_exceptions=return_exceptions)
        if not self._all_done() and not self.wait(timeout):
            raise TimeoutError("Result not ready.")
        self._evaluate()
        if self._error is None:
            return self._result_cache
        if self._return_exceptions if return_exceptions is None else return_exceptions:
            return self._assemble_with_exceptions(self._result_cache)
        raise self._error.with_traceback(None)

    def result(self, timeout: float | None = None) -> Any:
        """As :meth:`get`."""
        return self.get(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that :meth:`get` would raise, or None."""
        if not self._all_done() and not self.wait(timeout):
            raise TimeoutError("Result not ready.")
        self._evaluate()
        return self._error

    @property
    def r(self) -> Any:
        """As :meth:`get` without a time limit."""
        return self.get()

    def get_dict(self, timeout: float | None = -1) -> dict[int, Any]:
        """The values by engine id. ValueError: an engine ran more than one task."""
        values = self.get(timeout)
        engines = [request.engine(slot) for request, slot in self._slots()]
        found: dict[int, Any] = {}
        for engine, value in zip(engines, [values] if self._single else values, strict=True):
            if engine in found:
                raise ValueError(f"Cannot build dict, {engines.count(engine)} jobs ran on engine #{engine}")
            found[engine] = value  # type: ignore[index]
        return found

    @property
    def result_dict(self) -> dict[int, Any]:
        """As :meth:`get_dict`."""
        return self.get_dict()

    def __await__(self) -> Generator[Any, None, Any]:
        """``await ar``: what :meth:`get` gives, without blocking the event loop. Cancelled, it is as :meth:`cancel`."""
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __iter__(self) -> Iterator[Any]:
        if self._single:
            raise TypeError("AsyncResults with a single result are not iterable.")
        return self._iterate()

    def _iterate(self) -> Iterator[Any]:
        for index, (request, slot) in enumerate(self._slots()):
            self._wait_for(request, slot)
            yield self._value(index)

    def _value(self, index: int) -> Any:
        request, slot = self._slots()[index]
        succeeded, value = request.outcome(slot)
        if not succeeded and not self._return_exceptions:
            raise self._combine([index]).with_traceback(None)
        return value

    def __len__(self) -> int:
        return len(self._parts) if self._parts is not None else sum(request.count for request in self._requests)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: int | slice | str) -> Any:
        """Values by index or slice (TimeoutError: not ready), metadata by name (KeyError: no such name)."""
        if isinstance(key, str):
            if key not in METADATA_KEYS:
                raise KeyError(key)
            if not self._all_done():
                self.wait(0)
            values = [request.metadata(slot)[key] for request, slot in self._slots()]
            return values[0] if self._single else values
        if not isinstance(key, int | slice):
            raise TypeError(f"Invalid key type {type(key)!r}, must be 'int','slice', or 'str'")
        if not self.ready():
            raise TimeoutError("Result not ready.")
        return self.get(return_exceptions=self._return_exceptions)[key]

    def __getattr__(self, key: str) -> Any:
        if key not in METADATA_KEYS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")
        return self[key]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *METADATA_KEYS})

    def __repr__(self) -> str:
        state = "pending"
        if self._all_done():
            state = "failed" if self._any_failed() or self._error is not None else "finished"
        return f"<{type(self).__name__}({self._fname}): {state}>"

    # -- what is known of it -------------------------------------------------------------------------------------

    @property
    def progress(self) -> int:
        """Number of calls or tasks that have been answered, of ``len(ar)``."""
        if not self._all_done():
            self.wait(0)
        if self._parts is not None:
            return sum(request.slot_done(slot) for request, slot in self._parts)
        return sum(request.finished() for request in self._requests)

    @property
    def sent(self) -> bool:
        """Whether the arguments have left this process; they have when the call returns."""
        return True

    def wait_for_send(self, timeout: float | None = -1) -> bool:
        """Wait until the arguments have left this process; they have when the call returns."""
        return True

    def _check_ready(self) -> None:
        if not self.ready():
            raise TimeoutError("result not ready")

    def abort(self) -> None:
        """Abort what has not started. RuntimeError: everything has been answered."""
        if self.ready():
            raise RuntimeError("Can't abort, I am already done!")
        self._client.abort(self, block=True)

    # -- parts ---------------------------------------------------------------------------------------------------

    def split(self) -> tuple[AsyncResult, ...]:
        """A result per engine or task, each a Future of its own."""
        if self._split is None:
            if len(self._slots()) == 1:
                return (self,)
            self._split = tuple(
                AsyncResult(
                    self._client,
                    [request],
                    fname=self._fname,
                    single=True,
                    return_exceptions=self._return_exceptions,
                    parts=[(request, slot)],
                )._watch()
                for request, slot in self._slots()
            )
        return self._split

    @classmethod
    def join(cls, *async_results: AsyncResult) -> AsyncResult:
        """One result of several, the inverse of :meth:`split`. ValueError: none given."""
        if not async_results:
            raise ValueError("Must specify at least one AsyncResult to join")
        first = async_results[0]
        if len(async_results) == 1:
            return first
        parts = [part for result in async_results for part in result._slots()]
        return AsyncResult(
            first._client,
            [request for result in async_results for request in result._requests],
            fname=first._fname,
            return_exceptions=first._return_exceptions,
            parts=parts,
        )._watch()

    # -- shown to the user ---------------------------------------------------------------------------------------

    def wait_interactive(
        self,
        interval: float = 0.1,
        timeout: float | None = -1,
        widget: bool | None = None,
        return_when: str | None = ALL_COMPLETED,
    ) -> None:
        """Wait with a progress bar of tasks, or of the engines that have answered a direct call.

        It is updated every `interval` seconds; `widget`: None finds out what works here.
        """
        from .progress import progress

        limit = _limit(timeout)
        deadline = None if limit is None else monotonic() + limit
        enough = self._all_done if return_when in (None, ALL_COMPLETED) else lambda: self._enough(str(return_when))
        total = len(self)
        direct = total == len(self._slots()) and all(isinstance(request, DirectRequest) for request in self._requests)
        unit = "engines" if direct else "tasks"
        bar = progress(widget=widget, total=total, initial=self.progress, unit=unit, desc=self._fname)
        try:
            while not self._wait_until(enough, interval) and (deadline is None or monotonic() <= deadline):
                bar.update(self.progress - bar.n)
        finally:
            bar.update(self.progress - bar.n)
            bar.close()

    @contextmanager
    def stream_output(self) -> Iterator[None]:
        """Within the context output is shown while the result is waited for, the rest of it at the end."""
        from .outputs import LiveOutput

        live = LiveOutput(self)
        self._live = live
        live.attach()
        try:
            yield
        finally:
            self._live = None
            live.detach()
            sys.stdout.flush()

    def display_outputs(self, groupby: str = "type", result_only: bool = False) -> None:
        """Show what was printed, displayed and returned, by ``'type'``, ``'engine'`` or ``'order'``.

        TimeoutError: not ready. `result_only`: only what was returned.
        """
        from .outputs import display_outputs

        self._check_ready()
        display_outputs(self, groupby, result_only)


class AsyncHubResult(AsyncResult):
    """The results of calls that this client did not make with a view: fetched from the cluster, or made again."""


def _limit(timeout: float | None) -> float | None:
    return None if timeout is None or timeout < 0 else timeout
