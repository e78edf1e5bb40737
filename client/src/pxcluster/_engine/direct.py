"""Direct requests: apply, execute, push, pull, clear; each is answered by one reply."""

from __future__ import annotations

from time import time

from ..serialize import dumps, loads
from . import namespace, shell, streams, tracebacks
from .interrupts import enter_user_code, leave_user_code
from .state import ERROR, OK, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from typing_extensions import Buffer


def run_direct(token: int, kind: str, buffers: Sequence[Buffer]) -> None:
    """Do what a direct request asks for and reply; an error of whatever kind is a reply too."""
    state.token = token
    state.first_task = None
    state.output_left = streams.full_limit()
    state.running = True
    started = time()
    body: Sequence[Buffer]
    try:
        try:
            enter_user_code()
            if kind not in HANDLERS:
                raise ValueError(f"engines know no request of kind {kind!r}: client and cluster differ in version")
            body = dumps(HANDLERS[kind](loads(buffers)))
        finally:
            leave_user_code()
        status = OK
    except BaseException as error:
        leave_user_code()
        status, body = ERROR, [failure(error, kind)]
    completed = time()
    streams.tell_dropped()
    state.running = False
    state.host.reply(token, status, started, completed, body)


def failure(error: BaseException, kind: str) -> bytes:
    """The payload of a failed direct request."""
    if kind == "execute":
        return tracebacks.payload(error, "execute", execution_count=shell.execution_count())
    return tracebacks.payload(error, "apply")


def _apply(body: Any) -> Any:
    function, args, kwargs = body
    return function(*args, **kwargs)


def _execute(body: Any) -> dict[str, Any]:
    return shell.execute(body["code"], body["silent"])


def _push(body: Any) -> None:
    namespace.names().update(body)


def _pull(body: Any) -> Any:
    return namespace.evaluate(body) if isinstance(body, str) else [namespace.evaluate(name) for name in body]


def _clear(_body: None) -> None:
    namespace.clear()


HANDLERS: dict[str, Callable[[Any], Any]] = {
    "apply": _apply,
    "execute": _execute,
    "push": _push,
    "pull": _pull,
    "clear": _clear,
}
