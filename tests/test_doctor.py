"""`pxcluster doctor`: a whole installation is well, and each thing that keeps a cluster from starting has its mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.cluster import Cluster, Site
from harness.environments import pretend_program
from harness.slurm import Slurm

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(300)]

VERSIONS = {"Open MPI": "mpirun (Open MPI) 4.1.4", "MPICH": "HYDRA build details:"}


def doctor(site: Site, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What it prints, with time for every program however loaded the machine is."""
    outcome = site.run("pxcluster", "doctor", "--timeout", "100", *flags, timeout=250, env=site.env | env)
    assert outcome.stderr == ""
    return outcome


def line(outcome: subprocess.CompletedProcess[str], word: str, part: str) -> str:
    """The only line that begins with a word and has a part."""
    lines = [line for line in outcome.stdout.splitlines() if line.startswith(f"{word:<8}") and part in line]
    assert len(lines) == 1, outcome.stdout
    return lines[0]


def built_with(site: Site) -> str:
    described = json.loads(site.run("pxcluster-rank", "--describe").stdout)
    return {"openmpi": "Open MPI", "mpich": "MPICH"}[described["mpi"]]


def test_a_whole_installation_has_no_problem(site: Site) -> None:
    outcome = doctor(site)
    assert outcome.returncode == 0, outcome.stdout
    assert "PROBLEM" not in outcome.stdout
    assert f"was built with {built_with(site)}" in line(outcome, "ok", "pxcluster-rank works")
    line(outcome, "ok", f"is {built_with(site)}'s, as pxcluster-rank needs it")
    line(outcome, "ok", "starts two processes")
    line(outcome, "ok", f"engines run Python {'.'.join(map(str, sys.version_info[:3]))} at {sys.prefix}/bin/")
    line(outcome, "ok", "is installed there, as this program")
    line(outcome, "ok", "python3 on PATH is the engines' Python")
    line(outcome, "ok", f"{site.directory} is yours alone")
    assert " checks, " in outcome.stdout.splitlines()[-1]
    site.wait_until_nothing_remains()


def test_programs_read_json(site: Site) -> None:
    findings = json.loads(doctor(site, "--json").stdout)
    checks = {finding["check"] for finding in findings}
    assert {"rank program", "mpirun", "interpreter", "directory", "shared memory", "ulimits", "srun"} <= checks
    assert {finding["verdict"] for finding in findings} <= {"ok", "warning"}
    assert all((finding["mend"] is None) == (finding["verdict"] == "ok") for finding in findings)


def test_a_running_cluster_is_named(site: Site) -> None:
    cluster = Cluster(site, 1).start()
    try:
        line(doctor(site), "ok", "connection files: 'default' runs on this host")
        cluster.stop()
    finally:
        cluster.kill()


def test_two_mpis_on_path(site: Site, tmp_path: Path) -> None:
    (other,) = VERSIONS.keys() - {built_with(site)}
    mpirun = pretend_program(tmp_path / "mpirun", f"echo '{VERSIONS[other]}'")
    mixed = doctor(site, PATH=f"{tmp_path}{os.pathsep}{site.env['PATH']}")
    assert mixed.returncode == 0, "`pxcluster start` takes the right one"
    assert f"{mpirun} is {other}'s" in line(mixed, "warning", "two MPIs are mixed on PATH")
    assert "use `pxcluster start`" in line(mixed, "warning", "two MPIs are mixed on PATH")
    wrong = doctor(site, "--mpirun", str(mpirun))
    assert wrong.returncode == 1
    assert "use the mpirun of that MPI" in line(wrong, "PROBLEM", f"{mpirun} is {other}'s, but this pxcluster")


def test_no_rank_program(site: Site, tmp_path: Path) -> None:
    missing = doctor(site, PXCLUSTER_RANK_PROGRAM=str(tmp_path / "none"))
    assert missing.returncode == 1
    assert "or set PXCLUSTER_RANK_PROGRAM" in line(missing, "PROBLEM", f"{tmp_path / 'none'} does not exist")


def test_a_directory_that_cannot_be_used(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    paths, mend = [file, file / "below"], "set PXCLUSTER_DIR to a directory of your own"
    if os.getuid() != 0:  # who may read everything
        closed = tmp_path / "closed"
        closed.mkdir(mode=0)
        paths.append(closed)
    for path in paths:
        unusable = doctor(site, PXCLUSTER_DIR=str(path))
        assert unusable.returncode == 1
        assert mend in line(unusable, "PROBLEM", f"clusters cannot keep their files in {path}")


def test_a_python_without_the_package(site: Site, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    bare = doctor(site, "--python", str(python))
    assert bare.returncode == 1
    assert f"`{python} -m pip install .`" in line(bare, "PROBLEM", f"package is not installed for {python}")


def test_a_program_that_is_no_python(site: Site, tmp_path: Path) -> None:
    nonsense = doctor(site, PXCLUSTER_PYTHON=str(pretend_program(tmp_path / "python", "echo 42")))
    assert nonsense.returncode == 1
    assert "name one with --python" in line(nonsense, "PROBLEM", "does not answer as a Python interpreter does")


@pytest.mark.slurm
def test_srun_names_the_plugin_of_this_mpi(site: Site, private_slurm: Slurm) -> None:
    outcome = doctor(site, **private_slurm.environment)
    plugin = {"Open MPI": "pmix", "MPICH": "pmi2"}[built_with(site)]
    line(outcome, "ok", f"steps are started with `srun --mpi={plugin} pxcluster`")
