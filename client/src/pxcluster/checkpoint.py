"""Maps with a journal: what is in it is not sent again, and what comes is put into it."""

from __future__ import annotations

import os
import socket
import sys
from array import array
from itertools import chain
from typing import Any, NamedTuple

from .digest import function_digest, items_digest
from .error import ConnectionLost
from .journal import Identity, Journal
from .maprequest import MapRequest
from .requests import OK, Request
from .session import Session
from .view import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    from .client import Client
    from .frames import Bytes
    from .loadbalanced import LoadBalancedView
    from .reply import Metadata


class CheckpointedRequest(MapRequest):
    """The tasks of a map that are sent, and behind them, at the end of its slots, those whose results were there."""

    __slots__ = ("_journal", "_tasks", "sent")

    def __init__(self, name: str, label: str | None, checkpoint: Checkpoint) -> None:
        super().__init__(name, checkpoint.tasks, label)
        self._journal = checkpoint.journal
        self._tasks = checkpoint.missing
        #: Number of tasks that engines run: the first slots.
        self.sent = checkpoint.tasks if checkpoint.missing is None else len(checkpoint.missing)

    def take_results(self, buffers: list[Bytes]) -> list[Callable[[], None]]:
        self._journal.keep(self._tasks, buffers)
        return super().take_results(buffers)

    def restore(self, slots: array[int], offsets: memoryview, payload: memoryview) -> None:
        """Fill slots with what the journal has."""
        count = len(slots)
        super().take_results(
            [
                slots.tobytes(),
                bytes(4 * count),
                bytes((OK,)) * count,
                bytes(8 * count),
                bytes(8 * count),
                offsets.cast("B"),
                payload,
            ]
        )

    def engine(self, slot: int) -> int | None:
        return super().engine(slot) if slot < self.sent else None

    def times(self, slot: int) -> tuple[float | None, float | None, float | None]:
        started, completed, received = super().times(slot)
        return (started, completed, received) if slot < self.sent else (None, None, received)

    def _times_and_output(self, slot: int) -> Metadata:
        metadata = super()._times_and_output(slot)
        if slot >= self.sent:
            metadata["tries"] = 0
        return metadata


class Checkpoint:
    """The journal at `path` of a map of `f` over `items`. `missing`: the tasks whose results it has not, None: all.

    `order`: the slot of each task, None if they are the same. Raises what Journal raises.
    """

    def __init__(
        self, path: Any, same_code: bool, f: Callable[..., Any], items: Sequence[Any], star: bool, chunksize: int
    ) -> None:
        identity = Identity(
            function=_place_of(f),
            code=function_digest(f),
            digest=items_digest(items),
            items=len(items),
            star=star,
            chunksize=chunksize,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
        )
        self.tasks = identity.tasks
        self._begun: tuple[Client, Request] | None = None
        self.journal = Journal(os.fspath(path), identity, same_code)
        try:
            self._rows = list(self.journal.restored())
        except BaseException:
            self.journal.close()
            raise
        have = bytearray(self.tasks)
        for rows in self._rows:
            for task in rows.tasks:
                have[task] = 1
        self.missing: Sequence[int] | None = None
        self.order: Sequence[int] | None = None
        if any(have):
            self.missing = [task for task, there in enumerate(have) if not there]
            if self.missing:
                restored = (task for task, there in enumerate(have) if there)
                self.order = array("I", bytes(4 * self.tasks))
                for slot, task in enumerate(chain(self.missing, restored)):
                    self.order[task] = slot

    def request(self, name: str, label: str | None) -> CheckpointedRequest:
        """The request of the map, with the results that are there."""
        request = CheckpointedRequest(name, label, self)
        rows, self._rows = self._rows, []
        for tasks, offsets, payload in rows:
            slots = tasks if self.order is None else map(self.order.__getitem__, tasks)
            request.restore(array("I", slots), offsets, payload)
        return request

    def missing_of(self, tasks: Iterable[Any]) -> list[Any]:
        """Those of `tasks` that have to be run."""
        known = tasks if isinstance(tasks, list) else list(tasks)
        return known if self.missing is None else [known[task] for task in self.missing]

    def begin(self, client: Client, view: LoadBalancedView, request: MapRequest) -> bool:
        """Tasks are about to be sent: write what comes of them, until the request is done. False: none need be."""
        if self.missing is not None and not self.missing:
            number(client._session, request)
            view._record(request)
            return False
        if self.journal.unfinished is not None:
            _abandon(client, _Run(*self.journal.unfinished.split()))
        self.journal.begin()
        request.when_done(self.journal.finish)
        self._begun = client, request
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc_info: object) -> None:
        if kind is not None or self._begun is None:
            self.journal.close()
        else:
            self.journal.note(" ".join(_Run.of(*self._begun)))


def number(session: Session, request: Request) -> None:
    """Give a request that needs nothing from the cluster its number, by which it is found."""
    with session._sending:
        session.check()
        session._next_id += 1
        request.id = session._next_id
    request.session = session.name
    request.uuids = session.registry.uuids
    session.registry.know(request)


class _Run(NamedTuple):
    """A call of a process, and the cluster that it was made to."""

    session: str
    request: str
    host: str
    pid: str
    cluster: str

    @classmethod
    def of(cls, client: Client, request: Request) -> Self:
        return cls(
            client.session_name, str(request.id), socket.gethostname(), str(os.getpid()), _cluster_of(client._info)
        )

    def is_alive(self) -> bool:
        """Whether its process is known to live."""
        return self.host == socket.gethostname() and os.path.exists(f"/proc/{self.pid}")


def _cluster_of(info: Mapping[str, Any]) -> str:
    return f"{info['host']}/{info['pid']}/{info.get('started')}"


def _abandon(client: Client, run: _Run) -> None:
    """Abort what has not started of a call that nobody waits for: its process has died without a word."""
    session = client._session
    abort = {"type": "abort", "id": 0, "requests": [int(run.request)], "targets": None}
    if run.session == session.name:
        session.request(abort)
    elif run.cluster == _cluster_of(client._info) and not run.is_alive():
        try:
            theirs = Session(session._reopen, session._key, 10, resume=run.session)
        except OSError:
            return  # it is over
        try:
            theirs.request(abort)
        except ConnectionLost:
            return  # somebody has resumed it
        finally:
            _leave(theirs)


def _leave(session: Session) -> None:
    """Close a connection and not its session, which somebody may resume: a goodbye would drop what it has."""
    session._closing = "another program has looked after this session"
    session._channel.shutdown()
    session._daemon.join(timeout=2.0)
    session.close()


def _place_of(f: Callable[..., Any]) -> str:
    """Module and name of a function, or of what a partial or a decorator has inside."""
    inner = f
    while not hasattr(inner, "__qualname__"):
        following = getattr(inner, "func", None)
        if following is None:
            break
        inner = following
    module = getattr(inner, "__module__", None) or type(inner).__module__
    return f"{module}.{getattr(inner, '__qualname__', name_of(inner))}"
