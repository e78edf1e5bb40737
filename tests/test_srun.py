"""Under a real srun: Slurm kills a step when its PMIx server loses a rank, and must not when an engine dies."""

from __future__ import annotations

import operator
import os
import signal
import sys
import time
from collections.abc import Callable

import pxcluster as ipp
import pytest
from harness.cluster import Cluster, Site
from harness.hosts import is_hydra
from harness.slurm import Slurm
from harness.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture
def environment(private_slurm: Slurm) -> dict[str, str]:
    """That of a private Slurm."""
    if is_hydra():
        pytest.skip("MPICH does not speak PMIx with srun here")
    return private_slurm.environment


@pytest.fixture
def cluster(environment: dict[str, str], new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(4, env=environment, launcher=("srun", "--mpi=pmix", "--kill-on-bad-exit=0"))


def test_a_step_is_a_cluster_and_ends_with_status_0(cluster: Cluster) -> None:
    rc = cluster.client()
    assert rc[:].apply_sync(os.getpid) == [engine["pid"] for engine in rc._session.registry.engines.values()]
    assert rc.load_balanced_view().map_sync(operator.neg, range(1000)) == [-n for n in range(1000)]
    cluster.stop()
    assert cluster.wait_ended() == 0, cluster.log()


def test_engines_die_and_the_step_goes_on_and_ends_with_status_0(cluster: Cluster) -> None:
    rc = cluster.client()
    victims = rc[[1, 3]].apply_sync(os.getpid)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: rc.ids == [0, 2], lambda: f"rc.ids is {rc.ids}")
    with pytest.raises(ipp.EngineError, match="SIGKILL"):
        rc[1].apply_sync(os.getpid)
    # Slurm takes about a second to see a lost connection, and then kills the step: one that is seen now was not lost.
    marks = rc[:].apply_async(time.sleep, 3.0)
    assert rc.load_balanced_view().map_sync(operator.neg, range(1000)) == [-n for n in range(1000)]
    assert marks.get(timeout=60) == [None, None]
    assert cluster.is_running()
    cluster.stop()
    assert cluster.wait_ended() == 0, cluster.log()
    assert "CANCELLED" not in cluster.log()


IN_AN_ALLOCATION = """
import pxcluster as ipp
with ipp.Cluster(engines="slurm") as rc:
    print(rc.ids, rc[:].apply_sync(abs, -1))
"""


def test_python_starts_a_cluster_in_an_allocation(environment: dict[str, str], new_site: Callable[..., Site]) -> None:
    site = new_site(**environment)
    done = site.run("salloc", "-n", "3", sys.executable, "-c", IN_AN_ALLOCATION, timeout=120)
    assert done.stdout == "[0, 1] [1, 1]\n", done.stderr
    site.wait_until_nothing_remains()
