"""What runs inside an engine: the loop that takes work from the extension, runs user code and answers.

Nothing here does MPI or opens a socket; all of that is the runtime's, an object of the extension
`pxcluster._engine._pxengine` (see `runtime.py`). Start-up imports as little as possible: IPython comes with the first
execute or the first error to show, cloudpickle with the first object that needs it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def engine_comm() -> Intracomm:
    """The mpi4py communicator of all engines, in which the rank is the engine id; it is also ``MPI.COMM_WORLD`` here.

    RuntimeError: this process is no engine. ImportError: mpi4py is missing, or MPI forbids its use.
    """
    from importlib import import_module

    from .state import state

    if state.runtime is None:
        raise RuntimeError("engine_comm() is for code that runs on an engine, and this process is none")
    world: Intracomm = import_module("mpi4py.MPI").COMM_WORLD
    return world
