"""A user's program, for mypy --strict: what editors and checkers know of the package."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from datetime import datetime
from typing import Any, assert_type

import pxcluster as ipp


def square(number: int) -> int:
    return number * number


def views(rc: ipp.Client) -> None:
    assert_type(rc.ids, list[int])
    assert_type(rc[:], ipp.DirectView)
    assert_type(rc[0], ipp.DirectView)
    assert_type(rc.load_balanced_view(), ipp.LoadBalancedView)
    assert_type(rc.broadcast_view(), ipp.BroadcastView)
    assert_type(rc.executor(), ipp.ViewExecutor)
    for view in rc:
        assert_type(view, ipp.DirectView)
    with rc[:].temp_flags(block=True):
        rc[:]["x"] = 5
    executor: Executor = rc[:].executor
    executor.shutdown()


def results(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    ar = view.apply_async(square, 3)
    assert_type(ar, ipp.AsyncResult)
    future: Future[Any] = ar
    future.add_done_callback(print)
    assert_type(ar.ready(), bool)
    assert_type(ar.progress, int)
    assert_type(ar.elapsed, float)
    assert_type(ar.msg_ids, list[str])
    assert_type(ar.split(), tuple[ipp.AsyncResult, ...])
    values: Iterator[int] = view.imap(square, range(10))
    assert_type(next(values), int)
    assert_type(ar.timedelta(datetime.now(), datetime.now()), float)
    with ar.stream_output():
        ar.wait_interactive()


@ipp.require("math")
def root(number: float) -> float:
    import math

    return math.sqrt(number)


def decorated(view: ipp.LoadBalancedView) -> None:
    @view.remote(block=True)
    def double(number: int) -> int:
        return 2 * number

    assert_type(double, ipp.RemoteFunction)
    double(4)
    assert_type(view.parallel(block=True)(square), ipp.ParallelFunction)
    view.apply(root, 9.0)


def errors(view: ipp.DirectView) -> str:
    try:
        view.apply_sync(square, "text")
    except ipp.CompositeError as error:
        error.raise_exception(0)
    except ipp.RemoteError as error:
        return f"{error.ename}: {error.evalue}"
    return ""


async def waits(view: ipp.DirectView) -> Any:
    return await asyncio.wrap_future(view.apply_async(square, 3))


if __name__ == "__main__":
    with ipp.Client(cluster_id="mine") as client:
        assert_type(client, ipp.Client)
        views(client)
        results(client)
        decorated(client.load_balanced_view())
        print(errors(client[:]))
        asyncio.run(waits(client[:]))


async def clusters() -> None:
    with ipp.Cluster(n=4, engines="mpi") as rc:
        assert_type(rc, ipp.Client)
    async with ipp.Cluster() as other:
        assert_type(other, ipp.Client)
    cluster = ipp.Cluster(controller_args=["--port", "8786"])
    assert_type(await cluster.start_cluster(), ipp.Cluster)
    assert_type(cluster.start_engines_sync(4), str)
    assert_type(cluster.connect_client_sync(timeout=5), ipp.Client)
    cluster.stop_cluster_sync()
    assert_type(ipp.ClusterManager().load_clusters(), dict[str, ipp.Cluster])
