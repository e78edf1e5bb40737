"""The way into a running cluster."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Any

from . import connection, error, rendezvous, stale
from .calls import Calls
from .clientcalls import ClientCalls
from .comms import Comms
from .controlrequest import signum_of
from .requests import DirectRequest, msg_id_of
from .session import Session
from .shared import Keeper, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from typing import Self

    from .asyncresult import AsyncResult
    from .direct import BroadcastView, DirectView
    from .executor import ViewExecutor
    from .jobs import ResultsByName
    from .loadbalanced import LoadBalancedView
    from .reconnect import Opener
    from .requests import Request

_open: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_open):
        client.close()


class Client(ClientCalls):
    """A connection to a cluster: engines by index (``rc[0]``, ``rc[:]``), views, and control.

    `connection_info`: path of a connection file, or its content as a dict; otherwise the file of `cluster_id` (default
    ``$PXCLUSTER_CLUSTER_ID``, or ``default``). One that is not there is waited for: ten seconds if it is being started
    or its job is in Slurm's queue, `timeout` seconds (negative: for ever) in any case. Arguments of ipyparallel's
    Client that name profiles and sockets are accepted and ignored.

    `sshserver`: a host, as ssh takes it (``me@login``, `sshkey` as its ``-i``), on which the cluster's connection file
    is. ``pxcluster proxy`` runs there; ``$PXCLUSTER_REMOTE`` is its path, ``$PXCLUSTER_SSH`` the ssh with options.

    `resume`: the :attr:`session_name` of a client that is gone; this one takes its place, and :meth:`get_result`
    fetches what it had asked for. A client that only loses its connection resumes its session by itself.

    The first Client in IPython makes ``%px`` run on all engines.

    Raises OSError (no connection file, or a stale one), PermissionError or ValueError (an unusable one),
    VersionMismatch (other protocol or other Python), ConnectionRefusedError (wrong key), TimeoutError.
    """

    #: What calls of new views do when they are not told: wait for results, or return an AsyncResult.
    block = False

    def __init__(
        self,
        connection_info: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        cluster_id: str | None = None,
        timeout: float | None = None,
        resume: str | None = None,
        profile: str = "",
        debug: bool = False,
        cluster: Any = None,
        sshserver: str | None = None,
        sshkey: str | None = None,
        **ignored: Any,
    ) -> None:
        self.profile = profile
        self.debug = debug
        self.cluster = cluster
        seconds = rendezvous.seconds_of(timeout)
        if sshserver:
            from .tunnel import Tunnel

            if connection_info is not None:
                raise ValueError("sshserver= finds the connection file on that host: name its cluster by cluster_id=")
            tunnel = Tunnel(sshserver, cluster_id, sshkey)
            self._begin(tunnel.info, tunnel.dial, seconds, resume)
        elif connection_info is None or isinstance(connection_info, str | os.PathLike):
            path = connection.path_of(cluster_id) if connection_info is None else os.fspath(connection_info)
            rendezvous.join(path, timeout, lambda info, seconds: self._connect(info, path, seconds, resume))
        else:
            self._connect(connection.check(dict(connection_info)), "(given as a dict)", seconds, resume)
        self._requests: list[tuple[int, int]] = []
        self._calls = Calls()
        #: Engines of direct calls on several of them, where they are not 0, 1, 2, …
        self._targets: dict[int, Sequence[int]] = {}
        _open.add(self)
        self._activate_first()

    def _connect(self, info: dict[str, Any], path: str, timeout: float, resume: str | None = None) -> None:
        shown = connection.shorten(path)
        self._begin(info, lambda seconds: connection.connect(info, shown, seconds), timeout, resume)

    def _begin(self, info: dict[str, Any], dial: Opener, timeout: float, resume: str | None) -> None:
        self._info = info
        self._session = Session(dial, info["key"], timeout, resume)
        self._session.registry.comms = Comms(self._session)
        self._session.registry.last_word = lambda reason: stale.last_word(info, reason)
        self._keeper = Keeper(self._session)

    def _activate_first(self) -> None:
        from .outputs import shell

        ip = shell()
        if ip is not None:
            from .magics import activate_first

            activate_first(self)

    def _rejoin(self, path: str) -> None:
        """Go on with another run of the cluster, which has been asked nothing yet."""
        self._session.close()
        self._connect(connection.read(path), path, 10)
        self._forget_calls()

    def __repr__(self) -> str:
        state = "closed" if self._session.lost is not None else f"{len(self)} engines"
        return f"<Client of cluster {self._session.cluster_id!r}: {state}>"

    @property
    def session_name(self) -> str:
        """The name of the session, with which another process can resume it; msg_ids begin with it."""
        return self._session.name

    # -- engines -------------------------------------------------------------------------------------------------

    @property
    def ids(self) -> list[int]:
        """The ids of the engines that are alive, in order."""
        return sorted(self._session.registry.engines)

    def __len__(self) -> int:
        return len(self._session.registry.engines)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[DirectView]:
        for engine in self.ids:
            yield self.direct_view(engine)

    def __getitem__(self, key: int | slice | list[int] | tuple[int, ...] | range) -> DirectView:
        """A DirectView of an engine, or of several. TypeError: other keys; IndexError: no such engine."""
        if not isinstance(key, int | slice | tuple | list | range):
            raise TypeError(f"key by int/slice/iterable of ints only, not {type(key)}")
        return self.direct_view(key)

    @property
    def silent(self) -> dict[int, str]:
        """Engines whose process lives and whose communication stands still, and what is known: stopped or overloaded.

        They may come back; :meth:`kill_engines` ends them, and what they had to do goes to others.
        """
        return dict(sorted(self._session.registry.silent.items()))

    def _some_engines(self) -> None:
        session = self._session
        if not session.registry.engines:
            session.check()
            if session.registry.gone:
                raise error.NoEnginesRegistered(
                    "This operation requires engines, and all have died: stop the cluster and start it again. "
                    + "; ".join(session.registry.gone.values())
                )
            raise error.NoEnginesRegistered()

    def _resolve(self, targets: Any) -> list[int]:
        """Engine ids of `targets`. EngineError: one is gone; IndexError: there never was one; TypeError."""
        self._some_engines()
        ids = self.ids
        if targets is None or targets == "all":
            return ids
        if isinstance(targets, str):
            raise TypeError(f"{targets!r} not valid str target, must be 'all'")
        if isinstance(targets, slice):
            return ids[targets]
        if isinstance(targets, int):
            targets = [targets]
        if not isinstance(targets, list | tuple | range):
            raise TypeError(f"targets by int/slice/collection of ints only, not {type(targets)}")
        return [self._engine(target, ids) for target in targets]

    def _engine(self, target: Any, ids: list[int]) -> int:
        if not isinstance(target, int) or isinstance(target, bool):
            raise TypeError(f"targets by int/slice/collection of ints only, not {type(target)}")
        session = self._session
        if target in session.registry.engines:
            return target
        if target in session.registry.gone:
            raise error.EngineError(
                f"Engine {target} is gone: {session.registry.gone[target]}. To go on with those that live, make the "
                "view again (rc[:]), or take rc.direct_view(), which means those that live at each call"
            )
        if target < 0 and -target <= len(ids):
            return ids[target]
        raise IndexError(f"No such engine: {target}")

    # -- views ---------------------------------------------------------------------------------------------------

    def direct_view(self, targets: Any = "all", **kwargs: Any) -> DirectView:
        """A view that addresses engines; ``'all'`` means those that are alive at each call. `kwargs` are flags."""
        from .direct import DirectView

        return DirectView(self, self._fixed(targets, all_stays=True), **kwargs)

    def broadcast_view(self, targets: Any = "all", is_coalescing: bool = False, **kwargs: Any) -> BroadcastView:
        """As :meth:`direct_view`, the engines fixed now: every direct call is a broadcast."""
        from .direct import BroadcastView

        return BroadcastView(self, self._fixed(targets, all_stays=False), is_coalescing=is_coalescing, **kwargs)

    def _fixed(self, targets: Any, all_stays: bool) -> Any:
        if targets == "all" and all_stays:
            return "all"
        single = isinstance(targets, int)
        engines = self._resolve(targets)
        return engines[0] if single else engines

    def load_balanced_view(self, targets: Any = None, **kwargs: Any) -> LoadBalancedView:
        """A view whose tasks run on any free engine of `targets`. `kwargs` are flags.

        None, ``"all"``, ``"any"``: of all that are alive at each call.
        """
        from .loadbalanced import LoadBalancedView

        everywhere = targets is None or targets in ("all", "any")
        return LoadBalancedView(self, None if everywhere else self._resolve(targets), **kwargs)

    def executor(self, targets: Any = None) -> ViewExecutor:
        """A concurrent.futures.Executor over a load-balanced view."""
        return self.load_balanced_view(targets).executor

    def activate(self, targets: Any = "all", suffix: str = "") -> DirectView:
        """Register ``%px`` and its companions (+ `suffix`) for a new blocking view, which is returned."""
        view = self.direct_view(targets)
        view.block = True
        view.activate(suffix)
        return view

    def put(self, obj: Any) -> Shared:
        """Send `obj` once to every engine; the handle that is returned at once stands for it in whatever is called.

        Not in ipyparallel. Where it cannot be loaded, calls that use it raise the reason. Raises SerializationError.
        """
        return Shared(self, self._keeper.put(obj, self._resolve(None)))

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait_for_engines(
        self,
        n: int | None = None,
        *,
        timeout: float = -1,
        block: bool = True,
        interactive: bool | None = None,
        widget: bool | None = None,
    ) -> Future[None] | None:
        """Wait until `n` engines (default: as many as the cluster was started with) are there.

        With ``block=False`` a Future. `interactive`: a progress bar (default: in IPython). Raises TimeoutError.
        """
        from .jobs import wait_for_engines

        wanted = int(self._info.get("engines", 1)) if n is None else n
        return wait_for_engines(self, wanted, timeout, block, interactive, widget)

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """Wait for `jobs` (msg_ids, indices into the history, AsyncResults; default: all); whether they are done."""
        from .jobs import requests_of

        requests = self._session.registry.outstanding() if jobs is None else requests_of(self, jobs, known_only=True)
        limit = None if timeout is None or timeout < 0 else timeout
        return self._session.wait(lambda: all(request.done for request in requests), limit)

    def wait_interactive(self, jobs: Any = None, interval: float = 1.0, timeout: float = -1.0) -> None:
        """:meth:`wait` with a progress bar."""
        from .asyncresult import AsyncResult
        from .jobs import requests_of

        requests = self._session.registry.outstanding() if jobs is None else requests_of(self, jobs, known_only=True)
        if requests:
            AsyncResult(self, requests)._watch().wait_interactive(interval=interval, timeout=timeout)

    # -- control -------------------------------------------------------------------------------------------------

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> None:
        """Abort what has not started of `jobs` (default: everything of this client), on `targets` (default: all)."""
        from .jobs import requests_of

        numbers = None if jobs is None else [request.id for request in requests_of(self, jobs, known_only=True)]
        engines = None if targets is None or targets == "all" else self._resolve(targets)
        self._session.request(
            {"type": "abort", "id": 0, "requests": numbers, "targets": engines}, self.block if block is None else block
        )

    def send_signal(self, sig: int | str, targets: Any = None, block: bool | None = None) -> None:
        """Send a signal, by number or name, to the engines' user code; SIGINT interrupts it."""
        engines = None if targets is None or targets == "all" else self._resolve(targets)
        self._session.request(
            {"type": "signal", "id": 0, "signum": signum_of(sig), "targets": engines},
            self.block if block is None else block,
        )

    def kill_engines(self, targets: Any, block: bool | None = None) -> None:
        """End engines at once, hung ones too; with `block` wait until they are gone. The others go on.

        One that is hung and has not been found to be (see :attr:`silent`) ends when it is found.
        """
        engines = self._resolve(targets)
        self._session.request({"type": "kill", "id": 0, "targets": engines})
        if self.block if block is None else block:
            self._session.wait(lambda: self._session.registry.gone.keys() >= set(engines))

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Remove the user's names from the engines' namespaces, in order with all other calls."""
        view = self.direct_view("all" if targets is None else targets)
        return view.clear(block=self.block if block is None else block)

    def queue_status(self, targets: Any = "all", verbose: bool = False) -> Any:
        """What engines have to do: ``{id: {"queue", "completed", "tasks"}, …, "unassigned": n}``.

        For one engine (an int) only its entry. Numbers with `verbose`, too: the controller keeps no lists of msg_ids.
        """
        answer = self._session.request({"type": "status", "id": 0}).answer
        found: dict[Any, Any] = {"unassigned": answer["unassigned"]}
        for engine in answer["engines"]:
            found[engine["id"]] = {key: engine[key] for key in ("queue", "completed", "tasks")}
        if targets is None or targets == "all":
            return found
        if isinstance(targets, int):
            return found[self._resolve(targets)[0]]
        return {"unassigned": found["unassigned"], **{engine: found[engine] for engine in self._resolve(targets)}}

    def memory(self) -> dict[str, Any]:
        """Large buffers in the nodes' shared memory, bytes. Not in ipyparallel.

        ``"used"``: by host, each buffer once; ``"engines"``: what each engine has of them; ``"buffers"``: how many;
        ``"pooled"``: kept for the next ones, for ten seconds; ``"bound"``: most there can be on a host.
        """
        answer = self._session.request({"type": "status", "id": 0}).answer
        memory = answer.get("memory") or {"buffers": 0, "used": 0, "pooled": 0, "bound": 0, "others": ()}
        return {
            "used": {answer["host"]: memory["used"], **{node["host"]: node["used"] for node in memory["others"]}},
            "engines": {engine["id"]: engine["shared"] for engine in answer["engines"]},
            **{key: memory[key] for key in ("buffers", "pooled", "bound")},
        }

    def shutdown(
        self, targets: Any = "all", restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> None:
        """Stop the cluster (``hub=True``). NotImplementedError: `restart`, or single engines, which are MPI ranks."""
        if restart:
            raise NotImplementedError("Engine restart is not supported: stop the cluster and start it again")
        if not hub:
            raise NotImplementedError(
                "engines are ranks of one MPI program and cannot be stopped alone: shutdown(hub=True) stops the cluster"
            )
        try:
            request = self._session.request({"type": "shutdown", "id": 0}, block=False)
            self._session.wait(lambda: request.done and self._session.lost is not None)
        except error.ConnectionLost:
            if self._session.lost is None:
                raise

    def close(self, linger: Any = None) -> None:
        """Leave the cluster; it goes on. Calls that wait fail with ConnectionLost. A second close does nothing."""
        _open.discard(self)
        self._keeper.flush()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        session = self.__dict__.get("_session")
        if session is not None and session._closing is None:
            session.close()

    # -- dask ----------------------------------------------------------------------------------------------------

    def become_dask(
        self,
        targets: Any = "all",
        port: int = 0,
        nanny: bool = False,
        scheduler_args: Mapping[str, Any] | None = None,
        **worker_args: Any,
    ) -> Any:
        """Make engines workers of dask, and return a ``distributed.Client`` for them.

        The first of them has the scheduler, too, on `port` (0: any). `nanny`: workers in processes of their own, beside
        the engines. `scheduler_args`, `worker_args`: for distributed's Scheduler and Worker. Workers are added to a
        scheduler that runs. ImportError: dask is not installed here; RemoteError, CompositeError: it is not there.
        """
        from .dask import become_dask

        return become_dask(self, targets, port, nanny, scheduler_args, worker_args)

    def stop_dask(self, targets: Any = "all") -> None:
        """End the scheduler of :meth:`become_dask`, and the workers on `targets`."""
        from .dask import stop_dask

        stop_dask(self, targets)

    become_distributed = become_dask
    stop_distributed = stop_dask

    # -- calls that were made ------------------------------------------------------------------------------------

    def _record(self, request: Request) -> None:
        self._requests.append((request.id, request.count))
        if isinstance(request, DirectRequest) and request.count > 1:
            targets = list(request.targets)
            if targets != list(range(len(targets))):
                self._targets[request.id] = targets

    def _shape(self, number: int) -> tuple[int | None, Sequence[int] | None]:
        """Number of slots of a request and the engines of its slots, each as far as it is known and matters."""
        request = self._session.registry.find(number)
        return None if request is None else request.count, self._targets.get(number)

    def _msg_ids(self, requests: Iterable[tuple[int, int]]) -> list[str]:
        name = self._session.name
        found: list[str] = []
        for number, count in list(requests):
            found += [msg_id_of(name, number, slot, count) for slot in range(count)]
        return found

    @property
    def history(self) -> list[str]:
        """The msg_ids of all calls, oldest first: one per engine or task."""
        return self._msg_ids(self._requests)

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of calls that have not been answered."""
        return {
            request.msg_id(slot)
            for request in self._session.registry.outstanding()
            for slot in range(request.count)
            if not request.slot_done(slot)
        }

    @property
    def results(self) -> ResultsByName:
        """Results by msg_id, as long as somebody holds them; exceptions stand for themselves."""
        from .jobs import ResultsByName

        return ResultsByName(self, metadata=False, of=self)

    @property
    def metadata(self) -> ResultsByName:
        """Metadata by msg_id, as long as somebody holds the result."""
        from .jobs import ResultsByName

        return ResultsByName(self, metadata=True, of=self)

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Which of the calls (msg_ids, indices into the history, AsyncResults) are ``"pending"`` and ``"completed"``.

        Two lists of msg_ids; with ``status_only=False`` also the result, or the exception, of each completed one by
        its msg_id. It is what this client knows. KeyError: nobody holds the result any more, or it is another client's.
        """
        from .jobs import result_status

        return result_status(self, msg_ids, status_only)

    def get_result(self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = True) -> AsyncResult:
        """The AsyncResult of a msg_id or of an index into the history (default: the last), or of a list of them.

        Results that nobody holds here, those of other clients too, are fetched from the cluster; what comes of them
        later also arrives. It keeps what was not delivered, and 16 MiB of what was; KeyError for what is not kept.
        """
        from .jobs import result_of

        result = result_of(self, -1 if indices_or_msg_ids is None else indices_or_msg_ids)
        result.owner = owner
        if self.block if block is None else block:
            result.wait()
        return result

    def spin(self) -> None:
        """Does nothing: results arrive by themselves."""
