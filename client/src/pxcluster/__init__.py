"""ipyparallel's API on MPI: ``import pxcluster as ipp``.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._engine import engine_comm
    from .asyncresult import AsyncHubResult, AsyncResult
    from .client import Client
    from .cluster import Cluster
    from .clustermanager import ClusterManager
    from .dependency import Dependency
    from .direct import BroadcastView, DirectView
    from .error import (
        AlreadyDisplayedError,
        ClusterEnding,
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
        collect_exceptions,
        unwrap_exception,
        wrap_exception,
    )
    from .executor import ViewExecutor
    from .loadbalanced import LoadBalancedView
    from .mapresult import AsyncMapResult
    from .remotefunction import ParallelFunction, RemoteFunction, depend, dependent, parallel, remote, require
    from .serialize import (
        PrePickled,
        Reference,
        SerializationError,
        can,
        can_map,
        deserialize_object,
        interactive,
        pack_apply_message,
        serialize_object,
        uncan,
        uncan_map,
        unpack_apply_message,
        use_cloudpickle,
        use_dill,
        use_pickle,
    )
    from .util import MultipleInstanceError, bind_kernel

__version__ = "0.1.0"
version_info = (0, 1, 0)

FIRST_COMPLETED = "FIRST_COMPLETED"
FIRST_EXCEPTION = "FIRST_EXCEPTION"
ALL_COMPLETED = "ALL_COMPLETED"

_HOMES = {
    "_engine": ("engine_comm",),
    "client": ("Client",),
    "cluster": ("Cluster",),
    "clustermanager": ("ClusterManager",),
    "dependency": ("Dependency",),
    "direct": ("BroadcastView", "DirectView"),
    "loadbalanced": ("LoadBalancedView",),
    "asyncresult": ("AsyncHubResult", "AsyncResult"),
    "mapresult": ("AsyncMapResult",),
    "executor": ("ViewExecutor",),
    "remotefunction": ("ParallelFunction", "RemoteFunction", "depend", "dependent", "parallel", "remote", "require"),
    "serialize": (
        "PrePickled",
        "Reference",
        "SerializationError",
        "can",
        "can_map",
        "deserialize_object",
        "interactive",
        "pack_apply_message",
        "serialize_object",
        "uncan",
        "uncan_map",
        "unpack_apply_message",
        "use_cloudpickle",
        "use_dill",
        "use_pickle",
    ),
    "util": ("MultipleInstanceError", "bind_kernel"),
    "error": (
        "AlreadyDisplayedError",
        "ClusterEnding",
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
        "collect_exceptions",
        "unwrap_exception",
        "wrap_exception",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = frozenset({*_HOMES, "magics", "connection", "datapub", "frames", "joblib"})

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AlreadyDisplayedError",
    "AsyncHubResult",
    "AsyncMapResult",
    "AsyncResult",
    "BroadcastView",
    "Client",
    "Cluster",
    "ClusterEnding",
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
    "MultipleInstanceError",
    "NoEnginesRegistered",
    "ParallelFunction",
    "PrePickled",
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
    "bind_kernel",
    "can",
    "can_map",
    "collect_exceptions",
    "depend",
    "dependent",
    "deserialize_object",
    "engine_comm",
    "install_as_ipyparallel",
    "interactive",
    "pack_apply_message",
    "parallel",
    "register_joblib_backend",
    "remote",
    "require",
    "serialize_object",
    "uncan",
    "uncan_map",
    "unpack_apply_message",
    "unwrap_exception",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
    "version_info",
    "wrap_exception",
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
