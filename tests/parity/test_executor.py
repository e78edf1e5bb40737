"""views as concurrent.futures.Executor."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import pytest

from .functions import add, fail, pid, square
from .peers import Peer


@pytest.mark.smoke
def test_submit_and_map(rc: Any, ipp: Any) -> None:
    executor = rc.executor()
    assert isinstance(executor, ipp.ViewExecutor)
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(add, 1, y=2)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=60) == 3
    assert list(executor.map(square, range(5))) == [0, 1, 4, 9, 16]
    assert list(executor.map(add, [1, 2], [10, 20])) == [11, 22]


def test_failures(rc: Any, ipp: Any) -> None:
    future = rc.executor().submit(fail, "why")
    assert isinstance(future.exception(timeout=60), ipp.RemoteError)
    with pytest.raises(ipp.RemoteError, match="ValueError: why"):
        future.result()
    with pytest.raises(ipp.RemoteError, match="ValueError"):
        list(rc.executor().map(fail, ["a", "b"]))


def test_of_some_engines(rc: Any) -> None:
    (wanted,) = rc[[2]].apply_sync(pid)
    executor = rc.executor(targets=2)
    assert {executor.submit(pid).result(timeout=60) for _ in range(4)} == {wanted}


def test_of_a_view(rc: Any) -> None:
    view = rc.load_balanced_view()
    assert view.executor.view is view
    assert view.executor.submit(square, 3).result(timeout=60) == 9
    assert rc[:].executor.submit(square, 3).result(timeout=60) == [9] * 4
    assert rc[0].executor.submit(square, 3).result(timeout=60) == 9


def test_leaving_waits(rc: Any) -> None:
    with rc.executor() as executor:
        futures = [executor.submit(square, number) for number in range(8)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [number * number for number in range(8)]
    executor.shutdown(wait=False)


def test_concurrent_futures_functions(rc: Any) -> None:
    executor = rc.executor()
    futures = [executor.submit(square, number) for number in range(6)]
    done = [future.result() for future in concurrent.futures.as_completed(futures, timeout=60)]
    assert sorted(done) == [0, 1, 4, 9, 16, 25]


def test_time_limits_of_maps(peer: Peer, rc: Any) -> None:
    if peer.differs("`executor.map(timeout=…)`"):
        assert list(rc.executor().map(square, [2], timeout=60)) == [4]
        with pytest.raises(TimeoutError):
            list(rc.executor().map(time.sleep, [2], timeout=0))
    else:
        with pytest.warns(UserWarning, match=r"timeout unsupported in ViewExecutor\.map"):
            assert list(rc.executor().map(square, [2], timeout=60)) == [4]
