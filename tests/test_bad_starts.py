"""Starts that cannot succeed say why in one sentence, with the real mpirun, ssh and srun."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Site, program
from harness.hosts import is_hydra
from harness.slurm import Slurm

pytestmark = pytest.mark.timeout(300)


@pytest.mark.smoke
def test_a_host_that_nobody_knows_is_the_first_thing_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("no-such-host.invalid\n")
    failed = site.run("pxcluster", "start", "-n", "1", "--hostfile", str(tmp_path / "hosts"), timeout=200)
    assert failed.returncode == 1
    assert failed.stderr.startswith("pxcluster: the cluster did not start: host no-such-host"), failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    site.wait_until_nothing_remains()


@pytest.mark.smoke
def test_the_mpirun_of_another_mpi(site: Site) -> None:
    other = shutil.which("mpirun.openmpi" if is_hydra() else "mpiexec.mpich")
    if other is None:
        pytest.skip("there is one MPI here")
    refused = site.run("pxcluster", "start", "-n", "1", "--mpirun", other)
    assert refused.returncode == 1
    assert "but this pxcluster was built with" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    direct = subprocess.run(
        [other, "-n", "2", program("pxcluster")], env=site.env, capture_output=True, text=True, timeout=100
    )
    assert direct.returncode != 0
    assert "2 ranks were started by another MPI's launcher: start it with " in direct.stderr


@pytest.mark.slurm
def test_a_job_that_has_no_room_or_is_over(in_allocation: Callable[..., Any], site: Site, private_slurm: Slurm) -> None:
    full = in_allocation(["-n", "2"], "pxcluster", "start", "-n", "4", "--launcher", "srun")
    assert full.returncode == 1
    assert "has no room for so many ranks (srun: More processors requested than permitted)" in full.stderr
    over = {"SLURM_JOB_ID": "999999", "SLURM_JOBID": "999999", "SLURM_JOB_NODELIST": "n1", "SLURM_NODELIST": "n1"}
    over |= {"SLURM_TASKS_PER_NODE": "2", "SLURM_NNODES": "1", **private_slurm.environment}
    for launcher in ("mpirun", "srun"):
        failed = site.run("pxcluster", "start", "-n", "1", "--launcher", launcher, env=site.env | over, timeout=200)
        assert failed.returncode == 1
        sentence = "pxcluster: the cluster did not start: job 999999, which SLURM_JOB_ID names, is over; "
        assert failed.stderr.startswith(sentence), failed.stderr


@pytest.mark.slurm
def test_srun_with_another_protocol_is_told_of(in_allocation: Callable[..., Any]) -> None:
    failed = in_allocation(["-n", "2"], "srun", "--mpi=pmi2", "-n", "2", "pxcluster")
    assert failed.returncode != 0
    words = [line for line in failed.stderr.splitlines() if line.startswith("pxcluster: ")]
    assert "`srun --mpi=pmix` or mpirun is right" in words[0]
    start = in_allocation(["-n", "2"], "pxcluster", "start", "--launcher", "srun", "--launcher-args", "--mpi=none")
    assert start.returncode == 1
    assert "did not start: srun and this Open MPI do not understand each other; `srun --mpi=pmix`" in start.stderr
