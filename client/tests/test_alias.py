from __future__ import annotations

import importlib
import sys
import types
from importlib.util import find_spec

import pxcluster
import pytest
from pxcluster import alias
from support import child

# Of each module, names that libraries take from it.
NAMES = {
    "ipyparallel": "AsyncResult Client CompositeError RemoteError Reference TimeoutError depend interactive remote",
    "ipyparallel.client": "Client",
    "ipyparallel.client._joblib": "IPythonParallelBackend",
    "ipyparallel.client.asyncresult": "AsyncMapResult AsyncResult",
    "ipyparallel.client.client": "Client ExecuteReply Metadata",
    "ipyparallel.client.magics": "ParallelMagics",
    "ipyparallel.client.remotefunction": "ParallelFunction RemoteFunction parallel remote",
    "ipyparallel.client.view": "BroadcastView DirectView LazyMapIterator LoadBalancedView View ViewExecutor",
    "ipyparallel.cluster": "Cluster ClusterManager",
    "ipyparallel.cluster.cluster": "Cluster ClusterManager",
    "ipyparallel.controller": "Dependency",
    "ipyparallel.controller.dependency": "Dependency depend dependent require",
    "ipyparallel.datapub": "publish_data",
    "ipyparallel.error": "CompositeError EngineError NoEnginesRegistered RemoteError TaskAborted TimeoutError",
    "ipyparallel.joblib": "IPythonParallelBackend register",
    "ipyparallel.serialize": "Reference use_cloudpickle use_dill use_pickle",
    "ipyparallel.serialize.canning": "Reference use_dill",
    "ipyparallel.serialize.serialize": "Reference",
    "ipyparallel.util": "interactive progress",
}


@pytest.fixture
def nothing_imported(monkeypatch):
    """No ipyparallel of any kind is imported, and none is afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ipyparallel"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in alias.MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def installed(nothing_imported):
    pxcluster.install_as_ipyparallel()


def test_every_module_is_described_here():
    assert NAMES.keys() == alias.MODULES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_modules_have_the_names_that_libraries_import(installed, name):
    module = importlib.import_module(name)
    for each in NAMES[name].split():
        assert getattr(module, each).__module__.partition(".")[0] in ("pxcluster", "builtins"), each


def test_the_names_are_the_same_objects(installed):
    import ipyparallel as ipp
    import ipyparallel.error
    from ipyparallel import Client
    from ipyparallel.client.view import ViewExecutor

    assert Client is pxcluster.Client
    assert ipyparallel.error.RemoteError is pxcluster.RemoteError is ipp.RemoteError
    assert ipp.client.view.ViewExecutor is ViewExecutor is pxcluster.ViewExecutor
    assert ipp.version_info >= (9,)
    assert find_spec("ipyparallel") is ipp.__spec__


def test_it_can_be_done_twice(installed):
    first = sys.modules["ipyparallel"]
    pxcluster.install_as_ipyparallel()
    assert sys.modules["ipyparallel"] is first


def test_star_imports(installed):
    names = {}
    exec("from ipyparallel import *", names)
    assert names["Client"] is pxcluster.Client
    assert set(dir(sys.modules["ipyparallel"])) >= {"Client", "client", "error"}


def test_what_is_not_there_cannot_be_imported(installed):
    with pytest.raises(ModuleNotFoundError, match=r"ipyparallel\.apps"):
        importlib.import_module("ipyparallel.apps")
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from ipyparallel import no_such_name")
    with pytest.raises(AttributeError, match=r"'ipyparallel\.error', which is pxcluster here, has no attribute"):
        sys.modules["ipyparallel.error"].no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["ipyparallel", "ipyparallel.util"])
def test_ipyparallel_itself_is_not_replaced(nothing_imported, monkeypatch, name):
    real = types.ModuleType(name)
    real.__file__ = "/somewhere/else.py"
    monkeypatch.setitem(sys.modules, name, real)
    with pytest.raises(RuntimeError, match=f"{name} is imported already, from /somewhere/else.py: call .* new process"):
        pxcluster.install_as_ipyparallel()
    assert sys.modules[name] is real


def test_it_imports_no_joblib_and_no_dask():
    ran = child(
        """
        import sys, pxcluster
        pxcluster.install_as_ipyparallel()
        import ipyparallel.joblib
        print([name for name in ("joblib", "distributed", "IPython", "numpy") if name in sys.modules])
        """
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
