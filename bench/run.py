"""Measures pxcluster and its peers in turn, several rounds, and prints one table.

Each round starts, measures and ends one system after the other, so that nothing else of them runs meanwhile.
Writes bench/out/bench.json and bench/out/bench.png. Ends with 1 when a requirement is not met or a measurement fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import report
from processes import Job, MeasurementError, figures, wait_for_end
from rows import (
    BARE,
    BCAST,
    DASK,
    ENGINES,
    FUTURES,
    IPYPARALLEL,
    LIMIT,
    NAMES,
    OURS,
    PLAIN,
    POOL,
    POOL_UNORDERED,
    RAW_BCAST,
    RAY,
    SPECS,
    TLS,
    Spec,
    make_rows,
    names_of,
)
from session import CLUSTERS

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"

#: Programs that measure a peer by themselves, with their flags; those of `RANKS` as ranks of one mpirun.
ALONE = {
    POOL: ["pool_peer.py"],
    POOL_UNORDERED: ["pool_peer.py", "--unordered"],
    LIMIT: ["limit.py"],
    DASK: ["dask_peer.py"],
    RAY: ["ray_peer.py"],
    TLS: ["tls_peer.py"],
}
RANKS = {BCAST: ["bcast_peer.py"], RAW_BCAST: ["bcast_peer.py", "--raw"]}
#: What ranks do that start and end, and nothing else.
STARTS = {BARE: "import mpi4py.MPI", PLAIN: "pass"}

ALL_TASKS = 20_000
SAMPLE_TASKS = 2_000
#: Seconds after which a measurement of one system is given up.
PATIENCE = 420.0
#: The table that simulated clusters make; it is shown as it is.
SIMULATION = "simulation"
EFFICIENCY = HERE.parent / "scheduler" / "examples" / "efficiency.rs"
WITHOUT_NANNY = "--no-nanny"


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    rounds: int
    calls: int
    ipyparallel_tasks: int
    idle_seconds: float
    pairs: int
    transfers: int


FULL = Settings(rounds=3, calls=500, ipyparallel_tasks=ALL_TASKS, idle_seconds=20, pairs=24, transfers=7)
QUICK = Settings(rounds=1, calls=100, ipyparallel_tasks=SAMPLE_TASKS, idle_seconds=10, pairs=8, transfers=5)


@dataclass
class Bench:
    """Starts systems and collects their figures."""

    settings: Settings
    directory: Path
    samples: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failures: list[str] = field(default_factory=list)
    #: "NAME: why".
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sockets = self.directory / "run"
        sockets.mkdir(mode=0o700)
        self._environment = {
            **os.environ,
            "TMPDIR": str(self.directory),
            "XDG_RUNTIME_DIR": str(sockets),
            "PYTHONUNBUFFERED": "1",
        }
        self._measuring = {**self._environment, "PYTHONPATH": str(HERE)}

    def measure(self, system: str, names: list[str], engines: int) -> None:
        """Runs one system once and adds its figures for the rows of these names."""
        names = [name for name in names if any(spec.name == name and serves(system, spec) for spec in SPECS)]
        if not names:
            return
        print(f"  {system}, {engines} engines: {', '.join(names)}", file=sys.stderr, flush=True)
        try:
            if system in STARTS:
                found = self._start(system, names, engines)
            elif system == FUTURES:
                found = self._futures(names, engines)
            elif system in ALONE:
                found = self._alone(system, [], ALONE[system], names, engines)
            elif system in RANKS:
                found = self._alone(system, ["mpirun", "-n", str(engines + 1)], RANKS[system], names, engines)
            else:
                found = self._cluster(system, names, engines)
        except (MeasurementError, OSError) as error:
            self.failures.append(f"{system}, {', '.join(names)}: {error}")
            return
        self._keep(system, found)

    def _keep(self, system: str, found: dict[str, Any]) -> None:
        """Adds figures, or lists of them."""
        for name, figure in found.items():
            if isinstance(figure, list):
                self.samples[system][name] += figure
            elif not isinstance(figure, str):
                self.samples[system][name].append(figure)

    def _read(self, system: str, job: Job, cluster: Job | None = None) -> dict[str, Any]:
        """The figures of a measuring program, and those it printed before it failed."""
        try:
            wait_for_end(job, PATIENCE, while_running=cluster)
        except MeasurementError as error:
            found = figures(job)
            self.failures.append(f"{system}, after {', '.join(found) or 'nothing'}: {error}")
            return found
        return figures(job)

    def _sizes(self, names: list[str], engines: int, tasks: int) -> list[str]:
        sizes = {
            "rows": ",".join(names),
            "engines": engines,
            "calls": self.settings.calls,
            "tasks": tasks,
            "pairs": self.settings.pairs,
            "transfers": self.settings.transfers,
            "idle-seconds": self.settings.idle_seconds,
        }
        return [f"--{name}={value}" for name, value in sizes.items()]

    def _cluster(self, system: str, names: list[str], engines: int) -> dict[str, Any]:
        cluster = CLUSTERS[system]
        tasks = ALL_TASKS if system == OURS else self.settings.ipyparallel_tasks
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        own = cluster.environment(directory)

        def stop(process: subprocess.Popen[bytes]) -> None:
            cluster.stop(process, directory)

        with Job(cluster.command(engines), {**self._environment, **own}, directory / "cluster.log", stop) as job:
            command = [
                sys.executable,
                str(HERE / "session.py"),
                f"--system={system}",
                f"--directory={directory}",
                f"--mark={job.mark}",
                f"--spawned={job.spawned!r}",
                f"--sample={SAMPLE_TASKS}",
                *self._sizes(names, engines, tasks),
            ]
            with Job(command, {**self._measuring, **own}, directory / "session.log") as session:
                found = self._read(system, session, job)
        if (stop_row := f"start-{engines}-stop") in names:
            found[stop_row] = job.ending
        return found

    def _futures(self, names: list[str], engines: int) -> dict[str, Any]:
        peer = str(HERE / "peers" / "mpi4py_futures_peer.py")
        command = ["mpirun", "-n", str(engines + 1), sys.executable, "-m", "mpi4py.futures", peer]
        command += self._sizes(names, engines, ALL_TASKS)
        with Job(command, self._measuring, self.directory / "futures.log") as job:
            return self._read(FUTURES, job)

    def _alone(
        self, system: str, launcher: list[str], program: list[str], names: list[str], engines: int
    ) -> dict[str, Any]:
        name, *flags = program
        command = [*launcher, sys.executable, str(HERE / "peers" / name), *flags]
        command += self._sizes(names, engines, ALL_TASKS)
        with Job(command, self._measuring, self.directory / "alone.log") as job:
            return self._read(system, job)

    def compare_nannies(self, names: list[str]) -> None:
        """Two clusters at once, one without nannies, asked in turn."""
        known = subprocess.run(["pxcluster-rank", "--help"], capture_output=True, text=True, check=False).stdout
        if WITHOUT_NANNY not in known:
            self.skipped += [f"{name}: pxcluster-rank does not know {WITHOUT_NANNY}" for name in names]
            return
        print(f"  {OURS} with and without nannies: {', '.join(names)}", file=sys.stderr, flush=True)
        ours = CLUSTERS[OURS]
        files: list[str] = []
        try:
            with ExitStack() as jobs:
                for place, flags in (("first", []), ("second", [WITHOUT_NANNY])):
                    directory = Path(tempfile.mkdtemp(dir=self.directory))
                    environment = {**self._environment, **ours.environment(directory)}
                    command = [*ours.command(ENGINES), *flags]
                    stop = partial(ours.stop, directory=directory)
                    jobs.enter_context(Job(command, environment, directory / "cluster.log", stop))
                    files.append(f"--{place}={ours.connection_file(directory)}")
                command = [sys.executable, str(HERE / "pairs.py"), *files, *self._sizes(names, ENGINES, ALL_TASKS)]
                with Job(command, self._measuring, self.directory / "pairs.log") as job:
                    self._keep(OURS, self._read(OURS, job))
        except (MeasurementError, OSError) as error:
            self.failures.append(f"{', '.join(names)}: {error}")

    def _start(self, system: str, names: list[str], engines: int) -> dict[str, Any]:
        command = ["mpirun", "-n", str(engines + 1), sys.executable, "-c", STARTS[system]]
        with Job(command, self._environment, self.directory / "start.log") as job:
            wait_for_end(job, PATIENCE)
            return {names[0]: job.elapsed()}

    def run(self, names: list[str]) -> None:
        """All rounds, each with another system first."""
        systems = [IPYPARALLEL, FUTURES, *ALONE, *RANKS, *STARTS, OURS]
        for system in CLUSTERS:  # no start pays for reading the files for the first time
            subprocess.run([sys.executable, "-c", f"import {system}"], capture_output=True, check=False)
        engines_of = {spec.name: spec.engines for spec in SPECS}
        once = {"idle", *names_of("million")}
        nannies = [name for name in names if name in names_of("nanny")]
        names = [name for name in names if name not in nannies]
        for number in range(self.settings.rounds):
            print(f"round {number + 1} of {self.settings.rounds}", file=sys.stderr, flush=True)
            now = [name for name in names if number == 0 or name not in once]
            for step in range(len(systems)):
                system = systems[(number + step) % len(systems)]
                for engines in sorted(set(engines_of.values())):
                    self.measure(system, [name for name in now if engines_of[name] == engines], engines)
        if nannies:
            self.compare_nannies(nannies)


def serves(system: str, spec: Spec) -> bool:
    """Whether a row needs a system."""
    return system in (OURS, spec.peer) or (system == LIMIT and spec.per is not None)


def simulate() -> str:
    """What the simulation of whole clusters prints."""
    if not EFFICIENCY.exists():
        return f"{SIMULATION}: skipped, there is no {EFFICIENCY.relative_to(HERE.parent)}"
    command = ["cargo", "run", "--quiet", "--release", "--locked", "-p", "pxcluster-scheduler", "--example"]
    ended = subprocess.run([*command, EFFICIENCY.stem], cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode != 0:
        raise MeasurementError(f"{SIMULATION}: cargo ended with {ended.returncode}")
    return ended.stdout.rstrip()


def row_names(wanted: str) -> list[str]:
    """The rows that --only NAME means."""
    names = [SIMULATION] if wanted == SIMULATION else names_of(wanted)
    if not names:
        raise argparse.ArgumentTypeError(f"there is no {wanted!r} among {', '.join([*NAMES, SIMULATION])}")
    return names


def end(signum: int, _: object) -> NoReturn:
    """Lets every `finally` run."""
    raise SystemExit(128 + signum)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round and fewer repetitions")
    parser.add_argument(
        "--only",
        action="extend",
        type=row_names,
        metavar="NAME",
        help=f"these rows alone, or those that begin so: {', '.join([*NAMES, SIMULATION])}",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    names: list[str] = options.only or [*NAMES, *([] if options.quick else [SIMULATION])]
    simulated = simulate() if SIMULATION in names else ""
    names = [name for name in dict.fromkeys(names) if name != SIMULATION]
    if not names:
        print(simulated)
        return 0
    machine = report.describe_machine()
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        bench = Bench(QUICK if options.quick else FULL, directory)
        bench.run(names)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    machine["load after"] = f"{report.load():.2f}"

    skipped = {line.partition(":")[0] for line in bench.skipped}
    rows = make_rows(bench.samples, [name for name in names if name not in skipped])
    OUT.mkdir(exist_ok=True)
    report.write_json(OUT / "bench.json", machine, rows, bench.samples, bench.failures)
    (OUT / "bench.png").unlink(missing_ok=True)
    report.write_png(OUT / "bench.png", machine, rows)
    print(", ".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
    print(report.table(rows))
    for line in bench.skipped:
        print(f"skipped: {line}")
    for failure in bench.failures:
        print(f"failed: {failure}")
    if simulated:
        print(f"\n{simulated}")
    return 0 if all(row.ok for row in rows) and not bench.failures else 1


if __name__ == "__main__":
    sys.exit(main())
