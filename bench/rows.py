"""The rows of the table: what is measured, beside which peer, and what must be reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from measure import percentile

OURS = "pxcluster"
IPYPARALLEL = "ipyparallel"
FUTURES = "mpi4py.futures"
#: The two ways of a multiprocessing.Pool with chunksize 1.
POOL = "Pool.map"
POOL_UNORDERED = "Pool.imap_unordered"
#: Ranks that do nothing but initialise MPI from Python.
BARE = "bare MPI"
#: Ranks that do not even that: `python -c pass`.
PLAIN = "python -c pass"
#: What one plain process does, times the cores.
LIMIT = "limit of the cores"
#: mpi4py's broadcast of any object, and MPI's own of a buffer.
BCAST = "mpi4py bcast"
RAW_BCAST = "MPI_Bcast"
DASK = "dask"
RAY = "ray"
#: Two processes and a connection of Python's ssl.
TLS = "TLS socket"
#: No system at all.
NOBODY = ""

#: Engines of a row, and of one that moves data.
ENGINES = 4
DATA_ENGINES = 8
#: Engines of the many ranks on few cores: `mpirun -n 64 pxcluster`.
MANY_ENGINES = 63

#: Quartiles of a cost that are further apart than this say nothing: the machine is too busy.
LARGEST_SPREAD = 0.3

#: Figures by system and name, one per round, or several.
Samples = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Spec:
    """One row. The ratio says how many times better than the peer ours is."""

    name: str
    what: str
    unit: str
    peer: str
    #: Least ratio to the peer.
    ratio: float | None = None
    #: Largest figure of ours, in the row's unit.
    bound: float | None = None
    #: Whether a large figure is a good one.
    more_is_better: bool = False
    #: The peer's figure, where it has another name.
    against: str | None = None
    #: A figure of LIMIT that the figures of this row are divided by.
    per: str | None = None
    #: Whether the figures are ratios "with" over "without" of pairs, of which 1 or more must be among the better ones.
    cost: bool = False
    #: Engines of the clusters that are measured.
    engines: int = ENGINES

    @property
    def is_required(self) -> bool:
        """Whether the row has a requirement, or only informs."""
        return self.ratio is not None or self.bound is not None or self.cost

    def must(self) -> str:
        """The requirement in words."""
        if self.ratio is not None:
            return f">= {self.ratio:.3g} x"
        if self.bound is not None:
            return f"<= {self.bound:g} {self.unit}"
        return f"3rd quartile >= 1, spread <= {LARGEST_SPREAD}" if self.cost else "-"


_MAP = "map, chunksize 1, 4 engines"
_UNEVEN = "2,000 uneven sleeps: makespan / (sum / engines)"
_STRAGGLER = "the same, a straggler last: makespan / in-order optimum"
_SLEEPERS = (POOL, POOL_UNORDERED, FUTURES, IPYPARALLEL)
_PUSH = "push 100 MB to 8 engines"
_FIRST = "the first push of 100 MB"
_PULL = "pull 100 MB from an engine"
_GATHER = "gather 100 MB from 8 engines"
_MAP_ARRAYS = "map over 200 arrays of 1 MB, returned, 4 engines"
_PUSHERS = (IPYPARALLEL, BCAST, DASK, RAY, RAW_BCAST)

DATA_SPECS = [
    Spec("data-push", _PUSH, "s", IPYPARALLEL, ratio=10),
    Spec("data-push", "the same, beside its BroadcastView", "s", IPYPARALLEL, ratio=4, against="data-push-broadcast"),
    Spec("data-push", _PUSH, "s", BCAST, ratio=5),
    Spec("data-push", _PUSH, "s", DASK, ratio=1),
    Spec("data-push", _PUSH, "s", RAY, ratio=1),
    Spec("data-push", _PUSH, "s", RAW_BCAST, ratio=1),
    Spec("data-push-warm", "the same without the client's copy", "s", RAW_BCAST, ratio=3, against="data-push"),
    *(Spec("data-push-first", _FIRST, "s", peer) for peer in _PUSHERS),
    Spec("data-memory", "pushed 100 MB on 8 engines: memory / 100 MB", "x", IPYPARALLEL, bound=1.2),
    Spec("data-pull", _PULL, "s", IPYPARALLEL, ratio=3),
    Spec("data-pull", _PULL, "s", TLS, ratio=0.5),
    Spec("data-pull-tls", "the same through TLS", "s", TLS, against="data-pull"),
    Spec("data-gather", _GATHER, "s", IPYPARALLEL, ratio=3),
    Spec("data-gather", _GATHER, "s", TLS, ratio=0.5, against="data-pull"),
    Spec("data-gather-tls", "the same through TLS", "s", TLS, against="data-pull"),
    Spec("data-px-idle", "%px x=1 on 4 engines, p50", "s", NOBODY),
    Spec("data-px-pushing", "the same during a push of 1 GB to 4 others", "s", NOBODY),
    Spec("data-px", "the second / the first", "x", NOBODY, bound=3),
]

MANY_SPECS = [
    Spec("start-63", "start `mpirun -n 64 pxcluster`", "s", BARE, ratio=1 / 1.5),
    Spec("start-63", "the same, beside ranks without MPI", "s", PLAIN, ratio=1 / 1.5),
    Spec("start-63-map", "its first map of 1,000 tasks", "s", NOBODY),
    Spec("start-63-stop", "its stop", "s", NOBODY),
]

SPECS = [
    Spec("map", _MAP, "tasks/s", IPYPARALLEL, ratio=300, more_is_better=True),
    Spec("map", _MAP, "tasks/s", FUTURES, ratio=25, more_is_better=True),
    Spec("map", _MAP, "tasks/s", POOL, ratio=2.5, more_is_better=True),
    Spec("map", "a share of loads + call + dumps of tasks", "tasks/s", LIMIT, ratio=0.25, more_is_better=True),
    Spec("map", "the same, of arguments alone", "tasks/s", LIMIT, more_is_better=True, against="map-items"),
    *(Spec("uneven", _UNEVEN, "x", peer, bound=1.03, per="uneven-ideal") for peer in _SLEEPERS),
    Spec("uneven", "the same, by the sleeps asked for", "x", POOL, per="uneven-as-asked"),
    *(Spec("straggler", _STRAGGLER, "x", peer, bound=1.02, per="straggler-in-order") for peer in _SLEEPERS),
    Spec("straggler", "the same, by the sleeps asked for", "x", POOL, per="straggler-in-order-as-asked"),
    Spec("straggler", "the same / clairvoyant bound", "x", POOL, per="straggler-clairvoyant"),
    Spec("million-growth", "1,000,000 tasks: controller grows by", "MB", NOBODY, bound=100),
    Spec("million-left", "of which it keeps afterwards", "MB", NOBODY, bound=20),
    Spec("million-cpu", "controller's CPU per task", "us", NOBODY, bound=2),
    Spec("retries", "map with retries=3 / without", "x", NOBODY, cost=True),
    Spec("nanny-map", "map with the nanny / --no-nanny", "x", NOBODY, cost=True),
    Spec("nanny-apply", "apply_sync per s with the nanny / --no-nanny", "x", NOBODY, cost=True),
    Spec("apply", "apply_sync on one engine, p50", "s", IPYPARALLEL, ratio=15),
    Spec("apply", "apply_sync on one engine, p50", "s", FUTURES, ratio=8),
    Spec("execute", "execute on 4 engines, p50", "s", IPYPARALLEL, ratio=5),
    Spec("idle", "idle cluster of 4 engines", "% of a core", IPYPARALLEL, bound=1),
    Spec("idle", "idle cluster of 4 engines", "% of a core", FUTURES, bound=1),
    Spec("start-4", "start 4 engines", "s", IPYPARALLEL, ratio=3),
    Spec("start-4", "start 4 engines", "s", BARE, ratio=1 / 1.5),
    Spec("start-16", "start 16 engines", "s", IPYPARALLEL, ratio=3, engines=16),
    Spec("start-16", "start 16 engines", "s", BARE, ratio=1 / 1.5, engines=16),
    *(replace(spec, engines=MANY_ENGINES) for spec in MANY_SPECS),
    Spec("memory-controller", "resident: controller", "MB", IPYPARALLEL, bound=40),
    Spec("memory-engine", "resident: engine above bare python", "MB", IPYPARALLEL, bound=25),
    *(replace(spec, engines=DATA_ENGINES) for spec in DATA_SPECS),
    Spec("data-map", _MAP_ARRAYS, "s", FUTURES, ratio=1),
    Spec("data-map", _MAP_ARRAYS, "s", POOL, ratio=3),
]
NAMES = list(dict.fromkeys(spec.name for spec in SPECS))


@dataclass(frozen=True)
class Row:
    """A row with its figures; None where a measurement failed."""

    spec: Spec
    ours: float | None
    peer: float | None
    #: First and third quartile of the figures of a cost.
    quartiles: tuple[float, float] | None = None

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
        spec = self.spec
        if self.ours is None:
            return None
        if spec.cost:
            if self.quartiles is None or self.quartiles[1] - self.quartiles[0] > LARGEST_SPREAD:
                return None
            return self.quartiles[1] >= 1
        if spec.bound is not None:
            return self.ours <= spec.bound
        if spec.ratio is not None:
            return None if self.ratio is None else self.ratio >= spec.ratio
        return True

    def to_json(self) -> dict[str, object]:
        """Plain values, with no infinity among them."""
        ratio = self.ratio if self.ratio is None or math.isfinite(self.ratio) else None
        return {
            **asdict(self.spec),
            "ours": self.ours,
            "peer_figure": self.peer,
            "times_better": ratio,
            "quartiles": self.quartiles,
            "ok": self.ok,
        }


def make_rows(samples: Samples, names: Iterable[str]) -> list[Row]:
    """The rows of these names, with the median over rounds of each figure."""

    def median(system: str, name: str) -> float | None:
        values = samples.get(system, {}).get(name)
        return statistics.median(values) if values else None

    def figure(system: str, spec: Spec, name: str) -> float | None:
        value = median(system, name)
        if spec.per is None or value is None:
            return value
        whole = median(LIMIT, spec.per)
        return None if whole is None else value / whole

    def row(spec: Spec) -> Row:
        pairs = samples.get(OURS, {}).get(spec.name, ()) if spec.cost else ()
        quartiles = (percentile(pairs, 0.25), percentile(pairs, 0.75)) if pairs else None
        return Row(spec, figure(OURS, spec, spec.name), figure(spec.peer, spec, spec.against or spec.name), quartiles)

    wanted = set(names)
    return [row(spec) for spec in SPECS if spec.name in wanted]


def names_of(wanted: str) -> list[str]:
    """The rows that are called so or begin so: `million` for `million-cpu` and its like."""
    return [name for name in NAMES if name == wanted or name.startswith(f"{wanted}-")]
