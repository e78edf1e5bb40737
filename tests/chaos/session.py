"""One run, in a process of its own: `python -m chaos.session SEED [KILLS]`, started by the driver.

Prints its outcome as one line of JSON. Where it is stands in the file `progress` of its folder.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shlex
import signal
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.cluster import Cluster, Site
from harness.processes import is_alive
from harness.waiting import wait_for
from pxcluster import AsyncResult, Client, interactive
from pxcluster.error import ConnectionLost, EngineError, RemoteError

from .plan import DEATHS, ENGINES, FROM_OUTSIDE, WAIT, Kill, MapPlan, Plan, make_plan
from .report import Outcome
from .tally import Tally
from .verdict import Came, Verdict, judge, judge_pushes

ON_ENGINE = Path(__file__).with_name("on_engine.py")
#: Seconds within which everybody must know of a death. The promise is 2, the machine may be slow.
NEWS = 20.0

begin = interactive(lambda folder, engine: chaos_begin(folder, engine))  # noqa: F821
task = interactive(lambda item: chaos_run(item))  # noqa: F821
noise_seen = interactive(lambda: NOISE[0])  # noqa: F821


class Run:
    """The state of one run."""

    def __init__(self, plan: Plan, cluster: Cluster, folder: Path, outcome: Outcome) -> None:
        self.plan = plan
        self.cluster = cluster
        self.folder = folder
        self.outcome = outcome
        self.tally = Tally()
        self.verdict = Verdict()
        self.client: Client = cluster.client()
        self.pids: dict[int, int] = {}
        self.phase = "start"
        self.over = threading.Event()
        self.died_at: dict[int, float] = {}
        self.pushes: list[AsyncResult] = []
        self.noise = 0
        self.problems: list[str] = []

    def alive(self) -> list[int]:
        """Engines whose process runs."""
        return [engine for engine, pid in self.pids.items() if is_alive(pid)]

    def arm(self) -> None:
        """Gives the engines what they need."""
        self.phase = "arm"
        self.client[:].execute(ON_ENGINE.read_text(), block=True)
        self.client[:].push({"NOISE": (0, b"")}, block=True)
        for engine in self.client.ids:
            self.pids[engine] = self.client[engine].apply_sync(begin, str(self.folder), engine)

    # -- beside the maps -----------------------------------------------------------------------------------------

    def note_progress(self) -> None:
        """For the driver, should this hang."""
        while not self.over.wait(0.5):
            state = {
                "phase": self.phase,
                "results": f"{self.tally.total} of {self.plan.count}",
                "pushes": len(self.pushes),
                "pushes beside the maps": self.noise,
                "ids": self.client.ids,
                "alive": self.alive(),
                "kills": self.outcome.kills,
                "requests": [f"{tasks.total()} results" for tasks in list(self.tally.results.values())],
                "pids": self.pids,
            }
            (self.folder / "progress").write_text(json.dumps(state))

    def kill(self, kills: tuple[Kill, ...]) -> None:
        """SIGKILL when it is time."""
        for one in kills:
            while self.tally.total < one.results and not self.over.is_set():
                time.sleep(0.0005)
            time.sleep(one.delay)
            alive = self.alive()
            victim = alive[int(one.place * len(alive))]
            self.died_at[victim] = time.time()
            os.kill(self.pids[victim], signal.SIGKILL)
            self.outcome.kills[FROM_OUTSIDE] = self.outcome.kills.get(FROM_OUTSIDE, 0) + 1

    def push_to_all(self, client: Client, names: dict[str, Any]) -> AsyncResult:
        """A push to all who live. A view that was made before the news of a death refuses: another is made then."""
        for _ in self.pids:
            try:
                return client[:].push(names, block=False)
            except ConnectionLost:
                raise
            except EngineError:
                continue
        return client[:].push(names, block=False)

    def push_noise(self) -> None:
        """Pushes to all who live, until the maps are over."""
        client = self.cluster.client() if self.plan.second_client else self.client
        while not self.over.is_set():
            size = self.plan.noise[self.noise % len(self.plan.noise)]
            self.noise += 1
            self.tolerate(self.push_to_all(client, {"NOISE": (self.noise, bytes(size))}))
            self.over.wait(0.01)

    def tolerate(self, push: AsyncResult) -> set[int]:
        """Waits for a push; the engines it succeeded on. Only the dead may fail."""
        push.wait()
        reached = set()
        for request, slot in push._slots():
            succeeded, value = request.outcome(slot)
            engine = request.engine(slot)
            assert engine is not None
            if succeeded:
                reached.add(engine)
            elif not isinstance(value, EngineError):
                self.problems.append(f"a push to engine {engine} failed with {type(value).__name__}: {value}")
            elif is_alive(self.pids[engine]):
                self.problems.append(f"a push to engine {engine}, which lives, failed: {value}")
        return reached

    @contextmanager
    def beside(self, *targets: Any) -> Iterator[None]:
        """Runs these in threads meanwhile; what they raise is a breach."""

        def guarded(target: Any, *arguments: Any) -> None:
            try:
                target(*arguments)
            except BaseException:
                self.problems.append(traceback.format_exc())

        threads = [threading.Thread(target=guarded, args=target, daemon=True) for target in targets]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    # -- the maps ------------------------------------------------------------------------------------------------

    def submit(self, plan: MapPlan) -> tuple[Any, int]:
        """A push, a map, and how many pushes the map must see."""
        number = len(self.pushes) + 1
        push = self.push_to_all(self.client, {"EPOCH": number})
        self.pushes.append(push)
        if plan.after_push == WAIT:
            push.wait()
        balanced = self.client.load_balanced_view(retries=plan.retries)
        if plan.lazy:
            return balanced.imap(task, plan.tasks, ordered=plan.ordered, return_exceptions=True), number
        return balanced.map_async(task, plan.tasks, ordered=plan.ordered, return_exceptions=True), number

    def collect(self, plan: MapPlan, results: Any) -> list[Came]:
        """Everything that a map yields."""
        yielded = list(results)
        if isinstance(results, AsyncResult):
            request: Any = results._requests[0]
            places = range(len(yielded)) if plan.ordered else request.arrived
        else:
            places = range(len(yielded)) if plan.ordered else ()
        slots: list[int | None] = [*places, *[None] * (len(yielded) - len(places))]
        return [self.came(value, plan, slot) for value, slot in zip(yielded, slots, strict=True)]

    def came(self, value: Any, plan: MapPlan, slot: int | None) -> Came:
        """One thing that a map yielded. An error names its task, or is where its task is."""
        if isinstance(value, tuple):
            number, epoch, engine = value
            return Came(number, (epoch, engine))
        place = plan.tasks[slot][0] if slot is not None else None
        if isinstance(value, RemoteError):
            says = value.evalue.partition(" ")[0]
            own = value.ename in ("ValueError", "RuntimeError") and says.isdigit()
            return Came(int(says) if own else place, error=(value.ename, value.evalue))
        return Came(place, error=(type(value).__name__, str(value)))

    def maps(self) -> None:
        """All maps, while pushes go on and engines die; then whether everything came."""
        self.phase = "maps"
        came: list[tuple[MapPlan, list[Came], int]] = []
        with self.beside((self.note_progress,), (self.kill, self.plan.kills), (self.push_noise,)):
            if self.plan.at_once:
                under_way = [(plan, *self.submit(plan)) for plan in self.plan.maps]
                came += [(plan, self.collect(plan, results), pushes) for plan, results, pushes in under_way]
            else:
                for plan in self.plan.maps:
                    results, pushes = self.submit(plan)
                    came.append((plan, self.collect(plan, results), pushes))
        self.phase = "check"
        reached = [self.tolerate(push) for push in self.pushes]
        for plan, results, pushes in came:
            judge(plan, results, self.suspects(), self.verdict)
            judge_pushes(results, reached[:pushes], self.verdict)
        self.verdict.doubled += self.tally.doubled()
        values = sum(one.seen is not None for _, results, _ in came for one in results)
        self.outcome.again = sum(self.marks(engine)[1] for engine in self.pids) - values
        if self.outcome.again and not (self.plan.kills or self.plan.deadly()):
            self.verdict.breach(f"nobody died, and {self.outcome.again} tasks ran twice")
        self.outcome.tasks = sum(len(results) for _, results, _ in came)

    def marks(self, engine: int) -> tuple[int | None, int]:
        """Which task an engine runs, or ran when it died, and how many have succeeded there."""
        current, count = struct.unpack("<qq", (self.folder / f"marks-{engine}").read_bytes())
        return (current - 1 if current else None), count

    def suspects(self) -> Counter[int]:
        """How many of the dead ran each task when they died."""
        ran = (self.marks(engine)[0] for engine in set(self.pids) - set(self.alive()))
        return Counter(number for number in ran if number is not None)

    # -- afterwards ----------------------------------------------------------------------------------------------

    def count_deaths(self) -> None:
        """The deaths that happened are the ones of the plan, and everybody knows of them."""
        self.phase = "deaths"
        for number, _, how in self.plan.deadly():
            mark = self.folder / f"died-{number}"
            if mark.exists():
                name = DEATHS[int(how)]
                self.outcome.kills[name] = self.outcome.kills.get(name, 0) + 1
            else:
                self.verdict.breach(f"task {number}, which ends its engine, never ran")
        dead = sorted(set(self.pids) - set(self.alive()))
        if len(dead) > sum(self.outcome.kills.values()):
            self.verdict.breach(f"engines {dead} are dead after {self.outcome.kills}")
        wait_for(
            lambda: self.client.ids == self.alive(),
            lambda: f"rc.ids is {self.client.ids} and engines {self.alive()} live",
            NEWS,
        )
        told = [self.tally.gone[engine] - self.died_at[engine] for engine in self.died_at if engine in self.tally.gone]
        self.outcome.told = max(told, default=0.0)

    def go_on(self) -> None:
        """Those who live work as before."""
        self.phase = "afterwards"
        alive = {engine: self.pids[engine] for engine in self.alive()}
        view = self.client[:]
        if view.apply_sync(os.getpid) != list(alive.values()):
            self.verdict.breach("an apply after the deaths did not reach all who live")
        if (seen := view.apply_sync(noise_seen)) != [self.noise] * len(alive):
            self.verdict.breach(f"{self.noise} pushes were made beside the maps, and the engines have {seen}")
        view.push({"EPOCH": -1}, block=True)
        tasks = [(number, 0, 0) for number in range(1_000)]
        after = self.client.load_balanced_view().map_sync(task, tasks)
        if [number for number, _, _ in after] != list(range(1_000)) or any(epoch != -1 for _, epoch, _ in after):
            self.verdict.breach("a map after the deaths went wrong")

    def stop(self) -> None:
        """The ordinary end, with exit code 0 and nothing left."""
        self.phase = "stop"
        self.cluster.stop()
        code = self.cluster.wait_ended()
        if code != 0:
            self.verdict.breach(f"mpirun ended with {code}")
        self.phase = "nothing remains"
        self.cluster.site.wait_until_nothing_remains()
        if "panicked" in self.cluster.log():
            self.verdict.breach("something panicked, see the log")


def run(plan: Plan, folder: Path) -> Outcome:
    """The whole of it."""
    outcome = Outcome(plan.seed)
    begun = time.monotonic()
    site = Site()
    cluster = Cluster(site, ENGINES, launcher=shlex.split(os.environ.get("CHAOS_LAUNCHER", "mpirun")))
    verdict = Verdict()
    state = None
    try:
        state = Run(plan, cluster.start(), folder, outcome)
        verdict = state.verdict
        state.arm()
        state.maps()
        state.count_deaths()
        state.go_on()
        state.stop()
    except BaseException:
        verdict.breach(f"while '{state.phase if state else 'start'}': {traceback.format_exc()}")
    finally:
        outcome.breaches = [*verdict.breaches, *(state.problems if state else [])]
        outcome.lost, outcome.doubled, outcome.failed = verdict.lost, verdict.doubled, verdict.failed
        if not outcome.ok:
            outcome.evidence = f"the cluster printed:\n{cluster.log()[-6000:]}"
        cluster.kill()
        site.remove()
    outcome.seconds = time.monotonic() - begun
    return outcome


def main() -> None:
    """Runs the seed of the command line."""
    faulthandler.register(signal.SIGUSR2, sys.stderr, all_threads=True)
    seed, kills = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
    folder = Path(os.environ["CHAOS_FOLDER"])
    outcome = run(make_plan(seed, kills), folder)
    print(outcome.to_json(), flush=True)
    # A thread that never comes back must not hold up the end.
    os._exit(0)


if __name__ == "__main__":
    main()
