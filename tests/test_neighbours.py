"""Libraries beside this one: joblib, scikit-learn, dask, adaptive, concurrent.futures, tqdm, pandas."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
import operator
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from harness.waiting import wait_for
from harness.work import SLEEP, keep_busy
from joblib import Parallel, delayed, parallel_backend, parallel_config
from pxcluster import Client, interactive
from tqdm import tqdm


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers with joblib is gone after it."""
    monkeypatch.setattr("joblib.parallel.BACKENDS", {**joblib.parallel.BACKENDS})


@pytest.fixture
def on_engines(rc: Client, backends: None) -> Iterator[Client]:
    """joblib runs on the engines of the shared cluster."""
    rc.load_balanced_view().register_joblib_backend()
    with parallel_config("pxcluster"):
        yield rc


def pids(client: Client) -> set[int]:
    return set(client[:].apply_sync(os.getpid))


# -- joblib --------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_joblib_runs_on_the_engines_in_order(on_engines: Client) -> None:
    assert Parallel(n_jobs=-1)(delayed(operator.neg)(n) for n in range(1000)) == [-n for n in range(1000)]
    ran = Parallel()(delayed(os.getpid)() for _ in range(200))
    assert set(ran) <= pids(on_engines)
    assert joblib.effective_n_jobs(-1) == 4


