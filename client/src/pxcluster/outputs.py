"""What engines printed, displayed and returned, shown to the user: live while a call runs, or afterwards."""

from __future__ import annotations

import json
import sys
from collections import deque
from time import monotonic

from .error import CompositeError, RemoteError
from .requests import overwritten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TextIO

    from .asyncresult import AsyncResult
    from .requests import Listener, Request

#: A stream's display in a notebook is updated at most so often, seconds.
_UPDATE_INTERVAL = 0.05


def shell() -> Any:
    """The running IPython shell, None without one. IPython is never loaded for the question's sake."""
    module = sys.modules.get("IPython")
    get_ipython = getattr(module, "get_ipython", None)
    return get_ipython() if get_ipython is not None else None


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel."""
    ip = shell()
    return ip is not None and getattr(ip, "kernel", None) is not None


def publish(
    data: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    display_id: str | None = None,
    update: bool = False,
) -> None:
    """Show a mime bundle; outside IPython print its text."""
    ip = shell()
    if ip is None:
        print(data.get("text/plain", ""))
        return
    transient = {} if display_id is None else {"transient": {"display_id": display_id}, "update": update}
    ip.display_pub.publish(data=dict(data), metadata=dict(metadata or {}), **transient)


def show_reply(reply: Any) -> None:
    """Show ``Out[engine:count]: …`` of an ExecuteReply that has a result."""
    if shell() is None:
        print(reply._plaintext())
    else:
        publish(*reply._repr_mimebundle_())


class StreamWriter:
    """Writes engines' streams one after the other: a prefix on its own line whenever the source changes.

    A line that another source cuts short is ended here; its own end, when it comes, is not written again.
    """

    def __init__(self) -> None:
        self._prefix = ""
        self._line_ended = True
        self._cut: set[str] = set()

    def write(self, text: str, prefix: str = "", file: TextIO | None = None) -> None:
        """Write `text` of the source `prefix` (such as ``[stdout:3] ``) to `file`, standard output by default."""
        if text and prefix in self._cut:
            self._cut.discard(prefix)
            text = text.removeprefix("\n")
        if not text:
            return
        head = ""
        if prefix and prefix != self._prefix:
            if not self._line_ended:
                self._cut.add(self._prefix)
                head = "\n"
            head += prefix + "\n"
            self._prefix = prefix
        self._line_ended = text.endswith("\n")
        print(head + text, file=file or sys.stdout, end="")


class LiveOutput:
    """Shows the output of a result while it is waited for, in the thread that waits.

    Streams and displays are shown as they come, results and errors in the order of the result's engines.
    """

    def __init__(self, result: AsyncResult) -> None:
        self._queue: deque[tuple[int, tuple[int, str, str]]] = deque()
        self._slots: list[tuple[Request, int]] = result._slots()
        self._single = result._single
        self._positions = {(id(request), slot): place for place, (request, slot) in enumerate(self._slots)}
        self._kernel = in_kernel()
        self._writer = StreamWriter()
        self._shown: set[tuple[int, str]] = set()
        self._changed: dict[tuple[int, str], None] = {}
        self._published = 0.0
        self._replied: set[int] = set()
        self._next = 0
        self._errors = 0
        self._texts: dict[tuple[int, str], list[str]] = {}

    def attach(self) -> None:
        """Begin to listen; what has come before is queued first."""
        for request in {id(request): request for request, _ in self._slots}.values():
            request.listen(self._listener(id(request)))

    def _listener(self, key: int) -> Listener:
        return lambda event: self._queue.append((key, event))

    def detach(self) -> None:
        """Stop listening and show what is left."""
        for request, _ in self._slots:
            request.listener = None
        self.show(final=True)

    def pending(self) -> bool:
        """Whether something waits to be shown."""
        return bool(self._queue)

    def delay(self) -> float | None:
        """Seconds until a postponed update is due, None without one."""
        return max(0.0, self._published + _UPDATE_INTERVAL - monotonic()) if self._changed else None

    def show(self, final: bool = False) -> None:
        """Show everything that has come."""
        while self._queue:
            key, (slot, name, text) = self._queue.popleft()
            place = self._positions.get((key, slot))
            if place is None:
                continue
            if name == "reply":
                self._replied.add(place)
            elif name == "display":
                self._show_display(place, text)
            elif self._kernel:
                self._texts.setdefault((place, name), []).append(text)
                self._changed[place, name] = None
            else:
                self._writer.write(text, f"[{name}:{self._engine(place)}] ", getattr(sys, name))
        self._show_replies()
        if self._changed and (final or not self.delay()):
            self._publish_streams()

    def _engine(self, place: int) -> int | None:
        request, slot = self._slots[place]
        return request.engine(slot)

    def _publish_streams(self) -> None:
        for place, name in self._changed:
            request, slot = self._slots[place]
            display_id = f"{request.msg_id(slot)}-{name}"
            pieces = self._texts[place, name]
            pieces[:] = ["".join(pieces)]
            data = {"text/plain": f"[{name}:{self._engine(place)}] {overwritten(pieces[0])}"}
            publish(data, display_id=display_id, update=(place, name) in self._shown)
            self._shown.add((place, name))
        self._changed.clear()
        self._published = monotonic()

    def _show_display(self, place: int, text: str) -> None:
        if shell() is None:
            return
        self._publish_streams()
        content = json.loads(text)
        engine = self._engine(place)
        publish({"text/plain": f"[output:{engine}]"})
        publish(content["data"], {**content.get("metadata", {}), "engine": engine})

    def _show_replies(self) -> None:
        while self._next < len(self._slots):
            if self._next not in self._replied and not self._lost(self._next):
                return
            request, slot = self._slots[self._next]
            self._next += 1
            succeeded, value = request.outcome(slot)
            if not succeeded:
                self._show_error(value)
            elif getattr(request, "kind", "") == "execute" and value.data:
                if self._changed:
                    self._publish_streams()
                show_reply(value)

    def _lost(self, place: int) -> bool:
        return self._slots[place][0].failure is not None

    def _show_error(self, error: BaseException) -> None:
        self._errors += 1
        if self._single:
            return  # it is raised, and shown then
        if self._changed:
            self._publish_streams()
        if self._errors <= CompositeError.tb_limit and isinstance(error, RemoteError):
            print("\n".join(error.render_traceback()), file=sys.stderr)
        else:
            print(error, file=sys.stderr)


def display_outputs(result: AsyncResult, groupby: str, result_only: bool) -> None:
    """Show everything a finished result has printed, displayed and returned. ValueError: unknown `groupby`."""
    if groupby not in ("type", "engine", "order"):
        raise ValueError(f"groupby must be one of 'type', 'engine', 'order', not {groupby!r}")
    rows = [(request.metadata(slot), request.outcome(slot)) for request, slot in result._slots()]
    writer = StreamWriter()
    ipython = shell() is not None

    def stream(row: Any, name: str) -> None:
        prefix = "" if result._single else f"[{name}:{row[0]['engine_id']}] "
        writer.write(row[0][name], prefix, getattr(sys, name))

    def header(row: Any) -> None:
        if not result._single:
            publish({"text/plain": f"[output:{row[0]['engine_id']}]"})

    def rich(row: Any, content: Mapping[str, Any]) -> None:
        publish(content["data"], {**content.get("metadata", {}), "engine": row[0]["engine_id"]})

    def returned(row: Any) -> None:
        if row[0]["execute_result"] is not None:
            show_reply(row[1][1])

    if groupby == "engine":
        for row in rows:
            if not result_only:
                stream(row, "stdout")
                stream(row, "stderr")
                if ipython and (row[0]["outputs"] or row[0]["execute_result"]):
                    header(row)
                if ipython:
                    for content in row[0]["outputs"]:
                        rich(row, content)
            returned(row)
        return
    if not result_only:
        for name in ("stdout", "stderr"):
            for row in rows:
                stream(row, name)
        if ipython and groupby == "order":
            for place in range(max((len(row[0]["outputs"]) for row in rows), default=0)):
                for row in rows:
                    if place < len(row[0]["outputs"]):
                        header(row)
                        rich(row, row[0]["outputs"][place])
        elif ipython:
            for row in rows:
                if row[0]["outputs"]:
                    header(row)
                for content in row[0]["outputs"]:
                    rich(row, content)
    for row in rows:
        returned(row)
