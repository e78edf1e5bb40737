"""A run is decided by its seed, and what is wrong with its results is seen."""

from __future__ import annotations

from collections import Counter

import pytest

from .plan import DIE, FLAKY, MOST_KILLS, NOTHING, RAISE, TASKS, MapPlan, Plan, make_plan
from .report import Outcome, report
from .verdict import Came, Verdict, judge, judge_pushes


def test_a_seed_is_a_plan() -> None:
    assert make_plan(3) == make_plan(3)
    assert make_plan(3) != make_plan(4)


@pytest.mark.parametrize("seed", range(20))
def test_plans_are_what_they_should_be(seed: int) -> None:
    plan = make_plan(seed)
    assert plan.count == TASKS
    assert [task[0] for one in plan.maps for task in one.tasks] == list(range(TASKS))
    assert 1 <= len(plan.kills) + len(plan.deadly()) <= MOST_KILLS
    assert all(0 <= kill.results < 0.95 * TASKS and 0 <= kill.place < 1 for kill in plan.kills)
    assert all(argument <= one.retries for one in plan.maps for _, kind, argument in one.tasks if kind == FLAKY)
    kinds = Counter(kind for one in plan.maps for _, kind, _ in one.tasks)
    assert kinds[NOTHING] > 0.9 * TASKS


def test_kills_can_be_switched_off() -> None:
    with_kills, without = make_plan(5, tasks=1_000), make_plan(5, kills=0, tasks=1_000)
    assert without.kills == ()
    assert without.deadly() == []
    assert (with_kills.at_once, with_kills.noise) == (without.at_once, without.noise)
    assert [len(one.tasks) for one in with_kills.maps] == [len(one.tasks) for one in without.maps]


def test_seeds_differ_in_everything() -> None:
    plans = [make_plan(seed, tasks=300) for seed in range(100)]
    ways = {int(how) for plan in plans for _, kind, how in plan.deadly() if kind == DIE}
    assert ways == {0, 1}
    assert any(plan.kills for plan in plans)
    for of in (lambda one: one.ordered, lambda one: one.lazy, lambda one: one.after_push, lambda one: one.retries > 0):
        assert len({of(one) for plan in plans for one in plan.maps}) == 2
    for of_plan in (lambda plan: plan.at_once, lambda plan: plan.second_client, lambda plan: len(plan.maps) > 1):
        assert len({of_plan(plan) for plan in plans}) == 2


def small_map(ordered: bool = True) -> MapPlan:
    tasks = ((10, NOTHING, 0.0), (11, RAISE, 0.0), (12, NOTHING, 0.0))
    return MapPlan(tasks, ordered, retries=0, lazy=False, after_push="wait")


RIGHT = [Came(10, (1, 0)), Came(11, error=("ValueError", "11")), Came(12, (1, 2))]
GONE = Came(12, error=("EngineError", "Engine 2 is gone"))


def judged(came: list[Came], suspects: dict[int, int] | None = None, ordered: bool = True) -> Verdict:
    verdict = Verdict()
    judge(small_map(ordered), came, Counter(suspects or {}), verdict)
    return verdict


def test_right_results() -> None:
    assert judged(RIGHT) == Verdict()
    assert judged(RIGHT[::-1], ordered=False) == Verdict()
    assert judged([*RIGHT[:2], GONE], {12: 2}) == Verdict(failed=1)
    assert judged([*RIGHT[:2], Came(None, error=GONE.error)], {12: 2}, ordered=False) == Verdict(failed=1)


@pytest.mark.parametrize(
    ("came", "breach"),
    [
        (RIGHT[:2], "lost: 1 tasks (12)"),
        ([*RIGHT, RIGHT[0]], "doubled: 1 tasks (10)"),
        (RIGHT[::-1], "an ordered map came in another order"),
        ([*RIGHT, Came(13, (1, 0))], "results of no task of this map: 1 tasks (13)"),
        ([RIGHT[0], Came(11, (1, 0)), RIGHT[2]], "task 11 raises and came with a value"),
        ([*RIGHT[:2], Came(12, error=("NameError", "x"))], "came as NameError, the first as 'x': 1 tasks (12)"),
        (
            [*RIGHT[:2], GONE],
            "came as EngineError after they ran on [0] dying engines, the first as 'Engine 2 is gone': 1 tasks (12)",
        ),
    ],
)
def test_wrong_results(came: list[Came], breach: str) -> None:
    assert breach in judged(came).breaches


def test_pushes_that_were_not_seen() -> None:
    verdict = Verdict()
    judge_pushes(RIGHT, [{0, 1, 2}], verdict)
    judge_pushes(RIGHT, [{0, 2}, {1}], verdict)  # the second did not reach the engines of these tasks
    assert verdict.breaches == []
    judge_pushes(RIGHT, [{0, 1, 2}, {1, 2}], verdict)
    assert verdict.breaches == ["tasks that did not see the push before their map: 1 tasks (12)"]


def test_the_report() -> None:
    good = Outcome(0, seconds=2, tasks=100, kills={"SIGKILL": 2}, told=0.5)
    bad = Outcome(7, seconds=4, tasks=100, kills={"SIGKILL": 1, "SIGSEGV": 1}, lost=1, breaches=["lost: 1 tasks (3)"])
    hang = Outcome(8, hang=True, breaches=["it did not end within 180 seconds"])
    assert (good.ok, bad.ok, hang.ok) == (True, False, False)
    text = report([good, bad, hang])
    assert "kills                          4 (3 SIGKILL, 1 SIGSEGV)" in text
    assert "scripts/test --chaos-seed 7" in text
    assert "scripts/test --chaos-seed 0" not in text
    assert "seed 7: FAILED" in bad.failure()


def test_a_plan_needs_no_tasks_to_be_shown() -> None:
    assert "tasks=" not in repr(Plan(1, (small_map(),), (), False, False, ()))
