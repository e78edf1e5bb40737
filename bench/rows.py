"""The rows of the table: what is measured, beside which peer, and what must be reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

OURS = "pxcluster"
IPYPARALLEL = "ipyparallel"
FUTURES = "mpi4py.futures"
#: Ranks that do nothing but initialise MPI from Python.
BARE = "bare MPI"

#: Figures by system and name, one per round.
Samples = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Spec:
    """One row. The ratio says how many times better than the peer ours is."""

    name: str
    what: str
    unit: str
    peer: str
    #: Least ratio, or None if a bound must be kept.
    ratio: float | None = None
    #: Largest figure of ours, in the row's unit.
    bound: float | None = None
    #: Whether a large figure is a good one.
    more_is_better: bool = False

    def must(self) -> str:
        """The requirement in words."""
        if self.ratio is not None:
            return f">= {self.ratio:.3g} x"
        return f"<= {self.bound:g} {self.unit}"


SPECS = [
    Spec("map", "map, chunksize 1, 4 engines", "tasks/s", IPYPARALLEL, ratio=100, more_is_better=True),
    Spec("map", "map, chunksize 1, 4 engines", "tasks/s", FUTURES, ratio=10, more_is_better=True),
    Spec("apply", "apply_sync on one engine, p50", "s", IPYPARALLEL, ratio=15),
    Spec("apply", "apply_sync on one engine, p50", "s", FUTURES, ratio=8),
    Spec("execute", "execute on 4 engines, p50", "s", IPYPARALLEL, ratio=5),
    Spec("idle", "idle cluster of 4 engines", "% of a core", IPYPARALLEL, bound=1),
    Spec("idle", "idle cluster of 4 engines", "% of a core", FUTURES, bound=1),
    Spec("start-4", "start 4 engines", "s", IPYPARALLEL, ratio=3),
    Spec("start-4", "start 4 engines", "s", BARE, ratio=1 / 1.5),
    Spec("start-16", "start 16 engines", "s", IPYPARALLEL, ratio=3),
    Spec("start-16", "start 16 engines", "s", BARE, ratio=1 / 1.5),
    Spec("memory-controller", "resident: controller", "MB", IPYPARALLEL, bound=40),
    Spec("memory-engine", "resident: engine above bare python", "MB", IPYPARALLEL, bound=25),
]
NAMES = list(dict.fromkeys(spec.name for spec in SPECS))


@dataclass(frozen=True)
class Row:
    """A row with its figures; None where a measurement failed."""

    spec: Spec
    ours: float | None
    peer: float | None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if self.ours is None or self.peer is None:
            return None
        better, worse = (self.ours, self.peer) if self.spec.more_is_better else (self.peer, self.ours)
        return better / worse if worse > 0 else math.inf

    @property
    def required(self) -> float | None:
        """The least ratio that will do; a bound becomes the ratio that the bound itself would reach."""
        if self.spec.ratio is not None:
            return self.spec.ratio
        return None if self.peer is None or not self.spec.bound else self.peer / self.spec.bound

    @property
    def ok(self) -> bool | None:
        """Whether the requirement is met; None when that was not measured."""
        if self.spec.bound is not None:
            return None if self.ours is None else self.ours <= self.spec.bound
        return None if self.ratio is None or self.spec.ratio is None else self.ratio >= self.spec.ratio

    def to_json(self) -> dict[str, object]:
        """Plain values, with no infinity among them."""
        ratio = self.ratio if self.ratio is None or math.isfinite(self.ratio) else None
        return {
            **asdict(self.spec),
            "ours": self.ours,
            "peer_figure": self.peer,
            "times_better": ratio,
            "ok": self.ok,
        }


def make_rows(samples: Samples, names: Iterable[str]) -> list[Row]:
    """The rows of these names, with the median over rounds of each figure."""

    def median(system: str, name: str) -> float | None:
        values = samples.get(system, {}).get(name)
        return statistics.median(values) if values else None

    wanted = set(names)
    return [Row(spec, median(OURS, spec.name), median(spec.peer, spec.name)) for spec in SPECS if spec.name in wanted]
