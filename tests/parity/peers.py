"""The two packages, each with a cluster of four engines of its own and a client that all tests share."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster import running_alone

from . import compat

ENGINES = 4


@dataclass
class Peer:
    """A package under test: its module, as in ``import … as ipp``, and a connected client."""

    name: str
    ipp: Any
    rc: Any
    connect: Callable[[], Any]

    def differs(self, first_column: str) -> bool:
        """Whether this is pxcluster, where it differs as the row of docs/ipyparallel-compat.md with this first cell."""
        compat.row(first_column)
        return self.name == "pxcluster"


@contextmanager
def _pxcluster() -> Iterator[Peer]:
    import pxcluster

    with running_alone(ENGINES) as cluster:
        yield Peer("pxcluster", pxcluster, cluster.client(), cluster.client)


@contextmanager
def _ipyparallel() -> Iterator[Peer]:
    ipp = importlib.import_module("ipyparallel")
    with tempfile.TemporaryDirectory(prefix="ipp-test-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("IPYTHONDIR")
        os.environ["IPYTHONDIR"] = folder
        logging.getLogger("ipyparallel").setLevel(logging.ERROR)
        cluster = ipp.Cluster(
            n=ENGINES,
            profile_dir=str(Path(folder, "profile_parity")),
            cluster_id="parity",
            delay=0.0,
            log_level=logging.ERROR,
        )
        rc = None
        try:
            cluster.start_cluster_sync()
            rc = cluster.connect_client_sync()
            rc.wait_for_engines(ENGINES, timeout=120, interactive=False)
            yield Peer("ipyparallel", ipp, rc, cluster.connect_client_sync)
            rc.close()
        finally:
            cluster.stop_cluster_sync()
            os.environ.pop("IPYTHONDIR")
            if before is not None:
                os.environ["IPYTHONDIR"] = before
            del cluster, rc
            gc.collect()  # what it leaves unclosed is nobody else's warning


STARTERS: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
    "pxcluster": _pxcluster,
    "ipyparallel": _ipyparallel,
}
