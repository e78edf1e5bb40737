"""mpi4py in engines: it joins the MPI that runs already, and its COMM_WORLD is the communicator of the engines.

So rank == engine id, and collectives of existing programs do not wait for the controller. Only Python code sees this;
C libraries still see the real world.
"""

from __future__ import annotations

import sys

from .import_hooks import after_import, before_import
from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def install() -> None:
    """Watch for ``import mpi4py`` from now on."""
    before_import("mpi4py", _check)
    after_import("mpi4py", _configure)
    after_import("mpi4py.MPI", _replace_world)


def _check() -> None:
    if not state.host.thread_multiple:
        raise ImportError(
            "mpi4py cannot be used on this engine, because the engine talks MPI in another thread and this MPI library "
            "does not grant MPI_THREAD_MULTIPLE: start the cluster with an MPI built for threads",
            name="mpi4py",
        )


def _configure(mpi4py: ModuleType) -> None:
    rc: Any = mpi4py.rc
    rc.initialize = False
    rc.finalize = False


def _replace_world(mpi: Any) -> None:
    world = mpi.Comm.f2py(state.host.engines_comm)
    if not isinstance(world, mpi.Intracomm):
        world = mpi.Intracomm(world)
    # mpi4py has done so for the world and COMM_SELF; otherwise a message to a wrong rank ends the whole cluster.
    if sys.modules["mpi4py"].rc.errors == "exception":
        world.Set_errhandler(mpi.ERRORS_RETURN)
    mpi.COMM_WORLD = world
    mpi.Finalize = _finalize


def _finalize() -> None:
    """Do nothing: MPI is finalised when the cluster ends, and the engine needs it until then."""
