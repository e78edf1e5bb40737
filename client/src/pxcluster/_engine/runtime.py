"""The boundary to the extension: what an engine's Python asks of the process that hosts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from typing_extensions import Buffer

    Direct = tuple[Literal["direct"], int, str, list[Buffer]]
    Tasks = tuple[Literal["tasks"], int, int, Buffer | None, list[Buffer], int]
    Forget = tuple[Literal["forget"], int]
    Work = Direct | Tasks | Forget


class Runtime(Protocol):
    """Implemented by the extension, and by a fake in the tests. Times are unix seconds."""

    engine_id: int
    engine_count: int
    cluster_id: str
    uuid: str
    thread_multiple: bool
    #: Fortran handle of the communicator of all engines.
    engines_comm: int

    def next(self) -> Work | None:
        """Block, without the GIL, until there is work. None: the cluster stops.

        ("direct", token, kind, buffers): answer with reply(token, …).
        ("tasks", token, map_key, function, items, first_task): answer each item with result(token, …) until that is
        false; `function` comes with the first batch of a map. ("forget", map_key): no more tasks of this map, no
        answer.
        """

    def reply(self, token: int, status: int, started: float, completed: float, buffers: Sequence[Buffer]) -> None:
        """Answer a direct request. The buffers are copied or held until they are sent."""

    def result(self, token: int, position: int, status: int, payload: bytes | list[bytes | memoryview], /) -> bool:
        """Answer the task at `position` of a batch, which has just ended; whether the next one is to be run here.

        A list: the pieces of the payload.

        The rest of a batch may be given to another engine while a task runs. A second answer is ignored.
        """

    def output(self, token: int, task: int | None, name: str, data: bytes) -> None:
        """Hand over output of a request; `name`: stdout, stderr (text), display (JSON), data, comm (pickles).

        Any thread may call it.
        """

    def user_code(self, on: bool, /) -> None:
        """SIGINT is sent to the main thread only while this is on."""