def test_joblib_finds_the_default_cluster(cluster: Cluster, backends: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PXCLUSTER_DIR", str(cluster.site.directory))
    monkeypatch.delenv("PXCLUSTER_CLUSTER_ID", raising=False)
    ipp.register_joblib_backend()
    for _ in range(2):  # the client stays for the next call, and for the next context
        with parallel_backend("ipyparallel"):
            for _ in range(2):
                ran = Parallel(n_jobs=-1)(delayed(os.getpid)() for _ in range(20))
                assert set(ran) <= pids(cluster.client())
    from pxcluster.joblib import _clients

    assert len(_clients) == 1
    _clients.popitem()[1].close()


def test_functions_take_their_globals_along(on_engines: Client, main: Any) -> None:
    exec("constant = 40\ndef helper(x):\n return x + constant\ndef f(x):\n return helper(x)", vars(main))
    assert Parallel()(delayed(main.f)(n) for n in range(3)) == [40, 41, 42]


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_results_come_one_by_one(on_engines: Client, return_as: str, batch_size: Any) -> None:
    results = Parallel(return_as=return_as, batch_size=batch_size)(delayed(operator.neg)(n) for n in range(50))
    came = [next(results), *results]
    assert (came if return_as == "generator" else sorted(came, reverse=True)) == [-n for n in range(50)]


def test_errors_are_themselves_and_show_where_they_were_raised(on_engines: Client) -> None:
    fail = interactive(lambda n: n // (n - 5))
    with pytest.raises(ZeroDivisionError) as caught:
        Parallel()(delayed(fail)(n) for n in range(20))
    cause = caught.value.__cause__
    assert isinstance(cause, ipp.RemoteError)
    assert (cause.ename, cause.engine_info["engine_id"] in range(4)) == ("ZeroDivisionError", True)
    assert "ZeroDivisionError" in str(cause)
    assert "BatchedCalls" not in str(cause)
    assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_an_error_that_cannot_travel_is_a_remote_error(on_engines: Client, main: Any) -> None:
    text = "class Odd(Exception):\n def __init__(self, a, b):\n  super().__init__(a)\ndef f(x):\n raise Odd('odd', x)"
    exec(text, vars(main))
    with pytest.raises(ipp.RemoteError, match="Odd: odd"):
        Parallel()(delayed(main.f)(n) for n in range(3))


def test_calls_are_tried_again_if_the_view_says_so(rc: Client, backends: None, tmp_path: Path) -> None:
    @interactive
    def fails_at_first(number: int, folder: str) -> int:
        import pathlib

        mark = pathlib.Path(folder, str(number))
        if not mark.exists():
            mark.touch()
            raise ValueError(number)
        return number

    rc.load_balanced_view(retries=1).register_joblib_backend("twice")
    with parallel_config("twice"):
        calls = (delayed(fails_at_first)(n, str(tmp_path)) for n in range(6))
        assert Parallel(batch_size=1)(calls) == list(range(6))


@interactive
def sleep_but_first(number: int, folder: str) -> None:
    import pathlib
    import time

    if number == 0:
        raise ValueError("first")
    pathlib.Path(folder, str(number)).touch()
    time.sleep(1000)


def idle(client: Client) -> bool:
    status = client.queue_status()
    return status["unassigned"] == 0 and not any(status[engine]["tasks"] for engine in client.ids)


def test_a_failure_ends_what_runs_and_what_waits(on_engines: Client, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first"):
        Parallel(batch_size=1, pre_dispatch="all")(delayed(sleep_but_first)(n, str(tmp_path)) for n in range(40))
    wait_for(lambda: idle(on_engines), "the engines have nothing to do")
    assert len(list(tmp_path.iterdir())) < 39
    assert Parallel()(delayed(abs)(n) for n in range(3)) == [0, 1, 2]


def test_a_time_limit_ends_what_runs(on_engines: Client, tmp_path: Path) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.2)(delayed(sleep_but_first)(n, str(tmp_path)) for n in range(1, 5))
    wait_for(lambda: idle(on_engines), "the engines have nothing to do")


def test_a_generator_that_is_dropped_ends_what_runs(on_engines: Client, tmp_path: Path) -> None:
    results = Parallel(return_as="generator", batch_size=1)(
        delayed(sleep_but_first)(n, str(tmp_path)) for n in range(1, 9)
    )
    wait_for(lambda: len(list(tmp_path.iterdir())) == 4, "all engines have begun")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # joblib's, that results were not used
        del results
    wait_for(lambda: idle(on_engines), "the engines have nothing to do")


def test_another_call_on_the_same_backend_goes_on_when_one_fails(on_engines: Client) -> None:
    wait = interactive(lambda n: __import__("time").sleep(0.01) or n)
    other = Parallel(return_as="generator", batch_size=1, pre_dispatch="all")(delayed(wait)(n) for n in range(100))
    with pytest.raises(ZeroDivisionError):
        Parallel()(delayed(operator.floordiv)(1, n) for n in range(3))
    assert list(other) == list(range(100))


def test_nested_calls_stay_on_their_engine(on_engines: Client) -> None:
    @interactive
    def nested(n: int) -> tuple[int, set[int]]:
        import os

        from joblib import Parallel, delayed

        ran = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(n))
        return os.getpid(), set(ran)

    for own, inner in Parallel()(delayed(nested)(3) for _ in range(8)):
        assert inner == {own}


def test_an_array_of_many_calls_is_sent_once(on_engines: Client) -> None:
    array = np.ones(1 << 17)

    @interactive
    def write(values: Any, n: int) -> tuple[float, bool]:
        before = float(values[0])
        values[0] = n + 5  # each batch has one of its own
        return before, values.flags.writeable

    before = len(on_engines.history)
    assert Parallel(batch_size=1)(delayed(write)(array, n) for n in range(12)) == [(1.0, True)] * 12
    assert len(on_engines.history) - before == 12  # what sends the array is no call of the user's
    array[0] = 2.0  # the next call sends it as it is now
    assert Parallel(batch_size=1)(delayed(write)(array, n) for n in range(12)) == [(2.0, True)] * 12


@pytest.mark.slow
def test_grid_search_of_scikit_learn(on_engines: Client) -> None:
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.svm import SVC

    x, y = make_classification(200, 20, random_state=0)
    grid = {"C": [0.1, 1.0, 10.0], "gamma": ["scale", 0.1]}
    found = GridSearchCV(SVC(), grid, cv=4, n_jobs=-1).fit(x, y)
    with parallel_config("sequential"):
        expected = GridSearchCV(SVC(), grid, cv=4).fit(x, y)
    assert found.best_params_ == expected.best_params_
    assert found.cv_results_["mean_test_score"].tolist() == expected.cv_results_["mean_test_score"].tolist()
    with pytest.raises(ValueError, match="Input X contains NaN"):
        cross_val_score(SVC(), np.full_like(x, np.nan), y, error_score="raise", n_jobs=-1)


# -- dask ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dask_cluster(rc: Client) -> Iterator[Client]:
    """The shared cluster, no part of dask left on it afterwards."""
    yield rc
    rc.stop_dask()
    assert rc[:].apply_sync(interactive(lambda: [name for name in globals() if "dask" in name])) == [[]] * 4


@pytest.mark.slow
def test_engines_become_workers_of_dask(dask_cluster: Client) -> None:
    rc = dask_cluster
    with rc.become_dask() as dask:
        assert set(dask.run(os.getpid).values()) == pids(rc)
        workers = dask.scheduler_info()["workers"].values()
        assert sorted(worker["name"] for worker in workers) == [0, 1, 2, 3]
        assert {worker["nthreads"] for worker in workers} == {1}
        assert dask.gather(dask.map(operator.neg, range(20))) == [-n for n in range(20)]
        assert rc.load_balanced_view().map_sync(operator.neg, range(20)) == [-n for n in range(20)]
        assert dask.submit(os.getpid, workers=[2]).result() == rc[2].apply_sync(os.getpid)
        assert rc[1].pull("dask_worker.name", block=True) == 1
        with rc.become_distributed() as again:
            assert again.scheduler.address == dask.scheduler.address


@pytest.mark.slow
def test_some_engines_become_workers_and_more_join_them(dask_cluster: Client) -> None:
    rc = dask_cluster
    with rc.become_dask(targets=[1, 3], nthreads=2) as dask:
        assert sorted(worker["name"] for worker in dask.scheduler_info()["workers"].values()) == [1, 3]
        assert set(dask.nthreads().values()) == {2}
        with rc.become_dask(targets=0) as more:
            more.wait_for_workers(3, timeout=60)
            assert more.scheduler.address == dask.scheduler.address
    rc.stop_distributed()
    with rc.become_dask(targets=[1]) as dask:
        assert [worker["name"] for worker in dask.scheduler_info()["workers"].values()] == [1]


@pytest.mark.slow
def test_workers_in_processes_of_their_own(dask_cluster: Client) -> None:
    with dask_cluster.become_dask(targets=[0], nanny=True) as dask:
        (pid,) = dask.run(os.getpid).values()
        assert pid not in pids(dask_cluster)
        assert dask.submit(operator.neg, 3).result() == -3
    dask_cluster.stop_dask()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the worker's process ends")


@pytest.mark.slow
def test_a_worker_that_cannot_start_leaves_nothing(dask_cluster: Client) -> None:
    with pytest.raises(ipp.CompositeError, match="no_such_argument"):
        dask_cluster.become_dask(no_such_argument=1)
    addresses = interactive(lambda: __import__("pxcluster.dask").dask.scheduler_address())
    assert dask_cluster[:].apply_sync(addresses) == [None] * 4


@pytest.mark.slow
def test_a_cluster_that_ends_ends_its_part_of_dask(new_cluster: Any) -> None:
    cluster = new_cluster(2)
    with cluster.client().become_dask(nanny=True) as dask:
        assert dask.submit(operator.neg, 3).result() == -3
    cluster.stop()  # the fixture finds every process that is left


# -- libraries that import ipyparallel -----------------------------------------------------------------------------

ADAPTIVE = """
import asyncio
import pxcluster
pxcluster.install_as_ipyparallel()
import adaptive
from ipyparallel import Client

def peak(x):
    return x + 0.01 / (0.01 + x**2)

def learner():
    return adaptive.Learner1D(peak, (-1, 1))

async def in_the_background(rc):
    own = learner()
    await adaptive.AsyncRunner(own, npoints_goal=30, executor=rc.executor()).task
    return own.npoints

with Client() as rc:
    first, second = learner(), learner()
    adaptive.BlockingRunner(first, npoints_goal=30, executor=rc)
    adaptive.BlockingRunner(second, npoints_goal=30, executor=rc.load_balanced_view().executor)
    points = first.npoints, second.npoints, asyncio.run(in_the_background(rc))
    print(min(points) >= 30, len(rc.history) >= 90, adaptive.runner._get_ncores(rc.executor()))
"""


def test_adaptive_uses_a_client_that_it_takes_for_ipyparallels(cluster: Cluster) -> None:
    ran = cluster.site.run(sys.executable, "-c", ADAPTIVE, timeout=100)
    assert (ran.stdout, ran.returncode) == ("True True 4\n", 0), ran.stderr


# -- concurrent.futures --------------------------------------------------------------------------------------------


def test_futures_of_the_executor_are_those_of_the_standard_library(rc: Client) -> None:
    with rc.executor() as executor:
        futures = [executor.submit(operator.neg, n) for n in range(20)]
        failed = executor.submit(operator.floordiv, 1, 0)
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == list(range(-19, 1))
        done, pending = concurrent.futures.wait([*futures, failed], timeout=60)
        assert (len(done), pending) == (21, set())
        assert isinstance(failed.exception(), ipp.RemoteError)
        called: list[Any] = []
        futures[0].add_done_callback(called.append)
        assert called == [futures[0]]


@pytest.mark.parametrize("view", ["load-balanced", "direct"])
def test_map_of_an_executor(rc: Client, view: str) -> None:
    executor = rc.executor() if view == "load-balanced" else rc[:].executor
    assert list(executor.map(pow, range(10), [2] * 10)) == [n**2 for n in range(10)]
    assert list(executor.map(pow, range(10), [2] * 10, timeout=60, chunksize=3)) == [n**2 for n in range(10)]
    assert list(executor.map(operator.neg, [], timeout=60)) == []
    values = executor.map(operator.floordiv, [4, 4, 4, 4], [2, 4, 0, 1], timeout=60)
    assert [next(values), next(values)] == [2, 1]
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        next(values)


def test_an_executor_that_waits_too_long_aborts_what_has_not_started(rc: Client, tmp_path: Path) -> None:
    busy = keep_busy(rc, SLEEP, tmp_path / "marks")
    executor = rc.executor()
    started = time.monotonic()
    values = executor.map(operator.neg, range(10), timeout=0.1)
    with pytest.raises(TimeoutError):
        next(values)
    assert time.monotonic() - started >= 0.1
    wait_for(lambda: not executor.view.outstanding, "nothing of the map waits")
    waiting = [executor.submit(operator.neg, n) for n in range(5)]
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in waiting] == [True] * 5
    busy.interrupt()
    assert isinstance(busy.exception(timeout=60), ipp.CompositeError)


