"""Maps: load-balanced and direct, ordered and as they come, large and small."""

from __future__ import annotations

import itertools
import operator
import threading
import time
from pathlib import Path
from typing import Any

import pxcluster as ipp
import pytest
from pxcluster import Client, interactive


@interactive
def inverse(x: int) -> float:
    return 1 / x


@interactive
def raise_if_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


@pytest.mark.smoke
def test_load_balanced_map(rc: Client) -> None:
    view = rc.load_balanced_view()
    assert view.map_sync(operator.neg, range(100)) == [-n for n in range(100)]
    assert list(view.map_async(pow, range(10), itertools.repeat(2, 10))) == [n**2 for n in range(10)]
    assert view.map(abs, [], block=True) == []


@pytest.mark.smoke
@pytest.mark.parametrize("chunksize", [1, 3, 100, 1000])
def test_chunks_change_nothing_but_speed(rc: Client, chunksize: int) -> None:
    view = rc.load_balanced_view()
    result = view.map_async(operator.neg, range(100), chunksize=chunksize)
    assert len(result) == 100
    assert result.get() == [-n for n in range(100)]


@pytest.mark.smoke
def test_unordered_results_are_all_results(rc: Client) -> None:
    view = rc.load_balanced_view()
    came = list(view.map_async(operator.neg, range(200), ordered=False, chunksize=7))
    assert sorted(came) == [-n for n in reversed(range(200))]


def test_unordered_results_come_before_slow_ones(rc: Client) -> None:
    view = rc.load_balanced_view()
    with rc[:].sync_imports(quiet=True):
        import time
    slow_first = interactive(lambda n: time.sleep(1.5 if n == 0 else 0) or n)
    came = list(view.map_async(slow_first, range(20), ordered=False))
    assert sorted(came) == list(range(20))
    assert came[0] != 0
    assert list(view.map_async(slow_first, range(4), ordered=True)) == [0, 1, 2, 3]


def test_generators_and_sequences_of_unequal_length(rc: Client) -> None:
    view = rc.load_balanced_view()
    assert view.map_sync(operator.add, (n for n in range(10)), range(5)) == [0, 2, 4, 6, 8]
    assert rc[:].map_sync(operator.add, (n for n in range(10)), range(5)) == [0, 2, 4, 6, 8]


@pytest.mark.smoke
def test_direct_map_splits_in_blocks(rc: Client) -> None:
    view = rc[:]
    assert view.map_sync(operator.neg, range(10)) == [-n for n in range(10)]
    assert view.map_sync(operator.neg, range(2)) == [0, -1]
    import os

    pids = view.apply_sync(os.getpid)
    where = interactive(lambda _n: __import__("os").getpid())
    assert view.map_sync(where, range(8)) == [pid for pid in pids for _ in range(2)]


@pytest.mark.smoke
def test_twenty_thousand_tiny_tasks(rc: Client) -> None:
    view = rc.load_balanced_view()
    result = view.map_async(operator.neg, range(20_000))
    assert result.get(timeout=100) == [-n for n in range(20_000)]
    assert result.progress == len(result) == 20_000
    assert rc.outstanding == set()


def test_every_engine_takes_part_in_a_long_map(rc: Client) -> None:
    rc[:].execute("import time, os", block=True)
    work = interactive(lambda _n: time.sleep(0.05) or os.getpid())  # noqa: F821
    assert set(rc.load_balanced_view().map_sync(work, range(24))) == set(rc[:].pull("os.getpid()", block=True))


def test_targets_restrict_a_map(rc: Client) -> None:
    where = interactive(lambda _n: __import__("os").getpid())
    pids = rc[[1, 2]].apply_sync(where, 0)
    assert set(rc.load_balanced_view([1, 2]).map_sync(where, range(50))) <= set(pids)


@pytest.mark.smoke
def test_the_first_failure_is_raised(rc: Client) -> None:
    view = rc.load_balanced_view()
    with pytest.raises(ipp.CompositeError) as caught:
        view.map_sync(inverse, [2, 1, 0])
    assert str(caught.value).startswith("one or more exceptions raised in: inverse\n[")
    assert str(caught.value).endswith(":apply]ZeroDivisionError: division by zero")
    results = iter(view.map_async(inverse, [1, 2, 0]))
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ipp.RemoteError, match="division by zero"):
        next(results)


