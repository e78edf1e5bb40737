"""How a Cluster starts, is watched over and stops, and the file that tells of it.

Which clusters run is told by the connection files alone, which controllers write and remove. So a Cluster finds what a
shell has started, and a shell what a Cluster has. The cluster of a Cluster ends with its Python: at exit it is stopped,
and when there is no exit a guard stops it (``program.py``).
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import sys
import time
import traceback
import weakref
from typing import Any

from . import connection, launching
from .program import Guard, Program, locate
from .running import MPIControllerLauncher, MPIEngineSetLauncher, Run, remove_log
from .twins import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from .client import Client

#: Those whose cluster ends with this process.
_started: weakref.WeakSet[Lifecycle] = weakref.WeakSet()

#: Arguments of ipyparallel's Cluster that choose what is not there to be chosen.
_IGNORED = frozenset(("config", "ipython_dir", "parent", "send_engines_connection_env"))
#: What `to_dict` writes down of a Cluster's arguments.
WRITTEN = (
    *("cluster_id", "n", "controller_args", "engine_timeout", "profile", "profile_dir"),
    *("controller_ip", "controller_location", "delay", "options"),
)


@atexit.register
def _stop_all() -> None:
    for cluster in list(_started):
        if not cluster._ends_with_this_process():
            continue
        if cluster._is_running():
            print(f"Stopping cluster {cluster}", file=sys.stderr)
        try:
            call(cluster._stop())
        except Exception:
            print(f"Error stopping cluster {cluster}", file=sys.stderr)
            traceback.print_exc()


class Lifecycle:
    """What a Cluster is made of; its interface is in ``cluster.py``."""

    def __init__(
        self,
        *,
        n: int | None = None,
        engines: Any = None,
        controller: Any = None,
        cluster_id: str | None = None,
        controller_args: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        engine_timeout: float = 60,
        shutdown_atexit: bool = True,
        log_level: int | str = logging.INFO,
        log: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        cluster_file: str | os.PathLike[str] | None = None,
        profile: str = "",
        profile_dir: str = "",
        controller_ip: str = "",
        controller_location: str = "",
        delay: float = 1.0,
        load_profile: bool = True,
        engine_launcher_class: Any = None,
        controller_launcher_class: Any = None,
        **ignored: Any,
    ) -> None:
        self._run: Run | None = None
        if unknown := sorted(set(ignored) - _IGNORED):
            raise TypeError(f"Cluster() got an unexpected keyword argument {unknown[0]!r}")
        if isinstance(controller_args, str):
            raise TypeError("controller_args is a list of flags, such as ['--port', '8786'], not a str")
        self.n = launching.check_n(n)
        self._kind = launching.parse_kind("engines", engines, engine_launcher_class)
        launching.parse_kind("controller", controller, controller_launcher_class)
        self.options = launching.check_options(self._kind, options)
        #: Whether its directory is to stay: somebody knows its name.
        self._named = cluster_id is not None
        name = launching.new_cluster_id(time.time()) if cluster_id is None else cluster_id
        self._connection_file = os.path.abspath(connection.path_of(name))
        self.cluster_id = os.path.basename(os.path.dirname(self._connection_file))
        #: Where :meth:`write_cluster_file` writes. By default the connection file, which is the controller's.
        self.cluster_file = self._connection_file if cluster_file is None else os.fspath(cluster_file)
        self.controller_args = list(map(str, controller_args))
        self.engine_timeout = engine_timeout
        self.profile = profile
        self.profile_dir = os.path.abspath(profile_dir) if profile_dir else ""
        self.controller_ip = controller_ip
        self.controller_location = controller_location
        self.delay = delay
        self.load_profile = load_profile
        self.log_level = log_level
        self.log = log or self._new_log()
        #: The controller of the run that this object has started or found; its `state` tells whether that goes on.
        self.controller: MPIControllerLauncher | None = None
        #: The engines, by the id of their set; there is one set.
        self.engines: dict[str, MPIEngineSetLauncher] = {}
        #: Whether this object can start the like of the run.
        self._knows_how = True
        self._shutdown_atexit = shutdown_atexit
        self._process = os.getpid()
        self._guard: Guard | None = None
        #: Whether it was started as a batch job.
        self._submitted = False
        self._stopping: Program | None = None
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._context_client: Client | None = None

    def _new_log(self) -> logging.Logger:
        """In IPython people see it; elsewhere it goes where the program's logging does."""
        from .outputs import shell

        log = logging.getLogger(f"{type(self).__module__}.{self.cluster_id}")
        log.setLevel(self.log_level)
        if shell() is not None:
            log.handlers = [logging.StreamHandler(sys.stdout)]
            log.propagate = False
        return log

    def __repr__(self) -> str:
        fields = {"cluster_id": repr(self.cluster_id)}
        if self.profile_dir:
            fields["profile_dir"] = repr(connection.shorten(self.profile_dir))
        else:
            fields["profile"] = repr(self.profile or "default")
        if self.controller is not None:
            fields["controller"] = f"<{self.controller.state}>"
        if self.engines:
            fields["engine_sets"] = str(list(self.engines))
        return f"<{type(self).__name__}({', '.join(f'{name}={value}' for name, value in fields.items())})>"

    @property
    def engine_set(self) -> MPIEngineSetLauncher | None:
        """The engines, None when none have been started."""
        return next(iter(self.engines.values()), None)

    # -- the run -------------------------------------------------------------------------------------------------

    def _is_running(self) -> bool:
        return self._run is not None and self._run.is_alive()

    def _attach(self, run: Run, knows_how: bool) -> None:
        self._forget()
        self._run = run
        self._knows_how = knows_how
        self.controller = MPIControllerLauncher(run)
        engines = MPIEngineSetLauncher(run)
        self.engines = {engines.engine_set_id: engines}
        self.shutdown_atexit = self._shutdown_atexit

    def _forget(self) -> None:
        """There is no run, or not that one."""
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        _started.discard(self)
        self._run = self.controller = self._stopping = None
        self.engines = {}

    def _found(self) -> Run:
        """The run, or the one that somebody else has started since under this name. RuntimeError: there is none."""
        if self._run is None or not self._run.is_alive():
            run = Run.find(self._connection_file)
            if run is None:
                raise RuntimeError(f"cluster {self.cluster_id!r} is not running: start_cluster(n) starts it")
            self._shutdown_atexit = False
            self._attach(run, knows_how=False)
            return run
        return self._run

    @property
    def shutdown_atexit(self) -> bool:
        """Whether the cluster ends with this Python. It can be changed while the cluster runs."""
        return self._shutdown_atexit

    @shutdown_atexit.setter
    def shutdown_atexit(self, wanted: bool) -> None:
        self._shutdown_atexit = wanted
        if self._run is not None and wanted and self._guard is None:
            self._process = os.getpid()
            mark = json.dumps(self._run.info["socket"], ensure_ascii=False)
            self._guard = Guard(self._stop_command(), self._directory(), self._connection_file, mark)
            _started.add(self)
        elif self._guard is not None and not wanted:
            self._guard.release()
            self._guard = None
            _started.discard(self)

    def _ends_with_this_process(self) -> bool:
        return self._guard is not None and self._process == os.getpid()

    def __del__(self) -> None:
        if self._run is not None and self._ends_with_this_process():
            call(self._stop())

    def _directory(self) -> str:
        """Where the directories of this and other clusters are."""
        return os.path.dirname(os.path.dirname(self._connection_file))

    def _stop_command(self) -> list[str]:
        return launching.stop_command(locate(), self.cluster_id)

    # -- start and stop ------------------------------------------------------------------------------------------

    async def _start(self, n: int | None, with_bar: bool = False) -> None:
        wanted = self.n if n is None else launching.check_n(n)
        with _EngineBar(with_bar, self.log.hasHandlers()) as bar:
            start = self._begin(wanted)
            try:
                bar.show(wanted)
                await start.wait(lambda: self._tell(start, bar))
                run = Run.find(self._connection_file) if start.result()[0] == 0 else None
            except BaseException:
                start.give_up()
                self._clear_up(*start.result())
                raise
            code, said = start.result()
            if code != 0:
                raise launching.failure_of(code, said)
            if run is None:
                raise RuntimeError(f"cluster {self.cluster_id!r} was ready and has ended since: start it again")
            bar.reach(run.info["engines"])
        self._attach(run, knows_how=True)
        self.update_cluster_file()

    def _begin(self, n: int | None) -> Program:
        """Run ``pxcluster start``."""
        if self._is_running():
            raise RuntimeError(
                f"cluster {self.cluster_id!r} is running already, and no engines can be added to an MPI program: "
                "connect_client() connects to it; for another size stop_cluster(), then start_cluster(n)"
            )
        python = "" if os.environ.get("PXCLUSTER_PYTHON") else sys.executable
        how = locate(), self.cluster_id, n, self.engine_timeout, python, self.controller_args
        self._submitted = launching.is_submitted(self._kind, self.options, os.environ)
        if self._submitted:
            if shutil.which("sbatch") is None:
                raise FileNotFoundError(
                    "engines='slurm' needs the program sbatch, which is not on this host: run this on a login node of "
                    "the Slurm cluster, or take engines='mpi' for a cluster of this host"
                )
            launching.check_tasks(n, self.options or {})
            command = launching.submit_command(*how, self.options or {})
        else:
            command = launching.start_command(*how)
        self._forget()
        self.log.info(f"Starting {'' if n is None else f'{n} '}engines with {MPIEngineSetLauncher}")
        return Program(command, self._directory())

    def _tell(self, start: Program, bar: _EngineBar) -> None:
        """What a start that goes on has said since."""
        for line in start.news():
            state = launching.parse_state(line)
            if state is None or not bar.tell(state):
                self.log.info(line.removeprefix("pxcluster: "))
        bar.refresh()

    def _clear_up(self, code: int, said: str) -> None:
        """Nothing remains of a start that was interrupted, even if it was too late for that; but a job in a queue."""
        if code == 0:
            Program(self._stop_command(), self._directory()).join()
        elif self._submitted:
            print(said.rstrip().rpartition("\n")[2], file=sys.stderr)
        if not self._named and not self._submitted:
            remove_log(os.path.dirname(self._connection_file), patience=5)

    async def _stop(self) -> None:
        run = self._run
        if run is None:
            return
        if self._stopping is None and run.is_published():
            self.log.info("Stopping controller")
            self.log.info(f"Stopping engine(s): {', '.join(self.engines)}")
            self._stopping = Program(self._stop_command(), self._directory())
        stop = self._stopping
        if stop is not None:
            await stop.wait()
            code, said = stop.result()
            if self._run is not run:
                return  # somebody else has waited for the same
            self._stopping = None
            if code != 0 and run.is_alive():
                raise launching.failure_of(code, said)
        if not self._named and self._knows_how:
            run.remove_log()
        self._forget()
        self.update_cluster_file()

    # -- the cluster file ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` needs to find this cluster again; nothing secret."""
        arguments = {name: getattr(self, name) for name in WRITTEN}
        found: dict[str, Any] = {
            "cluster": {**arguments, "class": f"{type(self).__module__}.{type(self).__qualname__}"}
        }
        if self.controller is not None and self.controller.running:
            found["controller"] = {"class": self._kind, "state": self.controller.to_dict()}
        sets = {name: engines.to_dict() for name, engines in self.engines.items() if engines.running}
        found["engines"] = {"class": self._kind, "sets": sets}
        return found

    def write_cluster_file(self) -> None:
        """Write :meth:`to_dict` to :attr:`cluster_file`, unless that is the connection file, which tells the same."""
        if self.cluster_file in ("", self._connection_file):
            return
        os.makedirs(os.path.dirname(os.path.abspath(self.cluster_file)), exist_ok=True)
        with open(self.cluster_file, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file)

    def update_cluster_file(self) -> None:
        """Write :attr:`cluster_file`, or remove it when the cluster does not run. ``cluster_file=""``: do nothing."""
        if self.cluster_file in ("", self._connection_file):
            return
        if self._is_running():
            self.write_cluster_file()
        else:
            self.remove_cluster_file()

    def remove_cluster_file(self) -> None:
        """Remove :attr:`cluster_file`, if it is there. RuntimeError: it is the connection file of a running cluster."""
        if self.cluster_file == self._connection_file and Run.find(self._connection_file) is not None:
            raise RuntimeError(
                f"clients find cluster {self.cluster_id!r} by its connection file, which goes when the cluster ends: "
                "stop_cluster()"
            )
        try:
            os.remove(self.cluster_file)
        except FileNotFoundError:
            pass