# -- tqdm, pandas --------------------------------------------------------------------------------------------------


def test_tqdm_counts_results(rc: Client) -> None:
    view = rc.load_balanced_view()
    for results in (view.imap(operator.neg, range(50)), view.map_async(operator.neg, range(50), chunksize=4)):
        with tqdm(results, total=50, file=io.StringIO()) as bar:
            assert list(bar) == [-n for n in range(50)]
            assert bar.n == 50
    with tqdm(view.map_async(operator.neg, range(50), ordered=False), file=io.StringIO()) as bar:
        assert len(bar) == 50  # of the result: tqdm knows how many there are
        assert sorted(bar) == list(range(-49, 1))


def test_data_frames_are_cut_and_grouped(rc: Client) -> None:
    frame = pd.DataFrame({"key": list("abcab" * 20), "value": range(100)})
    view, balanced = rc[:], rc.load_balanced_view()
    view.scatter("part", frame, block=True)
    assert [len(part) for part in view["part"]] == [25] * 4
    pd.testing.assert_frame_equal(pd.concat(view["part"]), frame)
    doubled = view.apply_sync(interactive(lambda part: part.assign(value=part.value * 2)), ipp.Reference("part"))
    assert pd.concat(doubled).value.tolist() == list(range(0, 200, 2))
    groups = list(frame.groupby("key"))
    sums = balanced.map_sync(interactive(lambda group: (group[0], int(group[1].value.sum()))), groups)
    assert dict(sums) == frame.groupby("key").value.sum().to_dict()
