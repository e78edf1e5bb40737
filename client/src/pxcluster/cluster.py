"""ipyparallel's Cluster: starting and stopping clusters from Python.

Coroutines wait by watching the program ``pxcluster``, so that their twins, whose names end in ``_sync``, need no thread
(``twins.py``).
"""

from __future__ import annotations

import json
import os
from typing import Any

from . import connection
from .lifecycle import WRITTEN, Lifecycle
from .running import Run
from .twins import twin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from .client import Client


class Cluster(Lifecycle):
    """A cluster that this program starts and stops: ``with Cluster(n=4) as rc``, or ``async with``.

    `n`: number of engines; None: as many as there is room for. `cluster_id`: its name; None: one of its own; ``""``:
    that of ``ipp.Client()``. `engines`: ``"mpi"``, or ``"local"``, which is the same, or ``"slurm"``: the allocation
    that this Python is in, else a batch job of its own, with `options` as flags of sbatch, ``{"time": "1:00:00"}`` for
    instance; Ctrl-C leaves a job in the queue and says how to go on. `controller_args`: more flags of ``pxcluster
    start``, such as ``["--hostfile", "hosts"]``; engines run this Python unless ``--python`` or ``$PXCLUSTER_PYTHON``
    names another. `engine_timeout`: seconds until all engines must be ready. `shutdown_atexit`: the cluster ends with
    this Python, however that ends, and with the last reference to this object.

    `profile`, `profile_dir`, `controller`, `controller_ip`, `controller_location`, `delay` and `load_profile` are
    accepted as in ipyparallel and choose nothing: clusters are in ``$PXCLUSTER_DIR``, the controller is rank 0 and
    listens on every interface.

    Every coroutine has a twin ending in ``_sync``. Those that start a cluster raise RuntimeError with the end of the
    log when it does not come up, TimeoutError when it is too slow, ValueError for flags that ``pxcluster start``
    refuses, FileNotFoundError where that program is not. One that is interrupted leaves nothing behind.
    """

    # -- start ---------------------------------------------------------------------------------------------------

    async def start_cluster(self, n: int | None = None) -> Self:
        """Start the controller and `n` engines (default: `self.n`); returns this object when all are ready."""
        await self._start(n)
        return self

    start_cluster_sync = twin(start_cluster)

    async def start_engines(self, n: int | None = None, engine_set_id: str | None = None) -> str:
        """As :meth:`start_cluster`, because a controller starts with its engines; returns the id of their set.

        NotImplementedError: `engine_set_id` is given; the id is the moment at which they are ready.
        """
        if engine_set_id is not None:
            raise NotImplementedError("the id of a set of engines is the moment of their start: do not give one")
        await self._start(n)
        return next(iter(self.engines))

    start_engines_sync = twin(start_engines)

    async def start_controller(self, /, **kwargs: Any) -> None:
        """Raises NotImplementedError: the controller is a rank of the MPI program of its engines."""
        raise NotImplementedError(
            "the controller is rank 0 of the MPI program of its engines and does not start alone: start_cluster(n) "
            "starts both, and so does start_engines(n)"
        )

    start_controller_sync = twin(start_controller)

    async def start_and_connect(self, n: int | None = None, activate: bool = False) -> Client:
        """:meth:`start_cluster`, then :meth:`connect_client`. `activate`: ``%px`` means this cluster from now on."""
        await self._start(n, with_bar=True)
        try:
            client = await self.connect_client()
        except BaseException:  # nobody would know of it
            await self._stop()
            raise
        if activate:
            client.activate()
        return client

    start_and_connect_sync = twin(start_and_connect)

    async def connect_client(self, /, **client_kwargs: Any) -> Client:
        """A Client of this cluster, whose :attr:`Client.cluster` is this object. RuntimeError: it is not running."""
        from .client import Client

        client = Client(self._found().path, **{"cluster": self, "profile": self.profile, **client_kwargs})
        self._clients.add(client)
        return client

    connect_client_sync = twin(connect_client)

    # -- stop ----------------------------------------------------------------------------------------------------

    async def stop_cluster(self) -> None:
        """Stop engines and controller; returns when they are gone. Does nothing when nothing runs."""
        await self._stop()

    stop_cluster_sync = twin(stop_cluster)

    async def stop_engines(self, engine_set_id: str | None = None) -> None:
        """As :meth:`stop_cluster`, because an MPI program ends as a whole. KeyError: no such set of engines."""
        self._check_set(engine_set_id)
        await self._stop()

    stop_engines_sync = twin(stop_engines)

    async def stop_controller(self) -> None:
        """As :meth:`stop_cluster`, because an MPI program ends as a whole."""
        await self._stop()

    stop_controller_sync = twin(stop_controller)

    def _check_set(self, engine_set_id: str | None) -> None:
        if engine_set_id is not None and engine_set_id not in self.engines:
            raise KeyError(engine_set_id)

    async def restart_engines(self, engine_set_id: str | None = None) -> None:
        """Stop the cluster, and start it with as many engines under the same id.

        The clients that this object has made and that are open go on with it: their engines have empty namespaces, and
        calls that waited raise ConnectionLost. Other clients have to be made again. KeyError: no such set of engines;
        NotImplementedError: somebody else has started the cluster, and how is not known.
        """
        self._check_set(engine_set_id)
        engines = self.engine_set
        if engines is None:
            raise RuntimeError(f"cluster {self.cluster_id!r} is not running: start_cluster(n) starts it")
        if not self._knows_how:
            raise NotImplementedError(
                f"this object has found cluster {self.cluster_id!r} and does not know how it was started: "
                f"stop_cluster() here, then start it where it was, or by Cluster(cluster_id={self.cluster_id!r}, n=…)"
            )
        clients = [client for client in self._clients if client._session.lost is None]
        await self._stop()
        await self._start(engines.n)
        for client in clients:
            client._rejoin(self._found().path)

    restart_engines_sync = twin(restart_engines)

    # -- signals -------------------------------------------------------------------------------------------------

    async def signal_engines(self, signum: int | str, engine_set_id: str | None = None) -> None:
        """Send a signal, by number or name, to the engines' user code; SIGINT interrupts it. KeyError: no such set."""
        self._check_set(engine_set_id)
        run = self._found()
        self.log.info(f"Sending signal {signum} to engine(s) {', '.join(self.engines)}")
        run.signal(signum)

    signal_engines_sync = twin(signal_engines)

    async def stop_engine(self, engine_id: int) -> None:
        """Raises NotImplementedError, as in ipyparallel: ``rc.kill_engines(engine_id)`` ends one engine."""
        raise NotImplementedError(f"a Cluster stops all engines or none: rc.kill_engines({engine_id!r}) ends this one")

    stop_engine_sync = twin(stop_engine)

    async def restart_engine(self, engine_id: int) -> None:
        """Raises NotImplementedError, as in ipyparallel: an MPI program starts all its ranks together."""
        raise NotImplementedError("MPI starts all engines together: restart_engines() starts all of them anew")

    restart_engine_sync = twin(restart_engine)

    async def signal_engine(self, signum: int | str, engine_id: int) -> None:
        """Raises NotImplementedError, as in ipyparallel: ``rc.send_signal(signum, engine_id)`` reaches one engine."""
        raise NotImplementedError(
            f"a Cluster sends signals to all engines: rc.send_signal({signum!r}, {engine_id!r}) reaches this one"
        )

    signal_engine_sync = twin(signal_engine)

    # -- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], **kwargs: Any) -> Self:
        """A Cluster from what :meth:`to_dict` gave, running if that run goes on. It does not end with this Python."""
        arguments = {name: value for name, value in d["cluster"].items() if name in WRITTEN}
        kind = {"engines": d["engines"]["class"]} if "engines" in d else {}
        self = cls(**{"shutdown_atexit": False, **arguments, **kind, **kwargs})
        if d.get("controller"):
            state = d["controller"]["state"]
            run = Run.find(state["connection_file"])
            if run is not None and (run.info["pid"], run.info["host"]) == (state["pid"], state["host"]):
                self._place(run)
                self._attach(run, knows_how=True)
            else:
                self.log.warning(f"cluster {self.cluster_id!r} is not running any more")
        return self

    @classmethod
    def from_file(
        cls,
        cluster_file: str | os.PathLike[str] | None = None,
        *,
        profile: str | None = None,
        profile_dir: str | None = None,
        cluster_id: str = "",
        **kwargs: Any,
    ) -> Self:
        """The running cluster of a name, whoever has started it, or of a file. It does not end with this Python.

        `cluster_id`: ``""`` is that of ``ipp.Client()``. `cluster_file`: a connection file, or one that
        :meth:`write_cluster_file` has written. FileNotFoundError: no such cluster is running.
        """
        profiles = {"profile": profile, "profile_dir": profile_dir}
        kwargs |= {name: value for name, value in profiles.items() if value is not None}
        path = os.path.abspath(connection.path_of(cluster_id) if cluster_file is None else cluster_file)
        if cluster_file is not None and os.path.basename(path) != "connection.json":
            with open(path, encoding="utf-8") as file:
                return cls.from_dict(json.load(file), **{"cluster_file": path, **kwargs})
        run = Run.find(path)
        if run is None:
            name = os.path.basename(os.path.dirname(path))
            raise FileNotFoundError(
                f"no cluster {name!r} is running (by {connection.shorten(path)}): Cluster(cluster_id={name!r}, n=4) or "
                "`pxcluster start` starts one, ClusterManager().load_clusters() finds those that run"
            )
        self = cls(**{"shutdown_atexit": False, "cluster_id": run.info["cluster_id"], **kwargs})
        self._place(run)
        self._attach(run, knows_how=False)
        return self

    def _place(self, run: Run) -> None:
        """The cluster's files are where the run's are."""
        if self.cluster_file == self._connection_file:
            self.cluster_file = run.path
        self._connection_file = run.path

    # -- context managers ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        self._context_client = client = await self.start_and_connect()
        return client

    async def __aexit__(self, *exc_info: object) -> None:
        client, self._context_client = self._context_client, None
        if client is not None:
            client.close()
        await self.stop_cluster()

    __enter__ = twin(__aenter__)
    __exit__ = twin(__aexit__)
