"""Requests that wait for the cluster: what has been answered, by whom and when, until the user asks for the values.

A request has `count` slots: one per engine of a direct request, one per task of a map. The session's reader fills
slots; values are unpickled later, in the thread that asks, each once.
"""

from __future__ import annotations

import json
import re
import threading
from time import time

from . import error, serialize
from .reply import ExecuteReply, Metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from .frames import Bytes, Header

    #: A value, or the exception that stands in its place.
    Outcome = tuple[bool, Any]
    #: (slot, "stdout" | "stderr" | "display", text) or (slot, "reply", "")
    Listener = Callable[[tuple[int, str, str]], None]

OK, ERROR, ABORTED, PENDING = 0, 1, 2, 255
STATUS_NAMES = {OK: "ok", ERROR: "error", ABORTED: "aborted"}

_NO_UUIDS: dict[int, str] = {}
_callback_lock = threading.Lock()
_overwritten = re.compile(r".*\r(?=[^\n])")


def overwritten(text: str) -> str:
    """`text` without what carriage returns overwrite on a terminal."""
    return _overwritten.sub("", text) if "\r" in text else text


class Output:
    """What one slot printed, displayed and published."""

    __slots__ = ("displays", "published", "stderr", "stdout")

    def __init__(self) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.displays: list[dict[str, Any]] = []
        #: Pickled dictionaries.
        self.published: list[bytes] = []

    def text(self, name: str) -> str:
        """The whole stream `name`, without what carriage returns overwrite."""
        pieces: list[str] = getattr(self, name)
        return overwritten("".join(pieces))

    def data(self) -> dict[str, Any]:
        """What was published, by name; of several values of a name the last one."""
        data: dict[str, Any] = {}
        for pickled in list(self.published):
            data |= serialize.loads_task(pickled)
        return data


