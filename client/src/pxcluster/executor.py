"""A concurrent.futures.Executor over a view."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .asyncresult import AsyncResult
    from .view import View


class ViewExecutor(Executor):
    """PEP 3148 for `view`. Leaving its ``with`` statement waits for the view's calls; engines go on."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._max_workers = len(view)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """As View.apply_async."""
        return self.view.apply_async(fn, *args, **kwargs)

    def map(self, func: Callable[..., Any], *iterables: Any, **kwargs: Any) -> Iterator[Any]:  # type: ignore[override]
        """As View.imap. `timeout` is not supported."""
        if kwargs.pop("timeout", None) is not None:
            warnings.warn("timeout unsupported in ViewExecutor.map", stacklevel=2)
        kwargs.pop("chunksize", None)
        return self.view.imap(func, *iterables, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the view's calls if `wait`, after aborting what has not started if `cancel_futures`."""
        if cancel_futures and self.view.outstanding:
            self.view.abort(block=True)
        if wait:
            self.view.wait()
