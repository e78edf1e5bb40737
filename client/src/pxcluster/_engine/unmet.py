"""Which errors of a task mean that another engine may run it."""

from __future__ import annotations

from ..error import ImpossibleDependency, RemoteError, TaskRejectError, UnmetDependency
from .state import ERROR, UNMET


def status_of(error: BaseException) -> int:
    """UNMET if user code refuses this engine, by @depend, @require or by raising it; ERROR for everything else.

    What a task has from calls of its own is an error, whatever its class.
    """
    refused = isinstance(error, UnmetDependency | TaskRejectError)
    return UNMET if refused and not isinstance(error, ImpossibleDependency | RemoteError) else ERROR
