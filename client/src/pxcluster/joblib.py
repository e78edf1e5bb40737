"""The joblib backend: batches of joblib's run on the engines of a load-balanced view.

Batches travel by cloudpickle's rules, as joblib's users are used to: functions take the globals they use with them.
Large arrays that several batches share are sent to every engine once.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cloudpickle
from joblib.parallel import AutoBatchingMixin, BatchedCalls, ParallelBackendBase, register_parallel_backend

from . import connection
from .client import Client
from .error import RemoteError, TaskRejectError, UnmetDependency
from .serialize._errors import explain
from .serialize._pickler import PROTOCOL, OutOfBand, dump_cloudpickle
from .shared import Mentions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

    from typing_extensions import Buffer

    from .loadbalanced import LoadBalancedView
    from .shared import Lease

NAMES = ("ipyparallel", "pxcluster")


def register(name: str = NAMES[0], make_default: bool = False, view: LoadBalancedView | None = None) -> None:
    """Give joblib a backend for ``parallel_config(name)``; one for each of `NAMES` if `name` is the first of them.

    `view`: where batches run; None: on all engines of the default cluster, to which a client is made when the backend
    is first used. `make_default`: also what runs without ``parallel_config``.
    """

    def make(**options: Any) -> PxclusterBackend:
        return PxclusterBackend(**({"view": view} | options))

    for each in NAMES if name == NAMES[0] else (name,):
        register_parallel_backend(each, make)
    if make_default:
        register_parallel_backend(name, make, make_default=True)


class PxclusterBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib is untyped
    """A backend of joblib's over `view` (None: over all engines of the default cluster).

    All engines of the view take part whatever `n_jobs` is; with a single one joblib runs everything in this process. An
    error of a call is raised as itself, from a RemoteError that shows its traceback; where its class cannot travel, or
    the view has `retries`, it is the RemoteError.

    Raises what Client raises.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, view: LoadBalancedView | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._view = _default_view() if view is None else view
        self._arrays = _Arrays(_put_by(self._view))
        self._least: int | None = None
        self._under_way: dict[Future[Any], Any] = {}
        # joblib takes results and its next calls, which the user's generator makes, in this thread.
        self._callbacks = ThreadPoolExecutor(1, "pxcluster-joblib")

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """The number of engines of the view. ValueError: `n_jobs` is 0; NoEnginesRegistered, ConnectionLost."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        self._view.client._some_engines()
        return len(self._view)

    def configure(self, n_jobs: int = 1, parallel: Any = None, max_nbytes: int | None = None, **_options: Any) -> int:
        """`max_nbytes`: arrays of so many bytes, or more, are sent once where several batches have them."""
        self.parallel = parallel
        self._least = max_nbytes
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None) -> Future[Any]:
        """Run a batch on an engine. Whatever makes that impossible is the outcome of the future."""
        future: Future[Any]
        try:
            with Mentions() as mentions:
                data, buffers = self._pack(func)
            keeps_class = not getattr(self._view, "retries", 0)
            result = self._view.apply_async(run_batch, data, keeps_class, *map(pickle.PickleBuffer, buffers))
            mentions.hold_for(result._requests[0])
            future = result
        except Exception as problem:
            future = Future()
            future.set_exception(problem)
        self._under_way[future] = callback
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        callback = self._under_way.pop(future, None)
        if callback is not None:
            try:
                self._callbacks.submit(callback, future)
            except RuntimeError:  # the interpreter is about to end, nobody waits any more
                pass

    def retrieve_result_callback(self, out: Future[Any]) -> list[Any]:
        """The results of a batch. Raises what it raised."""
        value = out.result()
        if isinstance(value, Raised):
            value.again()
        return value  # type: ignore[no-any-return]

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Abort the batches that have not started and interrupt those that run, of the calls that joblib aborts."""
        from .asyncresult import AsyncResult

        batches = [
            future
            for future, callback in list(self._under_way.items())
            if isinstance(future, AsyncResult)
            and getattr(getattr(callback, "parallel", None), "_aborting", True)  # others may share this backend
        ]
        if batches:
            try:
                self._view.client.abort(batches, block=False)
                AsyncResult.join(*batches).interrupt()
            except OSError:  # ConnectionLost: joblib raises why it aborts
                pass

    def stop_call(self) -> None:
        """After a call of Parallel: arrays may change before the next one."""
        self._arrays.clear()

    def terminate(self) -> None:
        """After a call of Parallel; the client stays for the next one."""
        self.reset_batch_stats()

    # -- what batches send ---------------------------------------------------------------------------------------

    def _pack(self, batch: Any) -> tuple[bytes, list[memoryview]]:
        out_of_band = OutOfBand()
        try:
            with io.BytesIO() as file:
                _Pickler(file, out_of_band, self._arrays, self._least).dump(batch)
                return file.getvalue(), out_of_band.buffers
        except Exception as error:
            raise explain(getattr(batch, "items", batch), error, dump_cloudpickle) from error


