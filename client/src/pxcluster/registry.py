"""What a session has asked for and not had, and which engines there are; frames that come fill requests.

No socket and no thread here. Whoever holds the session's reader's lock calls `take`; callbacks that become due are
collected for the session to run.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque

from .controlrequest import ControlRequest, FetchRequest
from .error import RemoteEngineError, from_failure
from .gatherrequest import GatherRequest
from .maprequest import MapRequest
from .requests import DirectRequest, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .comms import Comms
    from .frames import Bytes, Header


class Registry:
    """The requests of one session by number, and the engines of its cluster."""

    def __init__(self) -> None:
        self.pending: dict[int, Request] = {}
        #: Requests that somebody holds the result of.
        self._known: weakref.WeakValueDictionary[int, Request] = weakref.WeakValueDictionary()
        #: Fetched ones, by session and number.
        self.fetched: weakref.WeakValueDictionary[tuple[str, int], Request] = weakref.WeakValueDictionary()
        #: Callbacks that are due.
        self.callbacks: deque[Callable[[], None]] = deque()
        #: The engines that are alive: id -> {"id", "host", "pid"}.
        self.engines: dict[int, dict[str, Any]] = {}
        #: The names of all engines there have been, which they give themselves in the same way.
        self.uuids: dict[int, str] = {}
        #: The engines that are gone: id -> reason.
        self.gone: dict[int, str] = {}
        #: The engines that live and have said nothing for a while: id -> reason.
        self.silent: dict[int, str] = {}
        #: Why the cluster is about to end, as it has been told.
        self.ending: str | None = None
        #: Takes what comms of engines send.
        self.comms: Comms | None = None
        #: What to say of the end of the cluster, for which its controller gives a reason.
        self.last_word: Callable[[str], str] = str
        # Held while a request is registered or an engine goes, so that none waits for an engine that is gone.
        self._losing = threading.Lock()

    # -- requests ------------------------------------------------------------------------------------------------

    def register(self, request: Request) -> None:
        """Expect answers to `request`, which has its number."""
        self._known[request.id] = request
        with self._losing:
            self.pending[request.id] = request
            if self.gone and isinstance(request, DirectRequest):
                # One that died since the targets were resolved will never answer.
                for number in self.gone.keys() & set(request.targets):
                    self._lose_engine(request, number)

    def know(self, request: Request) -> None:
        """Let `request`, which has its number and needs no answers, be found."""
        self._known[request.id] = request

    def find(self, number: int) -> Request | None:
        """The request with this number, while it is pending or somebody holds its result."""
        return self.pending.get(number) or self._known.get(number)

    def forget(self, numbers: Iterable[int]) -> None:
        """Requests with these numbers are not found any more, whoever holds them."""
        for number in numbers:
            self._known.pop(number, None)

    def outstanding(self) -> list[Request]:
        """The requests for engines that are not answered yet, oldest first."""
        return [request for request in list(self.pending.values()) if not isinstance(request, ControlRequest)]

    def fail(self, requests: Iterable[Request], failure: Exception) -> None:
        """These will never be answered."""
        for request in list(requests):
            self.pending.pop(request.id, None)
            self.callbacks.extend(request.finish(failure))

    # -- engines -------------------------------------------------------------------------------------------------

    def set_engines(self, engines: Iterable[dict[str, Any]]) -> None:
        """These live, as the controller says at the beginning of a connection."""
        with self._losing:
            self.engines = {engine["id"]: engine for engine in engines}
        self._name(self.engines.values())

    def _name(self, engines: Iterable[dict[str, Any]]) -> None:
        self.uuids.update((engine["id"], f"{engine['host']}-{engine['pid']}-{engine['id']}") for engine in engines)

    def is_everyone(self, engines: Sequence[int]) -> bool:
        """Whether these, several, are all that live, and perhaps some that died while they were being looked up."""
        alive = self.engines
        return len(engines) > 1 and (
            len(engines) == len(alive) or (len(engines) > len(alive) and alive.keys() <= set(engines))
        )

    def _engines_changed(self, header: Header) -> None:
        engines = dict(self.engines)
        for engine in header["joined"]:
            engines[engine["id"]] = engine
            self.gone.pop(engine["id"], None)
        self._name(header["joined"])
        lost = {entry["id"]: entry["reason"] for entry in header["lost"]}
        silent = {**self.silent, **{entry["id"]: entry["reason"] for entry in header.get("silent", ())}}
        self.silent = {number: reason for number, reason in silent.items() if reason and number not in lost}
        with self._losing:
            self.gone = {**self.gone, **lost}
            self.engines = {number: engine for number, engine in engines.items() if number not in lost}
            for number in lost:
                for request in list(self.pending.values()):
                    if isinstance(request, DirectRequest):
                        self._lose_engine(request, number)

    def _lose_engine(self, request: DirectRequest, number: int) -> None:
        lost = RemoteEngineError("EngineError", f"Engine {number} is gone: {self.gone[number]}", None)
        self._settle(request, request.lose_engine(number, lost))

    # -- frames --------------------------------------------------------------------------------------------------

    def land(self, header: Header, sizes: Sequence[int]) -> dict[int, memoryview]:
        """A frame has begun to come: where buffers of it, of these sizes, are to be read to, by index."""
        request = self.pending.get(header["id"]) if header["type"] == "reply" else None
        return request.land(header["engine"], sizes) if isinstance(request, GatherRequest) else {}

    def take(self, header: Header, buffers: list[Bytes]) -> None:
        """A frame has come that is not for the session itself."""
        kind = header["type"]
        if kind == "reply":
            request = self.pending.get(header["id"])
            if isinstance(request, DirectRequest):
                self._settle(request, request.take_reply(header, buffers))
        elif kind == "results":
            request = self.pending.get(header["id"])
            if isinstance(request, MapRequest):
                self._settle(request, request.take_results(buffers))
        elif kind == "output":
            request = self.find(header["id"])
            if header["name"] == "comm":
                if self.comms is not None and (request is None or not request.origin):
                    self.comms.take(header["engine"], buffers[0])
            elif request is not None:
                slot = request.slot_of(header["engine"]) if isinstance(request, DirectRequest) else header["task"]
                if slot is not None:
                    if header["name"] == "data":
                        request.take_published(slot, bytes(buffers[0]))
                    else:
                        request.take_output(slot, header["name"], str(buffers[0], "utf-8", "replace"))
        elif kind == "failed":
            self._finish(header["id"], from_failure(header["ename"], header["message"]), header)
        elif kind in ("done", "status", "history"):
            self._finish(header["id"], None, header, buffers)
        elif kind == "request":
            self._fetch_answered(header)
        elif kind == "engines":
            self._engines_changed(header)
        elif kind == "draining":
            self._begin_ending(header["reason"], header["grace"])

    def _begin_ending(self, reason: str, grace: float | None) -> None:
        if self.ending is not None:
            return  # said again over a new connection
        self.ending = reason
        maps = [request for request in list(self.pending.values()) if isinstance(request, MapRequest)]
        for request in maps:
            request.ending = reason
        left = sum(request.count - request.finished() for request in maps)
        tasks = f"; of {left} unfinished {'task' if left == 1 else 'tasks'} those that run may finish" if left else ""
        within = f", within {grace:.0f} s" if tasks and grace is not None else ""
        text = f"pxcluster: the cluster is ending: {reason}{tasks}{within}"
        self.callbacks.append(lambda: print(text, file=sys.stderr))

    def _settle(self, request: Request, callbacks: list[Callable[[], None]]) -> None:
        if callbacks:
            self.callbacks.extend(callbacks)
        if request.done:
            self.pending.pop(request.id, None)

    def _finish(self, number: int, failure: Exception | None, header: Header, buffers: Sequence[Bytes] = ()) -> None:
        request = self.pending.pop(number, None)
        if request is not None:
            if isinstance(request, ControlRequest):
                request.answer, request.buffers = header, list(buffers)
            self.callbacks.extend(request.finish(failure))

    def _fetch_answered(self, header: Header) -> None:
        request = self.pending.get(header["id"])
        if isinstance(request, FetchRequest):
            found = request.take_answer(header)
            self._known[found.id] = found
            self.pending[found.id] = found
            self.callbacks.extend(request.finish())
