"""This package as ``ipyparallel``, for libraries that import that: its modules, with the names that are here."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The version of ipyparallel whose interface this is.
VERSION = (9, 2, 0)

#: Its modules, and where their names are here; what is in none of them is looked for in the package itself.
MODULES: dict[str, tuple[str, ...]] = {
    "ipyparallel": (),
    "ipyparallel.client": (),
    "ipyparallel.client._joblib": ("joblib",),
    "ipyparallel.client.asyncresult": ("asyncresult", "mapresult"),
    "ipyparallel.client.client": ("client", "reply"),
    "ipyparallel.client.magics": ("magics",),
    "ipyparallel.client.remotefunction": ("remotefunction",),
    "ipyparallel.client.view": ("view", "direct", "loadbalanced", "imap", "executor"),
    "ipyparallel.cluster": ("cluster", "clustermanager"),
    "ipyparallel.cluster.cluster": ("cluster", "clustermanager"),
    "ipyparallel.controller": (),
    "ipyparallel.controller.dependency": ("dependency", "remotefunction"),
    "ipyparallel.datapub": ("datapub",),
    "ipyparallel.error": ("error",),
    "ipyparallel.joblib": ("joblib",),
    "ipyparallel.serialize": ("serialize",),
    "ipyparallel.serialize.canning": ("serialize",),
    "ipyparallel.serialize.serialize": ("serialize",),
    "ipyparallel.util": ("progress",),
}


class Alias(ModuleType):
    """A module of ipyparallel's whose names are those of `homes`, modules of this package."""

    def __init__(self, name: str, homes: tuple[str, ...]) -> None:
        super().__init__(name, f"Names of pxcluster's, as {name}.")
        self.__spec__ = ModuleSpec(name, None, origin=__file__, is_package=True)
        self.__path__: list[str] = []
        self.__package__ = name
        self.__file__ = __file__
        self._homes = homes

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            package = __name__.rpartition(".")[0]
            for home in (*(f"{package}.{each}" for each in self._homes), package):
                try:
                    return getattr(import_module(home), name)
                except AttributeError:
                    pass
        raise AttributeError(f"module {self.__name__!r}, which is pxcluster here, has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        package = import_module(__name__.rpartition(".")[0])
        return sorted({*self.__dict__, *package.__all__})


def install() -> None:
    """Be what ``import ipyparallel`` finds in this process, its modules included. A second call does nothing.

    RuntimeError: ipyparallel itself, or a part of it, is imported already.
    """
    for name in sorted(sys.modules):
        module = sys.modules[name]
        if (name == "ipyparallel" or name.startswith("ipyparallel.")) and not isinstance(module, Alias):
            raise RuntimeError(
                f"{name} is imported already, from {getattr(module, '__file__', None) or 'elsewhere'}: call "
                "pxcluster.install_as_ipyparallel() in a new process, before anything imports ipyparallel"
            )
    if "ipyparallel" in sys.modules:
        return
    modules = {name: Alias(name, homes) for name, homes in MODULES.items()}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    top = modules["ipyparallel"]
    names = import_module(__name__.rpartition(".")[0]).__all__
    vars(top).update(
        __version__=".".join(map(str, VERSION)),
        version_info=VERSION,
        __all__=[name for name in names if not name.startswith("_")],
    )
    sys.modules.update(modules)