#: ipyparallel's name for it.
IPythonParallelBackend = PxclusterBackend


def _put_by(view: LoadBalancedView) -> Callable[[Any], Lease]:
    """What sends an array to the engines of `view`; everybody who takes it there has one of its own."""
    client = view.client
    return lambda array: client._keeper.put(array, client._resolve(view.targets), private=True)


class _Arrays:
    """Large arrays that batches have had: from the second batch on they are leases of what `put` sends."""

    def __init__(self, put: Callable[[Any], Lease]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._known: dict[int, tuple[weakref.ref[Any], Lease | None]] = {}

    def lease(self, array: Any) -> Lease | None:
        """What stands for `array`; None when it is met for the first time: many arrays are met only once."""
        number = id(array)
        with self._lock:
            reference, lease = self._known.get(number, (None, None))
            if reference is None or reference() is not array:
                known = self._known
                self._known[number] = weakref.ref(array, lambda _gone: known.pop(number, None)), None
                return None
            if lease is None:
                lease = self._put(array)
                self._known[number] = reference, lease
            return lease

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """cloudpickle's, with leases in place of arrays of `least` bytes (None: of none) that have been met before."""

    def __init__(self, file: io.BytesIO, out_of_band: OutOfBand, arrays: _Arrays, least: int | None) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=out_of_band)
        self._arrays = arrays
        self._least = least

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if (
            self._least is not None
            and kind.__module__ == "numpy"
            and kind.__name__ == "ndarray"
            and obj.nbytes >= self._least
            and not obj.dtype.hasobject
        ):
            lease = self._arrays.lease(obj)
            if lease is not None:
                return lease.__reduce__()
        return super().reducer_override(obj)


# -- on the engines ------------------------------------------------------------------------------------------------


def run_batch(data: bytes, keeps_class: bool, *buffers: Buffer) -> list[Any] | Raised:
    """Runs on engines: the results of a pickled batch, or, with `keeps_class`, what it raised if that can travel."""
    from ._engine.interrupts import deferred_interrupts

    with deferred_interrupts():
        batch = pickle.loads(data, buffers=buffers)
    try:
        return batch()  # type: ignore[no-any-return]
    except (TaskRejectError, UnmetDependency):  # for another engine
        raise
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in _HIDDEN:
            trace = trace.tb_next
        raised = Raised.of(error.with_traceback(trace)) if keeps_class else None
        if raised is None:
            raise
        return raised


#: Frames above the user's function.
_HIDDEN = (__file__, BatchedCalls.__call__.__code__.co_filename)


class Raised:
    """An exception of a batch on its way: pickled, and as the engine describes it."""

    def __init__(self, pickled: bytes, payload: bytes) -> None:
        self.pickled = pickled
        self.payload = payload

    @classmethod
    def of(cls, error: Exception) -> Raised | None:
        """Runs on engines. None: it cannot travel."""
        from ._engine.tracebacks import payload

        try:
            pickled = cloudpickle.dumps(error, PROTOCOL)
            if type(pickle.loads(pickled)) is not type(error):
                return None
            return cls(pickled, payload(error, "apply"))
        except Exception:
            return None

    def again(self) -> Never:
        """Raise it here, or the RemoteError alone where its class is unknown."""
        import json

        described = json.loads(self.payload)
        info = {key: described[key] for key in ("engine_id", "engine_uuid", "method")}
        remote = _Cause(described["ename"], described["evalue"], described["traceback"], info)
        try:
            error = pickle.loads(self.pickled)
        except Exception:
            raise remote from None
        raise error from remote


class _Cause(RemoteError):
    """Shown above the error that it caused, with the remote traceback."""

    def __str__(self) -> str:
        return "\n" + "\n".join(self.render_traceback())


# -- the client of the default cluster -----------------------------------------------------------------------------

_clients: dict[str, Client] = {}


def _default_view() -> LoadBalancedView:
    path = connection.path_of(None)
    client = _clients.get(path)
    if client is None or client._session.lost is not None or client._session._process != os.getpid():
        client = _clients[path] = Client(path)
    return client.load_balanced_view()
