"""What all views share: flags, apply and map in three forms, decorators, and the control of their own calls."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from .asyncresult import AsyncResult
    from .client import Client
    from .executor import ViewExecutor
    from .remotefunction import ParallelFunction, RemoteFunction
    from .requests import Request


def name_of(function: Any) -> str:
    """The name under which a function appears in results and errors."""
    name = getattr(function, "__name__", None) or getattr(function, "name", None)
    return name if isinstance(name, str) else str(function)


class View:
    """A set of engines and the way work reaches them; made by Client, see DirectView and LoadBalancedView.

    Flags: `block` (wait for results), `targets`, `label` (the user's name for the calls), `track` (kept for
    ipyparallel's sake: arguments have always left this process when a call returns).
    """

    _flag_names: tuple[str, ...] = ("targets", "block", "track", "label")

    block: bool
    track: bool
    targets: Any
    label: str | None

    def __init__(self, client: Client, targets: Any = None, **flags: Any) -> None:
        self.client = client
        self.targets = targets
        self.block = client.block
        self.track = False
        self.label = None
        self._requests: list[tuple[int, int]] = []
        self.set_flags(**flags)

    def __repr__(self) -> str:
        text = str(self.targets)
        return f"<{type(self).__name__} {text[:12] + '...]' if len(text) > 16 else text}>"

    def __len__(self) -> int:
        if isinstance(self.targets, list):
            return len(self.targets)
        return 1 if isinstance(self.targets, int) else len(self.client)

    def _check_flag(self, name: str, value: Any) -> None:
        """Raise KeyError or ValueError before anything is changed."""
        if name not in self._flag_names:
            raise KeyError(f"Invalid name: {name!r}")

    def set_flags(self, **kwargs: Any) -> Self:
        """Set flags by name and return the view. KeyError: no such flag; then none is set."""
        for name, value in kwargs.items():
            self._check_flag(name, value)
        for name, value in kwargs.items():
            setattr(self, name, value)
        return self

    @contextmanager
    def temp_flags(self, **kwargs: Any) -> Iterator[None]:
        """Flags that hold inside a ``with`` statement."""
        saved = {name: getattr(self, name) for name in self._flag_names}
        self.set_flags(**kwargs)
        try:
            yield
        finally:
            self.__dict__.update(saved)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _apply(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], block: bool) -> Any:
        raise NotImplementedError

    def apply(self, __pxcluster_f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` on engines: the result if the view blocks, otherwise an AsyncResult."""
        return self._apply(__pxcluster_f, args, kwargs, self.block)

    def apply_async(self, __pxcluster_f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call ``f(*args, **kwargs)`` on engines and return an AsyncResult at once."""
        return self._apply(__pxcluster_f, args, kwargs, False)  # type: ignore[no-any-return]

    def apply_sync(self, __pxcluster_f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` on engines and return the result."""
        return self._apply(__pxcluster_f, args, kwargs, True)

    def map(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """As the builtin map; see the subclasses."""
        raise NotImplementedError

    def map_async(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """:meth:`map` that does not wait."""
        if "block" in kwargs:
            raise TypeError("map_async doesn't take a `block` keyword argument.")
        return self.map(f, *sequences, block=False, **kwargs)

    def map_sync(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Any:
        """:meth:`map` that waits and returns a list."""
        if "block" in kwargs:
            raise TypeError("map_sync doesn't take a `block` keyword argument.")
        return self.map(f, *sequences, block=True, **kwargs)

    def imap(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Iterator[Any]:
        """An iterator over the results of :meth:`map_async`."""
        return iter(self.map_async(f, *sequences, **kwargs))

    def remote(self, block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], RemoteFunction]:
        """Decorator: the function runs on this view's engines when it is called."""
        from .remotefunction import remote

        return remote(self, block=self.block if block is None else block, **flags)

    def parallel(
        self, dist: str = "b", block: bool | None = None, **flags: Any
    ) -> Callable[[Callable[..., Any]], ParallelFunction]:
        """Decorator: the function's ``map`` runs on this view's engines."""
        from .remotefunction import parallel

        return parallel(self, dist=dist, block=self.block if block is None else block, **flags)

    # -- own calls -----------------------------------------------------------------------------------------------

    def _record(self, *requests: Request) -> None:
        for request in requests:
            self._requests.append((request.id, request.count))
            self.client._record(request)

    @property
    def history(self) -> list[str]:
        """The msg_ids of this view's calls, oldest first."""
        return self.client._msg_ids(self._requests)

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of this view's calls that have not been answered."""
        return set(self.history) & self.client.outstanding

    @property
    def results(self) -> Any:
        """The results of this view's calls by msg_id; see Client.results."""
        from .jobs import ResultsByName

        return ResultsByName(self.client, metadata=False, of=self)

    @property
    def executor(self) -> ViewExecutor:
        """A concurrent.futures.Executor that uses this view."""
        from .executor import ViewExecutor

        return ViewExecutor(self)

    def wait(self, jobs: Any = None, timeout: float = -1) -> bool:
        """Wait for `jobs` (default: all calls of this view), at most `timeout` seconds; whether they are done."""
        return self.client.wait(self.history if jobs is None else jobs, timeout)

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> Any:
        """Abort what has not started of `jobs` (default: all outstanding calls of this view)."""
        jobs = list(self.outstanding) if jobs is None else jobs
        return self.client.abort(
            jobs, self.targets if targets is None else targets, self.block if block is None else block
        )

    def queue_status(self, targets: Any = None, verbose: bool = False) -> Any:
        """See Client.queue_status."""
        return self.client.queue_status("all" if self._targets(targets) is None else self._targets(targets), verbose)

    def _targets(self, targets: Any) -> Any:
        return self.targets if targets is None or targets == "all" else targets

    def shutdown(
        self, targets: Any = None, restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> None:
        """See Client.shutdown."""
        self.client.shutdown(targets=self._targets(targets), restart=restart, hub=hub, block=block)

    def get_result(self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = False) -> AsyncResult:
        """The AsyncResult of a msg_id or of an index into this view's history, or of a list of them."""
        chosen = -1 if indices_or_msg_ids is None else indices_or_msg_ids
        if isinstance(chosen, int):
            chosen = self.history[chosen]
        elif isinstance(chosen, list | tuple | set):
            chosen = [self.history[item] if isinstance(item, int) else item for item in chosen]
        return self.client.get_result(chosen, block=block, owner=owner)

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """See Client.purge_results."""
        self.client.purge_results(jobs, self._targets(targets))

    def spin(self) -> None:
        """Does nothing: results arrive by themselves."""
