"""Engines as workers of dask.distributed, one of them with the scheduler as well.

An engine that takes part has an event loop in a thread of its own; calls of pxcluster and tasks of dask run beside each
other. dask's connections are dask's own: not encrypted, and open to whoever reaches their ports, unless they are given
a ``security``.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import socket
import threading
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .client import Client

#: How long dask's parts may take to end when the engine does, seconds.
_FAREWELL = 1.0


def become_dask(
    client: Client,
    targets: Any,
    port: int,
    nanny: bool,
    scheduler_args: Mapping[str, Any] | None,
    worker_args: Mapping[str, Any],
) -> Any:
    """See Client.become_dask."""
    import distributed

    engines = client._resolve(targets)
    everyone = client.direct_view(client.ids)
    known = [address for address in everyone.apply_sync(scheduler_address) if address]
    of_scheduler = {"port": port, **(scheduler_args or {})}
    of_workers = {"nthreads": 1, **worker_args}
    security = of_scheduler.get("security")
    if security is not None:
        of_workers.setdefault("security", security)
    if {*everyone.apply_sync(socket.gethostname), socket.gethostname()} == {socket.gethostname()}:
        for arguments in (of_scheduler, of_workers):
            if arguments.keys().isdisjoint(("host", "interface")):
                arguments["host"] = "127.0.0.1"
    address = known[0] if known else client.direct_view(engines[0]).apply_sync(start_scheduler, of_scheduler)
    try:
        client.direct_view(engines).apply_sync(start_worker, address, nanny, of_workers)
        return distributed.Client(address, security=security)
    except BaseException:
        if not known:
            stop_dask(client, "all")
        raise


def stop_dask(client: Client, targets: Any) -> None:
    """See Client.stop_dask."""
    client.direct_view(client._resolve(targets)).apply_sync(stop_worker)
    client.direct_view(client.ids).apply_sync(stop_scheduler)


# -- on the engines ------------------------------------------------------------------------------------------------

_loop: asyncio.AbstractEventLoop | None = None
_scheduler: Any = None
_worker: Any = None
#: The scheduler that the worker belongs to.
_employer: str | None = None


def scheduler_address() -> str | None:
    """Runs on engines: where the scheduler of this engine listens, None without one."""
    return _scheduler.address if _is_up(_scheduler) else None


def start_scheduler(arguments: dict[str, Any]) -> str:
    """Runs on an engine: start a scheduler; its address."""
    from distributed import Scheduler

    global _scheduler
    _quieten()
    _scheduler = _run(lambda: _started(Scheduler, arguments))
    return _scheduler.address  # type: ignore[no-any-return]


def start_worker(address: str, nanny: bool, arguments: dict[str, Any]) -> None:
    """Runs on engines: work for the scheduler at `address`, unless this engine does."""
    from distributed import Nanny, Worker

    import __main__

    from ._engine.state import state

    global _worker, _employer
    if _is_up(_worker):
        if _employer == address:
            return
        stop_worker()
    _quieten()
    arguments = {"name": state.host.engine_id, **({"silence_logs": logging.WARNING} if nanny else {}), **arguments}
    _worker = _run(lambda: _started(Nanny if nanny else Worker, arguments, address))
    _employer = address
    vars(__main__).update(dask_worker=_worker, distributed_worker=_worker)


def stop_worker() -> None:
    """Runs on engines: end this engine's worker, if it has one."""
    import __main__

    global _worker
    worker, _worker = _worker, None
    if _is_up(worker):
        _run(worker.close)
    for name in ("dask_worker", "distributed_worker"):
        if worker is not None and vars(__main__).get(name) is worker:
            delattr(__main__, name)


def stop_scheduler() -> None:
    """Runs on engines: end this engine's scheduler, if it has one."""
    global _scheduler
    scheduler, _scheduler = _scheduler, None
    if _is_up(scheduler):
        _run(scheduler.close)


def _is_up(server: Any) -> bool:
    return server is not None and server.status.name in ("running", "paused")


def _quieten() -> None:
    """Keep what dask tells of every step out of the output of engines, unless its user has said what to log."""
    import dask

    if dask.config.get("logging", None) is None and dask.config.get("distributed.logging", None) is None:
        logging.getLogger("distributed").setLevel(logging.WARNING)


async def _started(kind: Any, arguments: dict[str, Any], *addresses: str) -> Any:
    return await kind(*addresses, **arguments)  # made inside the loop that it is to use


def _run(start: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None = None) -> Any:
    """The result of a coroutine on the event loop of dask's thread, which is started when it is first needed."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        threading.Thread(target=_loop.run_forever, name="pxcluster-dask", daemon=True).start()
        atexit.register(_end)

    async def run() -> Any:
        return await start()

    return asyncio.run_coroutine_threadsafe(run(), _loop).result(timeout)


def _end() -> None:
    """When the engine ends: let processes of nannies end and their directories go."""
    for server in (_worker, _scheduler):
        if _is_up(server):
            try:
                _run(server.close, _FAREWELL)
            except Exception:
                pass
