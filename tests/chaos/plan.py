"""What happens in one run, decided by its seed alone. Pure: no process, no file, no clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

ENGINES = 7
TASKS = 50_000
MOST_KILLS = 3

# Kinds of tasks, and what their argument is.
NOTHING = 0
SLEEP = 1  # seconds
SPIN = 2  # seconds
RAISE = 3  # always
FLAKY = 4  # how often it raises before it succeeds
DIE = 5  # the first time: by which way, an index of DEATHS

#: How a task ends its engine.
DEATHS = ("SIGSEGV", "os._exit")
#: How this process ends an engine.
FROM_OUTSIDE = "SIGKILL"

#: number, kind, argument: what is sent to the engines, and small.
Task = tuple[int, int, float]

#: What is done between the push before a map and the map.
WAIT, GO_ON = "wait", "go on"


@dataclass(frozen=True)
class MapPlan:
    """One map. Tasks are numbered through the whole run."""

    tasks: tuple[Task, ...] = field(repr=False)
    ordered: bool
    retries: int
    #: By imap, so that the inputs are taken while results come.
    lazy: bool
    after_push: str


@dataclass(frozen=True)
class Kill:
    """SIGKILL for an engine when so many results have come, and `delay` seconds after that."""

    results: int
    delay: float
    #: Which of the engines that live, as a share of their number.
    place: float


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    maps: tuple[MapPlan, ...]
    kills: tuple[Kill, ...]
    #: All maps are submitted before any result is asked for.
    at_once: bool
    #: The pushes beside the maps come from another client, not only from another thread.
    second_client: bool
    #: Bytes of the pushes beside the maps, in turn.
    noise: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return sum(len(one.tasks) for one in self.maps)

    def deadly(self) -> list[Task]:
        """The tasks that kill."""
        return [task for one in self.maps for task in one.tasks if task[1] == DIE]


def make_plan(seed: int, kills: int | None = None, tasks: int = TASKS) -> Plan:
    """The run of this seed. `kills` takes the place of its own number of kills and changes nothing else."""
    source = random.Random(f"{seed} maps")
    sizes = _sizes(source, tasks)
    maps, begin = [], 0
    for size in sizes:
        maps.append(_map(source, begin, size))
        begin += size
    shape = {
        "at_once": source.random() < 0.5,
        "second_client": source.random() < 0.5,
        "noise": tuple(source.choice((10, 1_000, 100_000, 3_000_000)) for _ in range(20)),
    }
    deaths = random.Random(f"{seed} deaths")
    own = deaths.randint(1, MOST_KILLS)
    return _with_deaths(Plan(seed, tuple(maps), (), **shape), deaths, own if kills is None else kills)


def _sizes(source: random.Random, tasks: int) -> list[int]:
    """One map in half of the runs, else up to four of any size."""
    parts = source.choice((1, 1, 1, 2, 3, 4))
    cuts = sorted(source.sample(range(1, tasks), parts - 1))
    return [end - begin for begin, end in zip([0, *cuts], [*cuts, tasks], strict=True)]


def _map(source: random.Random, begin: int, size: int) -> MapPlan:
    retries = source.choice((0, 0, 1, 3))
    raising = source.choice((0.0, 0.001))
    heavy = source.choice((0.0005, 0.002))
    tasks = tuple(_task(source, number, retries, raising, heavy) for number in range(begin, begin + size))
    return MapPlan(
        tasks,
        ordered=source.random() < 0.5,
        retries=retries,
        lazy=source.random() < 0.2,
        after_push=source.choice((WAIT, GO_ON)),
    )


def _task(source: random.Random, number: int, retries: int, raising: float, heavy: float) -> Task:
    chance = source.random()
    if chance < heavy:
        return number, source.choice((SLEEP, SPIN)), round(source.uniform(0.02, 0.05), 4)
    if chance < 0.05:
        return number, SLEEP, round(source.uniform(0.0001, 0.002), 5)
    if chance < 0.05 + raising:
        return number, RAISE, 0
    if retries and chance < 0.05 + 2 * raising:
        return number, FLAKY, source.randint(1, retries)
    return number, NOTHING, 0


def _with_deaths(plan: Plan, source: random.Random, kills: int) -> Plan:
    """Some of the kills come from outside, the others are tasks; some runs have all of those from outside at once."""
    outside: list[Kill] = []
    deadly: dict[int, int] = {}
    numbers = source.sample(range(plan.count), kills)
    together = source.random() < 0.3
    moment = source.randrange(int(0.95 * plan.count))
    for number in numbers:
        how = source.choice((FROM_OUTSIDE, *DEATHS))
        if how == FROM_OUTSIDE:
            moment = moment if together else source.randrange(int(0.95 * plan.count))
            delay = 0.0 if together else source.uniform(0, 0.005)
            outside.append(Kill(moment, delay, source.random()))
        else:
            deadly[number] = DEATHS.index(how)
    maps = tuple(
        replace(one, tasks=tuple((task[0], DIE, deadly[task[0]]) if task[0] in deadly else task for task in one.tasks))
        for one in plan.maps
    )
    return replace(plan, maps=maps, kills=tuple(sorted(outside, key=lambda kill: kill.results)))
