"""Requests that no engine's Python sees."""

from __future__ import annotations

from .maprequest import MapRequest
from .requests import ERROR, OK, PENDING, DirectRequest, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .frames import Bytes, Header
    from .requests import Outcome


def signum_of(sig: int | str) -> int:
    """The number of a signal that is given by number or name. ValueError."""
    import signal

    try:
        return int(signal.Signals[sig]) if isinstance(sig, str) and not sig.isdigit() else int(sig)
    except KeyError:
        raise ValueError(f"no signal has the name {sig!r}") from None


class ControlRequest(Request):
    """A request that no engine's Python sees: signal, abort, status, history … `answer`: the frame that it is."""

    __slots__ = ("answer", "buffers")

    def __init__(self, name: str) -> None:
        super().__init__(name, 1)
        self.answer: Header = {}
        self.buffers: list[Bytes] = []

    def finished(self) -> int:
        return int(self.done)

    def status(self, slot: int) -> int:
        return OK if self.done and self.failure is None else ERROR if self.done else PENDING

    def engine(self, slot: int) -> int | None:
        return None

    def times(self, slot: int) -> tuple[float | None, float | None, float | None]:
        return None, None, None

    def outcome(self, slot: int) -> Outcome:
        return (True, None) if self.failure is None else (False, self.failure)


class FetchRequest(ControlRequest):
    """Asks for the answers to request `number` of `session`. `found`: they, when it is done and did not fail."""

    __slots__ = ("found", "number", "whose")

    def __init__(self, session: str, number: int) -> None:
        super().__init__("fetch")
        self.whose = session
        self.number = number
        self.found: Request | None = None

    def take_answer(self, header: Header) -> Request:
        """Make the request that the answers belong to."""
        kind = header["kind"]
        found: Request
        if kind == "map":
            found = MapRequest("map", header["tasks"], header["label"])
        else:
            found = DirectRequest(kind, kind, header["targets"], header["label"])
        found.id = self.id
        found.session = self.session
        found.uuids = self.uuids
        found.origin = (self.whose, self.number)
        self.found = found
        return found
