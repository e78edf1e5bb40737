"""What is wrong with what came. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .plan import RAISE, MapPlan

#: So many numbers are named in a breach.
NAMED = 5


@dataclass(frozen=True)
class Came:
    """What a map yielded at one place. `number` of an error is what it says of itself, or its place says."""

    number: int | None
    #: (last push seen, engine) of a value.
    seen: tuple[int, int] | None = None
    #: (class, text) of an error.
    error: tuple[str, str] | None = None


@dataclass
class Verdict:
    """Sums over maps."""

    lost: int = 0
    doubled: int = 0
    #: Tasks that ended with EngineError.
    failed: int = 0
    breaches: list[str] = field(default_factory=list)

    def breach(self, text: str, numbers: Iterable[int | None] = ()) -> None:
        """Notes one; it names some of the tasks."""
        known = list(numbers)
        named = ", ".join(map(str, known[:NAMED])) + (", …" if len(known) > NAMED else "")
        self.breaches.append(f"{text}: {len(known)} tasks ({named})" if known else text)


def judge(plan: MapPlan, came: Sequence[Came], suspects: Counter[int], verdict: Verdict) -> None:
    """Every task once, with the result it has by its plan.

    `suspects`: how many engines died while they ran a task; EngineError is the result of one that was there twice.
    """
    kinds = {number: kind for number, kind, _ in plan.tasks}
    times = Counter(one.number for one in came)
    nameless = times.pop(None, 0)
    missing = [number for number in kinds if number not in times]
    lost = missing[nameless:]
    doubled = [number for number, count in times.items() if count > 1]
    verdict.lost += len(lost)
    verdict.doubled += sum(times[number] - 1 for number in doubled)
    if lost:
        verdict.breach("lost", lost)
    if doubled:
        verdict.breach("doubled", doubled)
    if plan.ordered and not lost and not doubled and [one.number for one in came] != list(kinds):
        verdict.breach("an ordered map came in another order")
    strangers = [number for number in times if number not in kinds]
    if strangers:
        verdict.breach("results of no task of this map", strangers)
    _judge_outcomes(came, kinds, suspects, verdict)


def _judge_outcomes(came: Sequence[Came], kinds: dict[int, int], suspects: Counter[int], verdict: Verdict) -> None:
    """Errors of the cluster's are results that were lost, except those of tasks that ended two engines."""
    alien: dict[str, list[Came]] = {}
    early = []
    for one in came:
        raises = one.number is not None and kinds.get(one.number) == RAISE
        if one.error is None:
            if raises:
                verdict.breach(f"task {one.number} raises and came with a value")
        elif one.error[0] == "EngineError":
            verdict.failed += 1
            if not _has_ended_two(one.number, suspects):
                early.append(one)
        elif not raises or one.error != ("ValueError", str(one.number)):
            alien.setdefault(one.error[0], []).append(one)
    for name, those in alien.items():
        verdict.lost += len(those)
        verdict.breach(f"came as {name}, the first as {_text(those)!r}", [one.number for one in those])
    if early:
        ran = [suspects[one.number] for one in early if one.number is not None]
        what = f"came as EngineError after they ran on {ran[:NAMED]} dying engines, the first as {_text(early)!r}"
        verdict.breach(what, [one.number for one in early])


def _has_ended_two(number: int | None, suspects: Counter[int]) -> bool:
    """A task without a number may be any of the suspects."""
    return max(suspects.values(), default=0) >= 2 if number is None else suspects[number] >= 2


def _text(those: Sequence[Came]) -> str:
    return those[0].error[1] if those[0].error else ""


def judge_pushes(came: Iterable[Came], reached: Sequence[set[int]], verdict: Verdict) -> None:
    """P1: a task sees every push before its map. `reached`: the engines that each of these pushes has succeeded on."""
    last = {engine: number for number, engines in enumerate(reached, 1) for engine in engines}
    late = [one.number for one in came if one.seen is not None and one.seen[0] < last.get(one.seen[1], 0)]
    if late:
        verdict.breach("tasks that did not see the push before their map", late)
