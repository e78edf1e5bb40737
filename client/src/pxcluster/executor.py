"""A concurrent.futures.Executor over a view."""

from __future__ import annotations

from concurrent.futures import Executor
from time import monotonic
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .asyncresult import AsyncResult
    from .mapresult import AsyncMapResult
    from .view import View


class ViewExecutor(Executor):
    """PEP 3148 for `view`. Leaving its ``with`` statement waits for the view's calls; engines go on."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._max_workers = len(view)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """As View.apply_async."""
        return self.view.apply_async(fn, *args, **kwargs)

    def map(  # type: ignore[override]
        self,
        func: Callable[..., Any],
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As View.imap. `chunksize` is not needed: tasks are packed by their duration.

        With `timeout` all inputs are taken at once; TimeoutError when a result is not there that many seconds after
        the call. What has not started is aborted then, and when the iterator is closed or meets a failure.
        """
        if timeout is None:
            return self.view.imap(func, *iterables, **kwargs)
        deadline = monotonic() + timeout
        return _until(deadline, self.view.map_async(func, *iterables, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the view's calls if `wait`, after aborting what has not started if `cancel_futures`."""
        if cancel_futures and self.view.outstanding:
            self.view.abort(block=True)
        if wait:
            self.view.wait()


def _until(deadline: float, result: AsyncMapResult | list[Any]) -> Iterator[Any]:
    """The values of `result` as they come, in order, until the time `deadline`."""
    if isinstance(result, list):
        return
    try:
        yield from result._values(result._ordered(deadline))
    finally:
        if not result.done():
            result._client.abort(result, block=False)
