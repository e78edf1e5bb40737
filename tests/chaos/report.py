"""What one run was, what many were. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass
class Outcome:
    """One run."""

    seed: int
    seconds: float = 0.0
    tasks: int = 0
    #: How often each way of killing was used.
    kills: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    #: Tasks that ran on two engines when these died, and ended so.
    failed: int = 0
    #: Results that were thrown away, because their task had been given to another engine.
    again: int = 0
    #: Longest time between a death and its news at the client, seconds.
    told: float = 0.0
    hang: bool = False
    breaches: list[str] = field(default_factory=list)
    #: For people: logs and stacks, when something is wrong.
    evidence: str = ""

    @property
    def ok(self) -> bool:
        """Whether the run was as it must be."""
        return not (self.lost or self.doubled or self.hang or self.breaches)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def line(self) -> str:
        """One line for people."""
        kills = ", ".join(f"{count} {how}" for how, count in self.kills.items()) or "no kill"
        state = "ok" if self.ok else "HANG" if self.hang else "FAILED"
        return f"seed {self.seed}: {state}, {self.seconds:.1f} s, {self.tasks:,} tasks, {kills}"

    def failure(self) -> str:
        """What is wrong, the line that runs the seed again, and the evidence."""
        what = [f"lost {self.lost}, doubled {self.doubled}", *self.breaches, f"again: {replay(self.seed)}"]
        return "\n".join([self.line(), *(f"  {line}" for line in what), self.evidence])


def replay(seed: int) -> str:
    """The command that runs a seed again."""
    return f"scripts/test --chaos-seed {seed}"


def report(outcomes: Sequence[Outcome]) -> str:
    """All runs in one table."""
    kills: Counter[str] = Counter()
    for outcome in outcomes:
        kills.update(outcome.kills)
    by_kind = ", ".join(f"{count} {how}" for how, count in sorted(kills.items())) or "none"
    lines = [
        ("seeds run", f"{len(outcomes)}"),
        ("kills", f"{kills.total()} ({by_kind})"),
        ("tasks", f"{sum(outcome.tasks for outcome in outcomes):,}"),
        ("lost", f"{sum(outcome.lost for outcome in outcomes)}"),
        ("doubled", f"{sum(outcome.doubled for outcome in outcomes)}"),
        ("hangs", f"{sum(outcome.hang for outcome in outcomes)}"),
        ("other breaches", f"{sum(len(outcome.breaches) for outcome in outcomes if not outcome.hang)}"),
        ("tasks failed with two engines", f"{sum(outcome.failed for outcome in outcomes)}"),
        ("results thrown away", f"{sum(outcome.again for outcome in outcomes)}"),
        ("death told within", f"{max((outcome.told for outcome in outcomes), default=0.0):.2f} s"),
        ("seconds per run", f"{sum(outcome.seconds for outcome in outcomes) / max(1, len(outcomes)):.1f}"),
    ]
    lines += [("again", replay(outcome.seed)) for outcome in outcomes if not outcome.ok]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)