class _EngineBar:
    """A bar of engines for who looks: all are ready at the same moment, and it counts the time until then.

    Without IPython it is a line that tells what a job waits for, unless a log does.
    """

    def __init__(self, wanted: bool, logs: bool) -> None:
        from .outputs import shell
        from .progress import StatusLine, noninteractive

        self._wanted = wanted and shell() is not None and not noninteractive()
        self._bar: Any = None
        self._line = StatusLine() if shell() is None and (sys.stdout.isatty() or not logs) else None
        self._state: str | None = None
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def show(self, total: int | None) -> None:
        """Begin, with no engine of `total`, which may be unknown."""
        from .progress import progress

        if self._wanted:
            self._bar = progress(total=total, unit="engine")
            self._shown = time.monotonic()

    def tell(self, state: str) -> bool:
        """Say what is waited for; False: nowhere."""
        self._state = state
        if self._bar is not None:
            self._bar.set_description(state)
        return self._bar is not None or self._line is not None

    def refresh(self) -> None:
        """Show the time, once a second."""
        if self._line is not None and self._state is not None:
            self._line.show(self._state)
        if self._bar is not None and time.monotonic() - self._shown > 1:
            self._shown = time.monotonic()
            self._bar.refresh()

    def reach(self, engines: int) -> None:
        """All are ready."""
        if self._bar is not None:
            self._bar.total = engines
            self._bar.update(engines)

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._line is not None:
            self._line.close()
