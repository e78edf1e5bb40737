"""ipyparallel's API on MPI: ``import pxcluster as ipp``.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .asyncresult import AsyncResult
    from .client import Client
    from .cluster import Cluster
    from .clustermanager import ClusterManager
    from .dependency import Dependency
    from .direct import BroadcastView, DirectView
    from .error import (
        AlreadyDisplayedError,
        CompositeError,
        ConnectionLost,
        DependencyTimeout,
        EngineError,
        ImpossibleDependency,
        InvalidDependency,
        IPythonError,
        KernelError,
        NoEnginesRegistered,
        RemoteError,
        TaskAborted,
        TaskRejectError,
        TaskTimeout,
        TimeoutError,
        UnmetDependency,
        VersionMismatch,
    )
    from .executor import ViewExecutor
    from .loadbalanced import LoadBalancedView
    from .mapresult import AsyncMapResult
    from .remotefunction import ParallelFunction, RemoteFunction, depend, dependent, parallel, remote, require
    from .serialize import (
        Reference,
        SerializationError,
        interactive,
        use_cloudpickle,
        use_dill,
        use_pickle,
    )

__version__ = "0.1.0"
version_info = (0, 1, 0)

FIRST_COMPLETED = "FIRST_COMPLETED"
FIRST_EXCEPTION = "FIRST_EXCEPTION"
ALL_COMPLETED = "ALL_COMPLETED"

_HOMES = {
    "client": ("Client",),
    "cluster": ("Cluster",),
    "clustermanager": ("ClusterManager",),
    "dependency": ("Dependency",),
    "direct": ("BroadcastView", "DirectView"),
    "loadbalanced": ("LoadBalancedView",),
    "asyncresult": ("AsyncResult",),
    "mapresult": ("AsyncMapResult",),
    "executor": ("ViewExecutor",),
    "remotefunction": ("ParallelFunction", "RemoteFunction", "depend", "dependent", "parallel", "remote", "require"),
    "serialize": ("Reference", "SerializationError", "interactive", "use_cloudpickle", "use_dill", "use_pickle"),
    "error": (
        "AlreadyDisplayedError",
        "CompositeError",
        "ConnectionLost",
        "DependencyTimeout",
        "EngineError",
        "IPythonError",
        "ImpossibleDependency",
        "InvalidDependency",
        "KernelError",
        "NoEnginesRegistered",
        "RemoteError",
        "TaskAborted",
        "TaskRejectError",
        "TaskTimeout",
        "TimeoutError",
        "UnmetDependency",
        "VersionMismatch",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = frozenset({*_HOMES, "magics", "connection", "datapub", "frames", "joblib"})

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AlreadyDisplayedError",
    "AsyncMapResult",
    "AsyncResult",
    "BroadcastView",
    "Client",
    "Cluster",
    "ClusterManager",
    "CompositeError",
    "ConnectionLost",
    "Dependency",
    "DependencyTimeout",
    "DirectView",
    "EngineError",
    "IPythonError",
    "ImpossibleDependency",
    "InvalidDependency",
    "KernelError",
    "LoadBalancedView",
    "NoEnginesRegistered",
    "ParallelFunction",
    "Reference",
    "RemoteError",
    "RemoteFunction",
    "SerializationError",
    "TaskAborted",
    "TaskRejectError",
    "TaskTimeout",
    "TimeoutError",
    "UnmetDependency",
    "VersionMismatch",
    "ViewExecutor",
    "__version__",
    "depend",
    "dependent",
    "install_as_ipyparallel",
    "interactive",
    "parallel",
    "register_joblib_backend",
    "remote",
    "require",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
    "version_info",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is not None:
        value = getattr(import_module(f".{module}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register_joblib_backend(name: str = "ipyparallel", make_default: bool = False) -> None:
    """Let joblib use all engines of the default cluster, as ``parallel_config(name)``.

    The default name registers ``"pxcluster"``, too. ImportError: joblib is not installed.
    """
    import_module(".joblib", __name__).register(name, make_default)


def install_as_ipyparallel() -> None:
    """Be what ``import ipyparallel`` finds from now on in this process, for libraries that use it.

    RuntimeError: ipyparallel itself is imported already.
    """
    import_module(".alias", __name__).install()


def load_ipython_extension(ip: Any) -> None:
    """``%load_ext pxcluster``: ``%px`` for every engine of the running cluster."""
    client = import_module(".client", __name__).Client()
    ip.push({"rc": client}, interactive=False)
