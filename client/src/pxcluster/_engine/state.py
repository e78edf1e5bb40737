"""What the engine is doing at this moment; one instance, `state`, that the other modules read and set."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .runtime import Runtime


#: Status of a reply or of a task's result; UNMET: a task that another engine may run. (2, aborted, is for what never
#: reached Python.)
OK, ERROR, UNMET = 0, 1, 3


class State:
    """The runtime and the request in hand.

    `token` and `task` outlive their request, so that output of the user's own threads still finds a home.
    """

    __slots__ = ("first_task", "interruptible", "output_left", "position", "running", "runtime", "token")

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        self.token: int | None = None
        #: Index, within its map, of the first task of the batch in hand; None: it is a direct request.
        self.first_task: int | None = None
        #: Place, in the batch, of the task in hand.
        self.position = 0
        self.running = False
        #: Bytes of output that the request may still write; negative: so many were dropped.
        self.output_left = 0
        #: Whether SIGINT raises KeyboardInterrupt in the main thread now.
        self.interruptible = False

    @property
    def task(self) -> int | None:
        """Index, within its map, of the task in hand."""
        return None if self.first_task is None else self.first_task + self.position

    @property
    def host(self) -> Runtime:
        """The runtime, which is there from the start of main() on."""
        assert self.runtime is not None
        return self.runtime


state = State()
