"""Large buffers of requests on their way into the controller's shared memory."""

from __future__ import annotations

import threading
import warnings

from .frames import size_of
from .progress import UploadBar
from .sharedmemory import LARGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .frames import Bytes, Header, Pieces
    from .session import Session
    from .sharedmemory import SharedMemory


class Uploads:
    """Those of one session. Places are asked for, written to, and named by the request that follows."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._tickets = 0
        #: Answers of the controller that have come.
        self._answers: dict[int, Header] = {}

    def upload(self, memory: SharedMemory, header: Header, buffers: Sequence[Bytes | Pieces]) -> dict[int, int] | None:
        """Write the large ones of the `buffers` of a request with this `header` to `memory`.

        Returns their places by index; None: no room, or nothing is large.
        """
        large = [at for at, buffer in enumerate(buffers) if size_of(buffer) >= LARGE]
        if not large:
            return None
        answer = self._reserve(memory, header, [size_of(buffers[at]) for at in large])
        if answer is None or (places := answer["places"]) is None:
            return None
        bar = UploadBar(sum(size_of(buffers[at]) for at in large))
        try:
            for at, (place, is_warm) in zip(large, places, strict=True):
                told = self._teller(place, bar) if answer.get("tell") else bar.move
                memory.write(place, is_warm, buffers[at], told)
        except BaseException as problem:
            self._session.tell({"type": "abandon", "places": [place for place, _ in places]})
            if not isinstance(problem, OSError):
                raise
            warnings.warn(
                f"the shared memory of the cluster's host is full ({problem.strerror}): data are copied to each engine",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        finally:
            bar.close()
        return {at: place for at, (place, _) in zip(large, places, strict=True)}

    def answered(self, header: Header) -> None:
        """The controller has answered. Called by the reader."""
        self._answers[header["ticket"]] = header

    def _teller(self, place: int, bar: UploadBar) -> Callable[[int], None]:
        """What tells the controller, too, how far a place is written: other nodes get it meanwhile."""
        written = 0

        def told(count: int) -> None:
            nonlocal written
            written += count
            self._session.tell({"type": "written", "place": place, "bytes": written})
            bar.move(count)

        return told

    def _reserve(self, memory: SharedMemory, header: Header, sizes: list[int]) -> Header | None:
        with self._lock:
            self._tickets += 1
            ticket = self._tickets
        session = self._session
        question: Header = {"type": "reserve", "ticket": ticket, "sizes": sizes}
        if header["type"] == "direct":
            question |= {"direct": True, "targets": header["targets"]}
        session.tell(question)
        # A new connection knows nothing of the question.
        session.wait(lambda: ticket in self._answers or session.memory is not memory)
        return self._answers.pop(ticket, None)
