"""Clusters for the tests: one that most share, others made for a test and seen to leave nothing behind."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Cluster, Site
from harness.hosts import Hosts, is_hydra, missing
from harness.memory import no_large_file_system, no_small_file_system, small_file_system
from harness.rig import Login, Rig
from harness.rig import missing as no_rig
from harness.slurm import Slurm
from harness.slurm import missing as no_slurm
from parity.options import pytest_addoption as pytest_addoption
from parity.options import pytest_report_header as pytest_report_header
from pxcluster import Client

# A script that runs the tests in the background makes them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class SharedCluster:
    """The cluster that most tests use; started when it is first needed and again when a test has broken it."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        """It, running."""
        if self._cluster is None or not self._cluster.is_running():
            self.discard()
            self._cluster = Cluster(Site()).start()
        return self._cluster

    def discard(self) -> None:
        """Kills it; the next test gets a new one."""
        if self._cluster is not None:
            self._cluster.kill()
            self._cluster.site.remove()
            self._cluster = None

    def stop(self) -> None:
        """Ends it properly; nothing may remain."""
        if self._cluster is None:
            return
        try:
            self._cluster.stop()
            self._cluster.site.wait_until_nothing_remains()
        finally:
            self.discard()


@pytest.fixture(scope="session")
def private_slurm() -> Iterator[Slurm]:
    """A Slurm of one node that runs while the tests do."""
    if reason := no_slurm():
        pytest.skip(reason)
    private = Slurm()
    try:
        yield private.start()
    finally:
        private.stop()


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """Hosts that run while the tests do: ``login``, and three for ranks."""
    if reason := no_rig():
        pytest.skip(reason)
    hosts = Rig()
    try:
        yield hosts.start()
    finally:
        hosts.stop()


@pytest.fixture
def new_login(rig: Rig) -> Iterator[Callable[..., Login]]:
    """Makes places for clusters on these hosts: nothing may remain where there is power. The others get it again."""
    logins: list[Login] = []

    def make(**env: str | None) -> Login:
        logins.append(Login(rig, env))
        return logins[-1]

    yield make
    try:
        for login in logins:
            login.close_clients()
            login.wait_until_nothing_remains()
    finally:
        for login in logins:
            login.remove()
        rig.restore()


@pytest.fixture(scope="session")
def rig_slurm(rig: Rig) -> Iterator[Slurm]:
    """A Slurm of these three hosts."""
    if reason := no_slurm():
        pytest.skip(reason)
    slurm = Slurm(rig)
    try:
        yield slurm.start()
    finally:
        slurm.stop()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[SharedCluster]:
    shared = SharedCluster()
    yield shared
    shared.stop()


@pytest.fixture
def cluster(shared_cluster: SharedCluster) -> Iterator[Cluster]:
    """Four engines with empty namespaces, shared with other tests: leave it as it was."""
    cluster = shared_cluster.get()
    yield cluster
    try:
        alive = cluster.client()[:].apply_async(os.getpid).get(timeout=20)
        assert len(alive) == 4
        cluster.close_clients()
    except (OSError, AssertionError, concurrent.futures.TimeoutError):
        shared_cluster.discard()
        raise


@pytest.fixture
def rc(cluster: Cluster) -> Client:
    """A client of the shared cluster, all namespaces cleared."""
    client = cluster.client()
    client[:].clear(block=True)
    return client


@pytest.fixture
def new_site() -> Iterator[Callable[..., Site]]:
    """Makes places for clusters of the test's own; they must be clean at its end."""
    sites: list[Site] = []

    def make(**env: str | None) -> Site:
        sites.append(Site(env))
        return sites[-1]

    yield make
    try:
        for site in sites:
            site.wait_until_nothing_remains()
    finally:
        for site in sites:
            site.remove()


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    """A place for clusters of the test's own."""
    return new_site()


@pytest.fixture
def new_cluster(new_site: Callable[..., Site]) -> Iterator[Callable[..., Cluster]]:
    """Starts clusters of the test's own: `new_cluster(engines, *flags, **Cluster's options, env={…}, site=…)`.

    Those that still run at the end of the test are stopped.
    """
    clusters: list[Cluster] = []

    def start(engines: int = 1, *flags: str, site: Site | None = None, env: Any = None, **options: Any) -> Cluster:
        clusters.append(Cluster(site or new_site(**(env or {})), engines, *flags, **options))
        return clusters[-1].start()

    yield start
    try:
        for cluster in clusters:
            cluster.stop()
    finally:
        for cluster in clusters:
            cluster.kill()


@pytest.fixture
def in_allocation(
    private_slurm: Slurm, new_site: Callable[..., Site]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in an allocation of a private Slurm: `in_allocation(salloc's flags, *command)`."""
    if is_hydra():
        pytest.skip("MPICH does not speak PMIx with srun here")
    chosen = dict.fromkeys(["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
    site = new_site(**chosen, **private_slurm.environment)
    return lambda flags, *command: site.run("salloc", *flags, *command, timeout=200)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB in memory."""
    if reason := no_small_file_system(tmp_path / "small"):
        pytest.skip(reason)
    with small_file_system(tmp_path / "small", 16) as path:
        yield path


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A fresh ``__main__``; ``exec(text, vars(main))`` is what a user types."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


@pytest.fixture(scope="module")
def needs_hosts() -> None:
    """Skips where no other hosts, or no memory that they would share, can be had."""
    if reason := missing() or no_large_file_system():
        pytest.skip(reason)


@pytest.fixture
def new_hosts(
    new_site: Callable[..., Site], new_cluster: Callable[..., Cluster], tmp_path: Path
) -> Callable[..., Cluster]:
    """Starts clusters of the test's own: names of the other hosts, ranks on each, variables by host."""

    def start(
        others: list[str], ranks: int, env: Mapping[str, Mapping[str, str]] | None = None, **options: str
    ) -> Cluster:
        hosts = Hosts(tmp_path, others, ranks, env)
        return new_cluster(hosts.engines, launcher=hosts.launcher, env=options)

    return start