@pytest.mark.parametrize("chunksize", [1, 4])
def test_failures_among_the_results(rc: Client, chunksize: int) -> None:
    view = rc.load_balanced_view()
    results: list[Any] = view.map(raise_if_odd, range(6), block=True, return_exceptions=True, chunksize=chunksize)
    assert len(results) == 6 if chunksize == 1 else len(results) >= 2
    failures = [error for error in results if isinstance(error, ipp.RemoteError)]
    assert {error.ename for error in failures} == {"ValueError"}
    if chunksize == 1:
        assert [str(error.evalue) for error in failures] == ["odd 1", "odd 3", "odd 5"]
        assert results[::2] == [0, 2, 4]


def test_lazy_map_of_an_endless_sequence(rc: Client) -> None:
    lazy = rc.load_balanced_view().imap(operator.neg, itertools.count())
    assert list(itertools.islice(lazy, 100)) == [-n for n in range(100)]
    lazy.cancel()


def test_parallel_functions(rc: Client) -> None:
    view = rc.load_balanced_view()
    square = view.parallel(ordered=False)(interactive(lambda n: n * n))
    assert sorted(square.map(range(10))) == [n * n for n in range(10)]
    halves = rc[:].parallel(block=True)(interactive(lambda part: [sum(part)]))
    assert halves(range(8)) == [1, 5, 9, 13]


def test_tries_are_counted(rc: Client, tmp_path: Path) -> None:
    @interactive
    def fail_at_first(times: int, folder: str) -> int:
        import os

        tries = len(os.listdir(folder))
        open(os.path.join(folder, str(tries)), "w").close()
        if tries < times:
            raise ValueError(f"try {tries}")
        return times

    folders = [tmp_path / str(times) for times in range(4)]
    for folder in folders:
        folder.mkdir()
    view = rc.load_balanced_view(retries=2)
    result = view.map_async(fail_at_first, range(4), map(str, folders), return_exceptions=True)
    assert result.get(timeout=60)[:3] == [0, 1, 2]
    assert result.tries == [1, 2, 3, 3]
    assert result.status == ["ok", "ok", "ok", "error"]


def test_abort_of_what_has_not_started(rc: Client) -> None:
    view = rc.load_balanced_view()
    rc[:].execute("import time", block=True)
    blockers = view.map_async(interactive(lambda _n: time.sleep(1)), range(4))
    queued = view.map_async(operator.neg, range(1000))
    queued.abort()
    with pytest.raises((ipp.TaskAborted, ipp.RemoteError), match=r"[Aa]bort"):
        queued.get(timeout=60)
    assert blockers.get(timeout=60) == [None] * 4


def test_several_clients_at_once(rc: Client, cluster: Any) -> None:
    others = [cluster.client() for _ in range(4)]
    pending = [
        (start, client.load_balanced_view().map_async(operator.neg, range(start, start + 500)))
        for start, client in enumerate(others)
    ]
    for start, result in pending:
        assert result.get(timeout=60) == [-n for n in range(start, start + 500)]
    others[0][:]["shared"] = 5
    assert rc[:]["shared"] == [5] * 4


def test_threads_share_a_client(rc: Client) -> None:
    found: dict[int, list[Any]] = {}

    def use(number: int) -> None:
        mapped = rc.load_balanced_view().map_sync(operator.neg, range(200))
        applied = rc[:].apply_sync(operator.add, number, 1)
        found[number] = [mapped == [-n for n in range(200)], applied]

    threads = [threading.Thread(target=use, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: [True, [number + 1] * 4] for number in range(8)}


def test_the_executor_is_that_of_the_standard_library(rc: Client) -> None:
    with rc.executor() as executor:
        assert executor.submit(pow, 2, 10).result(timeout=60) == 1024
        assert list(executor.map(operator.neg, range(10))) == [-n for n in range(10)]
