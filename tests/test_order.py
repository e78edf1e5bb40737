"""What sees what: a task sees every push and execute that its client submitted before it."""

from __future__ import annotations

import random

import pytest
from pxcluster import Client, interactive


@interactive
def current(_n: int) -> int:
    return version  # noqa: F821


@pytest.mark.smoke
@pytest.mark.parametrize("tasks", [1, 10, 300])
def test_tasks_see_the_push_before_them(rc: Client, tasks: int) -> None:
    direct, balanced = rc[:], rc.load_balanced_view()
    pending = []
    for number in range(40):
        direct.push({"version": number}, block=False)
        pending.append(balanced.map_async(current, range(tasks)))
    for number, result in enumerate(pending):
        seen = result.get(timeout=60)
        assert all(version >= number for version in seen), (number, seen)
    assert balanced.map_sync(current, range(tasks)) == [39] * tasks


def test_tasks_see_the_execute_before_them(rc: Client) -> None:
    direct, balanced = rc[:], rc.load_balanced_view()
    slow_on_one = "import time; time.sleep(0.3 if engine == 2 else 0); version = 1"
    direct.scatter("engine", range(4), flatten=True).get()
    direct["version"] = 0
    direct.execute(slow_on_one, block=False)
    assert balanced.map_sync(current, range(100)) == [1] * 100


def test_direct_requests_of_one_engine_run_in_order(rc: Client) -> None:
    view = rc[:]
    view["log"] = []
    append = interactive(lambda n: log.append(n))  # noqa: F821
    for number in range(0, 400, 4):
        view.apply_async(append, number)
        view.execute(f"log.append({number + 1})", block=False)
        view.push({"pushed": number + 2}, block=False)
        view.execute("log.append(pushed)", block=False)
        view.apply_async(append, number + 3)
    assert view["log"] == [list(range(400))] * 4


def test_direct_requests_to_changing_targets_run_in_order(rc: Client) -> None:
    rc[:]["log"] = []
    wanted: list[list[int]] = [[], [], [], []]
    source = random.Random(1)
    pending = []
    for number in range(300):
        targets = sorted(source.sample(range(4), source.randint(1, 4)))
        pending.append(rc[targets].execute(f"log.append({number})", block=False))
        for engine in targets:
            wanted[engine].append(number)
    rc.wait(pending, timeout=60)
    assert rc[:]["log"] == wanted


def test_a_pull_sees_the_requests_before_it(rc: Client) -> None:
    view = rc[:]
    pulls = []
    for number in range(50):
        view.push({"version": number}, block=False)
        pulls.append(view.pull("version", block=False))
    assert [pull.get(timeout=60) for pull in pulls] == [[number] * 4 for number in range(50)]


@pytest.mark.smoke
def test_clear_is_in_order_with_what_follows(rc: Client) -> None:
    view = rc[:]
    for number in range(20):
        view.push({"version": number}, block=False)
        view.clear()
        found = view.execute("found = 'version' in globals()", block=False)
        found.get(timeout=60)
        assert view["found"] == [False] * 4


def test_a_request_that_is_waited_for_in_a_task_order(rc: Client) -> None:
    balanced = rc.load_balanced_view()
    rc[:]["version"] = 3
    results = [balanced.apply_async(current, 0) for _ in range(100)]
    assert [result.get(timeout=60) for result in results] == [3] * 100
