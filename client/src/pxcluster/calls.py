"""What a client remembers of its calls when their answers have come: the most recent requests, to run them again.

Bounded in number and bytes. Arrays of the user's are copied, as he may write to them afterwards, and only small ones.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from .frames import Pieces
from .maprequest import MapRequest
from .requests import DirectRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Sequence

    from .frames import Bytes, Header
    from .requests import Request
    from .shared import Mentions

    Body = Sequence[Bytes | array[int]]

#: So many requests are remembered.
MOST_CALLS = 1024
#: So many bytes of their bodies, all together and of one.
MOST_BYTES = 16 << 20
LARGEST = 4 << 20
#: So many bytes of one body are copied to be remembered.
MOST_COPIED = 64 << 10


class Call(NamedTuple):
    """A request as it was sent. `body` None: it is not remembered, because of `missing`."""

    header: Header
    name: str
    slots: int
    label: str | None
    submitted: float
    #: The engines of a direct request.
    targets: Sequence[int]
    body: Body | None
    missing: str
    size: int
    #: The msg_ids that it waits for; what it executes.
    after: Sequence[str]
    follow: Sequence[str]
    code: str | None


class Calls:
    """The most recent calls by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: OrderedDict[int, Call] = OrderedDict()
        self._bytes = 0
        #: New msg_ids of what was run again, by the old ones.
        self.resubmitted: dict[str, str] = {}

    def keep(
        self, request: Request, header: Header, body: Sequence[Bytes | Pieces | array[int]], mentions: Mentions | None
    ) -> None:
        """Remember a request that has been submitted."""
        kept, missing, size = _remembered(body, mentions)
        targets: Sequence[int] = ()
        after: Sequence[str] = ()
        follow: Sequence[str] = ()
        code: str | None = None
        if isinstance(request, DirectRequest):
            targets, code = request.targets, request.code
        elif isinstance(request, MapRequest):
            after, follow = request.after, request.follow
        call = Call(
            header,
            request.name,
            header.get("tasks", request.count),  # those of a map that a checkpoint had were not sent
            request.label,
            request.submitted,
            targets,
            kept,
            missing,
            size,
            after,
            follow,
            code,
        )
        with self._lock:
            self._calls[request.id] = call
            self._bytes += size
            while len(self._calls) > MOST_CALLS or self._bytes > MOST_BYTES:
                self._bytes -= self._calls.popitem(last=False)[1].size

    def find(self, number: int) -> Call | None:
        """The request with this number, if it is remembered."""
        return self._calls.get(number)

    def purge(self, numbers: Iterable[int] | None) -> None:
        """Forget these requests, None: all."""
        with self._lock:
            if numbers is None:
                self._calls.clear()
                self._bytes = 0
                self.resubmitted.clear()
                return
            for number in numbers:
                call = self._calls.pop(number, None)
                self._bytes -= 0 if call is None else call.size


def _remembered(body: Sequence[Bytes | Pieces | array[int]], mentions: Mentions | None) -> tuple[Body | None, str, int]:
    """A body that nobody changes, or why there is none; its bytes."""
    if mentions is not None and mentions.leases:
        return None, "it used objects that were sent once, with rc.put or by themselves, and engines let go of those", 0
    if len(body) == 1 and type(body[0]) is bytes and len(body[0]) <= LARGEST:
        return body, "", len(body[0])  # type: ignore[return-value]  # most are so, and this is fast
    kept: list[Bytes | array[int]] = []
    size = copied = 0
    for buffer in body:
        if isinstance(buffer, Pieces):
            return None, "its items hold large arrays", 0
        view = memoryview(buffer)
        size += view.nbytes
        copied += view.nbytes if type(buffer) is memoryview else 0
        if size > LARGEST or copied > MOST_COPIED:
            return None, "its arguments are larger than what is remembered", 0
        kept.append(bytes(view) if type(buffer) is memoryview else buffer)
    return kept, "", size
