"""The engine's main thread: set the interpreter up for user code, then take work until there is no more."""

from __future__ import annotations

from . import comms, cython_lock, fork, interrupts, mpi4py_hook, namespace, shell, streams
from .direct import failure, run_direct
from .interrupts import leave_user_code
from .state import ERROR, state
from .tasks import fail_tasks, forget_map, run_tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .runtime import Runtime, Work


def main(runtime: Runtime) -> None:
    """Serve `runtime` until it has no more work. The interpreter is the user's from here on."""
    start(runtime)
    try:
        while serve(state.host.next()):
            pass  # nothing of the last work is kept while the next one is waited for
    finally:
        streams.restore()


def start(runtime: Runtime) -> None:
    """Prepare the interpreter: namespace, streams, signals, imports, forks."""
    state.runtime = runtime
    namespace.install()
    streams.install()
    interrupts.install()
    fork.install()
    mpi4py_hook.install()
    comms.install()
    cython_lock.install()
    shell.watch_imports()


def serve(work: Work | None) -> bool:
    """Do one piece of work; whether there may be more.

    It is answered even if a second interrupt hits where the first one is handled.
    """
    if work is None:
        return False
    if work[0] == "tasks":
        _, token, map_key, function, items, first = work
        try:
            run_tasks(token, map_key, function, items, first)
        except KeyboardInterrupt as error:
            leave_user_code()
            fail_tasks(token, error, len(items))
    elif work[0] == "direct":
        _, token, kind, buffers = work
        try:
            run_direct(token, kind, buffers)
        except KeyboardInterrupt as error:
            leave_user_code()
            state.running = False
            state.host.reply(token, ERROR, 0.0, 0.0, [failure(error, kind)])
    else:
        forget_map(work[1])
    return True
