"""What each engine is given of its node: cores, threads, GPUs; whoever starts it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Cluster, Site
from harness.hosts import Hosts, is_hydra
from pxcluster import interactive

pytestmark = pytest.mark.timeout(300)

CORES = sorted(os.sched_getaffinity(0))
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="two cores are needed to share them out")
#: Chosen by whoever runs the tests, perhaps.
UNSET: dict[str, Any] = dict.fromkeys(["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])


@interactive
def share() -> tuple[list[int], str | None, str | None]:
    """CPUs, OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES of an engine."""
    import os

    return sorted(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES")


def shares(cluster: Cluster) -> list[tuple[list[int], str | None, str | None]]:
    found: list[tuple[list[int], str | None, str | None]] = cluster.client()[:].apply_sync(share)
    return found


@interactive
def cores_of_a_child() -> list[int]:
    """Those of a process that an engine has started."""
    import subprocess
    import sys

    code = "import os; print(*sorted(os.sched_getaffinity(0)))"
    return [int(cpu) for cpu in subprocess.check_output([sys.executable, "-c", code]).split()]


@needs_two_cores
@pytest.mark.smoke
def test_an_engine_leaves_a_core_to_the_controller(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(1, env=UNSET)
    [(cores, threads, gpus)] = shares(cluster)
    assert set(cores) < set(CORES)
    assert threads is not None
    assert 1 <= int(threads) <= len(cores)
    assert gpus is None
    assert sorted(os.sched_getaffinity(cluster.connection()["pid"])) == CORES, "the controller may run anywhere"
    assert cluster.client()[0].apply_sync(cores_of_a_child) == cores


@pytest.mark.smoke
def test_more_ranks_than_cores_are_not_bound(new_cluster: Callable[..., Cluster]) -> None:
    engines = len(CORES)
    if engines > 8:
        pytest.skip("so many engines take too long to start")
    cluster = new_cluster(engines, env=UNSET)
    assert shares(cluster) == [(CORES, "1", None)] * engines


@pytest.mark.smoke
def test_what_the_user_has_chosen_stays(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2, env={"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "3"})
    assert [(threads, gpus) for _, threads, gpus in shares(cluster)] == [("7", "3")] * 2


@pytest.mark.smoke
def test_gpus_are_dealt_in_turn(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(3, env={**UNSET, "CUDA_VISIBLE_DEVICES": "4,GPU-6"})
    assert [gpus for _, _, gpus in shares(cluster)] == ["4", "GPU-6", "4"]


@pytest.mark.smoke
def test_a_flag_leaves_all_as_it_is(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(1, "--no-bind", env={**UNSET, "CUDA_VISIBLE_DEVICES": "4,5"})
    assert shares(cluster) == [(CORES, None, "4,5")]


@needs_two_cores
def test_what_mpirun_has_bound_stays(new_cluster: Callable[..., Cluster]) -> None:
    binding = ("-bind-to", "core") if is_hydra() else ("--bind-to", "core")
    cluster = new_cluster(1, launcher=("mpirun", *binding), env=UNSET)
    [(cores, threads, _)] = shares(cluster)
    assert set(cores) < set(CORES)
    assert threads == "1"
    assert os.sched_getaffinity(cluster.connection()["pid"]).isdisjoint(cores), "mpirun binds rank 0, too"


@needs_two_cores
def test_cores_that_mpirun_itself_was_given_are_shared(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(1, launcher=("taskset", "--cpu-list", str(CORES[-1]), "mpirun"), env=UNSET)
    assert shares(cluster) == [(CORES[-1:], "1", None)]


@pytest.mark.usefixtures("needs_hosts")
@pytest.mark.smoke
def test_each_host_counts_its_own_engines(new_hosts: Callable[..., Cluster]) -> None:
    cluster = new_hosts(["n1"], 3, env={"n1": {"CUDA_VISIBLE_DEVICES": "0,1,2"}}, **UNSET)
    gpus = [gpus for _, _, gpus in shares(cluster)]
    assert gpus == [None, None, "0", "1", "2"]


@pytest.mark.usefixtures("needs_hosts")
@pytest.mark.smoke
def test_engines_per_node(site: Site, tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, ["n1", "n2"], 1)
    (tmp_path / "hosts").write_text("".join(f"{name}\n" for name in hosts.names))
    # How the launchers are led to these hosts.
    agent = " ".join(hosts.launcher[1:5] if is_hydra() else hosts.launcher[1:4])
    start = ["--hostfile", str(tmp_path / "hosts"), "--engines-per-node", "2", "--launcher-args", agent]
    script = "import pxcluster as ipp, socket; print(*ipp.Client()[:].apply_sync(socket.gethostname))"
    done = site.run("pxcluster", "run", *start, "--", "-c", script, timeout=200)
    assert done.stdout.split() == [hosts.names[0]] * 2 + ["n1"] * 2 + ["n2"] * 2, done.stderr


@pytest.mark.smoke
def test_the_first_free_port_of_a_range(site: Site) -> None:
    cluster = Cluster(site, 1, "--port", "20000-29999")
    try:
        mine = int(cluster.start().connection()["addresses"][0].rpartition(":")[2])
        assert 20000 <= mine <= 29999
        code = "import pxcluster as ipp; print(ipp.Client()._info['addresses'][0].rpartition(':')[2])"

        def run_beside(ports: str) -> subprocess.CompletedProcess[str]:
            return site.run("pxcluster", "run", "-n", "1", "--port", ports, "--", "-c", code, timeout=200)

        assert mine < int(run_beside(f"{mine}-29999").stdout) <= 29999
        refused = run_beside(str(mine))
        assert refused.returncode == 1
        assert f"did not start: cannot listen on TCP port {mine}: Address already in use" in refused.stderr
        cluster.stop()
    finally:
        cluster.kill()


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("engines", "flags", "gpus"),
    [
        ("2", ["--launcher", "srun"], "0 1"),
        ("2", ["--launcher", "mpirun"], "0 1"),
        ("1", ["--launcher", "mpirun"], "0,1"),
        ("1", ["--launcher", "srun", "--launcher-args", "--gpus-per-task=1"], "1"),  # rank 0 has the other one
    ],
)
def test_gpus_of_a_job(
    in_allocation: Callable[..., Any], engines: str, flags: list[str], gpus: str, tmp_path: Path
) -> None:
    script = tmp_path / "show.py"
    script.write_text(
        "import os, pxcluster as ipp\n"
        "rc = ipp.Client()\n"
        "print(*rc[:].apply_sync(os.getenv, 'CUDA_VISIBLE_DEVICES'))\n"
        "print(*rc[:].apply_sync(os.getenv, 'OMP_NUM_THREADS'))\n"
    )
    done = in_allocation(["-n", "3", "--gres=gpu:2"], "pxcluster", "run", "-n", engines, *flags, str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [gpus, " ".join("1" * int(engines))]