class Request:
    """Base of all requests. `done`: every slot has its answer. `failure`: what lost the whole request, if anything."""

    __slots__ = (
        "__weakref__", "_callbacks", "_outputs", "_slot_callbacks", "count", "done", "ending", "failure", "id", "label",
        "listener", "lock", "name", "origin", "session", "submitted", "uuids",
    )  # fmt: skip

    def __init__(self, name: str, count: int, label: str | None = None) -> None:
        self.id = 0
        self.session = ""
        #: Session and number of the request whose answers these are, if they were fetched.
        self.origin: tuple[str, int] | None = None
        self.name = name
        self.count = count
        self.label = label
        self.submitted = time()
        self.done = False
        self.failure: Exception | None = None
        #: Why the cluster ends, if it was told so while this was under way: what is aborted is so for that reason.
        self.ending: str | None = None
        self.listener: Listener | None = None
        self.lock = threading.Lock()
        #: The names of engines, by id.
        self.uuids: Mapping[int, str] = _NO_UUIDS
        self._outputs: dict[int, Output] | None = None
        self._callbacks: list[Callable[[], None]] | None = None
        self._slot_callbacks: dict[int, list[Callable[[], None]]] | None = None

    # -- filled by the reader ------------------------------------------------------------------------------------

    def _output_of(self, slot: int) -> Output:
        """Where to keep what `slot` says. Holds the callbacks' lock."""
        if self._outputs is None:
            self._outputs = {}
        return self._outputs.setdefault(slot, Output())

    def take_published(self, slot: int, pickled: bytes) -> None:
        """Keep what `slot` published."""
        with _callback_lock:
            self._output_of(slot).published.append(pickled)

    def take_output(self, slot: int, name: str, text: str) -> None:
        """Keep what `slot` printed or displayed."""
        with _callback_lock:
            output = self._output_of(slot)
            if name == "display":
                output.displays.append(json.loads(text))
            else:
                getattr(output, name).append(text)
            if self.listener is not None:
                self.listener((slot, name, text))

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of everything that slots print, display and answer, what has come already first."""
        with _callback_lock:
            for slot in range(self.count):
                output = self.output(slot)
                if output is not None:
                    for name in ("stdout", "stderr"):
                        if getattr(output, name):
                            listener((slot, name, output.text(name)))
                    for content in output.displays:
                        listener((slot, "display", json.dumps(content)))
                if self.slot_done(slot):
                    listener((slot, "reply", ""))
            self.listener = listener

    def finish(self, failure: Exception | None = None) -> list[Callable[[], None]]:
        """Mark the request as done and return the callbacks to run."""
        with _callback_lock:
            if failure is not None:
                self.failure = failure
            self.done = True
            callbacks = self._callbacks or []
            for waiting in (self._slot_callbacks or {}).values():
                callbacks += waiting
            self._callbacks = self._slot_callbacks = None
            return callbacks

    def slot_filled(self, slot: int) -> list[Callable[[], None]]:
        """The callbacks of a slot that has just been filled."""
        if self.listener is not None:
            self.listener((slot, "reply", ""))
        if not self._slot_callbacks:
            return []
        with _callback_lock:
            return (self._slot_callbacks or {}).pop(slot, [])

    # -- asked by results ----------------------------------------------------------------------------------------

    def when_done(self, callback: Callable[[], None], slot: int | None = None) -> None:
        """Run `callback` when everything, or one slot, has been answered; at once if that is so already."""
        with _callback_lock:
            if not (self.done if slot is None else self.slot_done(slot)):
                if slot is None:
                    self._callbacks = [*(self._callbacks or []), callback]
                else:
                    self._slot_callbacks = self._slot_callbacks or {}
                    self._slot_callbacks.setdefault(slot, []).append(callback)
                return
        callback()

    def slot_done(self, slot: int) -> bool:
        """Whether `slot` has its answer."""
        return self.done or self.status(slot) != PENDING

    def slot_failed(self, slot: int) -> bool:
        """Whether an answered slot holds an exception instead of a value, as far as is known without decoding it."""
        status = self.status(slot)
        return status != OK and (status != PENDING or self.failure is not None)

    def failed(self) -> bool:
        """Whether any answered slot holds an exception."""
        return any(self.slot_failed(slot) for slot in range(self.count))

    def finished(self) -> int:
        """Number of slots that have been answered."""
        raise NotImplementedError

    def status(self, slot: int) -> int:
        """OK, ERROR, ABORTED or PENDING."""
        raise NotImplementedError

    def number_of(self, status: int) -> int:
        """Number of slots with this status."""
        return sum(self.status(slot) == status for slot in range(self.count))

    def engine(self, slot: int) -> int | None:
        """Which engine has the slot, as far as is known."""
        raise NotImplementedError

    def outcome(self, slot: int) -> Outcome:
        """(True, value) or (False, exception) of an answered slot."""
        raise NotImplementedError

    def times(self, slot: int) -> tuple[float | None, float | None, float | None]:
        """Unix times when it started and completed (the engine's clock) and was received (ours)."""
        raise NotImplementedError

    def output(self, slot: int) -> Output | None:
        """What the slot printed and displayed so far, None for nothing."""
        return None if self._outputs is None else self._outputs.get(slot)

    def has_output(self) -> bool:
        """Whether any slot printed or displayed something."""
        return self._outputs is not None

    def msg_id(self, slot: int) -> str:
        """The name of a slot: unique, and known to Client.get_result."""
        session, number = self.origin or (self.session, self.id)
        return msg_id_of(session, number, slot, self.count)

    def execute_result(self, slot: int) -> dict[str, Any] | None:
        """What an execute showed as its result."""
        return None

    def metadata(self, slot: int) -> Metadata:
        """A fresh Metadata of the slot as it is now."""
        metadata = self._times_and_output(slot)
        if metadata["status"] in ("error", "aborted"):
            metadata["error"] = self.outcome(slot)[1]
        else:
            metadata["execute_result"] = self.execute_result(slot)
        return metadata

    def _times_and_output(self, slot: int) -> Metadata:
        """The metadata that needs no decoding."""
        started, completed, received = self.times(slot)
        output = self.output(slot) or Output()
        engine = self.engine(slot)
        status = PENDING if not self.slot_done(slot) else self.status(slot)
        if status == PENDING and self.failure is not None:
            status = ERROR
        return Metadata(
            msg_id=self.msg_id(slot),
            submitted=datetime_of(self.submitted),
            started=datetime_of(started),
            completed=datetime_of(completed),
            received=datetime_of(received),
            engine_id=engine,
            engine_uuid=None if engine is None else self.uuids.get(engine),
            status=STATUS_NAMES.get(status),
            label=self.label,
            stdout=output.text("stdout"),
            stderr=output.text("stderr"),
            outputs=list(output.displays),
            data=output.data(),
        )


class DirectRequest(Request):
    """A call on given engines: slot i is `targets[i]`. `kind`: apply, execute, push, pull or clear."""

    __slots__ = ("_missing", "_replies", "_slots", "_values", "code", "kind", "targets")

    def __init__(self, name: str, kind: str, targets: Sequence[int], label: str | None = None) -> None:
        super().__init__(name, len(targets), label)
        self.kind = kind
        #: What an execute runs.
        self.code: str | None = None
        self.targets = targets
        self._missing = len(targets)
        self._slots = {engine: slot for slot, engine in enumerate(targets)} if self.count > 1 else None
        self._replies: list[tuple[int, float, float, float, list[Bytes]] | None] = [None] * self.count
        self._values: list[Outcome | None] = [None] * self.count

    def slot_of(self, engine: int) -> int | None:
        """The slot of `engine`, None if the request is not for it."""
        if self._slots is not None:
            return self._slots.get(engine)
        return 0 if self.targets[0] == engine else None

    def take_reply(self, header: Header, buffers: list[Bytes]) -> list[Callable[[], None]]:
        """Fill the slot of the replying engine; the callbacks to run."""
        return self._fill(
            header["engine"], header["status"], (header["started"], header["completed"], time()), buffers, None
        )

    def lose_engine(self, engine: int, lost: Exception) -> list[Callable[[], None]]:
        """Fill the slot of an engine that is gone, if it has not answered."""
        now = time()
        return self._fill(engine, ERROR, (now, now, now), [], lost)

    def _fill(
        self, engine: int, status: int, times: tuple[float, float, float], buffers: list[Bytes], lost: Exception | None
    ) -> list[Callable[[], None]]:
        slot = self.slot_of(engine)
        if slot is None or self._replies[slot] is not None:
            return []
        if lost is not None:
            self._values[slot] = (False, lost)
        self._replies[slot] = (status, *times, buffers)
        self._missing -= 1
        callbacks = self.slot_filled(slot)
        if self._missing == 0:
            callbacks = callbacks + self.finish()
        return callbacks

    def finished(self) -> int:
        return self.count - self._missing if self.failure is None else self.count

    def status(self, slot: int) -> int:
        reply = self._replies[slot]
        return PENDING if reply is None else reply[0]

    def engine(self, slot: int) -> int | None:
        return self.targets[slot]

    def times(self, slot: int) -> tuple[float | None, float | None, float | None]:
        reply = self._replies[slot]
        return (None, None, None) if reply is None else (reply[1], reply[2], reply[3])

    def outcome(self, slot: int) -> Outcome:
        value = self._values[slot]
        if value is None:
            with self.lock:
                value = self._values[slot]
                if value is None:
                    value = self._values[slot] = self._decode(slot)
        return value

    def _decode(self, slot: int) -> Outcome:
        reply = self._replies[slot]
        if reply is None:
            return False, self.failure or TimeoutError("Result not ready.")
        status, started, completed, received, buffers = reply
        if status != OK:
            return False, decode_error(status, buffers[0] if buffers else b"", self.msg_id(slot))
        try:
            value = serialize.loads(buffers) if buffers else None
        except Exception as reason:
            return False, unloadable(self.targets[slot], reason)
        finally:
            # The bytes are not needed any more: arrays keep alive what they use of them.
            self._replies[slot] = (status, started, completed, received, [])
        if self.kind == "execute" and isinstance(value, dict):
            metadata = self._times_and_output(slot)
            metadata["execute_result"] = value.get("execute_result")
            return True, ExecuteReply(value["execution_count"], metadata)
        return True, value

    def _times_and_output(self, slot: int) -> Metadata:
        metadata = super()._times_and_output(slot)
        metadata["execute_input"] = self.code
        return metadata

    def execute_result(self, slot: int) -> dict[str, Any] | None:
        if self.kind != "execute" or self.status(slot) != OK:
            return None
        value = self.outcome(slot)[1]
        return value.metadata["execute_result"] if isinstance(value, ExecuteReply) else None


def decode_error(status: int, payload: Bytes, msg_id: str, ending: str | None = None) -> Exception:
    """The exception of a failed slot. `ending`: why the cluster ended before it."""
    content: dict[str, Any] = {}
    if len(payload):
        try:
            content = json.loads(bytes(payload))
        except ValueError:
            content = {"ename": "UnknownError", "evalue": "the engine's error cannot be read"}
    if status == ABORTED and ending is not None:
        return error.RemoteClusterEnding("ClusterEnding", f"this task was not started: {ending}", None)
    if status == ABORTED:
        return error.RemoteTaskAborted("TaskAborted", str(content.get("evalue") or msg_id), None)
    return error.from_payload(content)


def unloadable(engine: int | None, reason: Exception) -> serialize.SerializationError:
    """The exception in place of a result of `engine`, None: of a checkpoint, that cannot be unpickled here."""
    whose = "the checkpoint" if engine is None else f"engine {engine}"
    failure = serialize.SerializationError(
        f"the result of {whose} cannot be loaded here: {type(reason).__name__}: {reason}"
    )
    failure.__cause__ = reason
    return failure


def msg_id_of(session: str, number: int, slot: int, count: int) -> str:
    """The name of a slot of a request that has `count` of them."""
    return f"{session}_{number}" if count == 1 else f"{session}_{number}_{slot}"


def datetime_of(stamp: float | None) -> datetime | None:
    """Unix seconds as an aware datetime (UTC)."""
    if stamp is None:
        return None
    from datetime import UTC, datetime

    return datetime.fromtimestamp(stamp, UTC)
