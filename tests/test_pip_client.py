"""`pip install ./client`: a machine that only talks to clusters needs neither Rust nor MPI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.cluster import Cluster
from harness.environments import make_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import importlib.util, shutil
import pxcluster as ipp
for program in ("cargo", "rustc", "mpicc", "mpirun", "pxcluster", "pxcluster-rank"):
    assert shutil.which(program) is None, program
assert importlib.util.find_spec("pxcluster._engine._pxengine") is None
with ipp.Client() as rc:
    print(rc.ids, rc[:].apply_sync(lambda: 6 * 7), rc.load_balanced_view().map_sync(abs, [-1, -2]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(sys.executable, tmp_path_factory.mktemp("client") / "venv")


def test_the_client_alone_works(python: Path, cluster: Cluster) -> None:
    env = {
        "PATH": str(python.parent),
        "HOME": str(python.parents[1]),
        "PXCLUSTER_DIR": cluster.site.env["PXCLUSTER_DIR"],
    }
    outcome = subprocess.run(
        [python, "-W", "error", "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert outcome.stdout == "[0, 1, 2, 3] [42, 42, 42, 42] [1, 2]\n", outcome.stderr


def test_it_is_typed_and_has_a_version(python: Path) -> None:
    question = """
import pathlib, pxcluster
print(pxcluster.__version__, (pathlib.Path(pxcluster.__file__).parent / "py.typed").exists())
"""
    outcome = subprocess.run([python, "-c", question], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stdout == "0.1.0 True\n"


def test_without_a_cluster_it_names_the_file_it_misses(python: Path, tmp_path: Path) -> None:
    env = {"PATH": str(python.parent), "HOME": str(tmp_path), "PXCLUSTER_DIR": str(tmp_path)}
    question = "import pxcluster; pxcluster.Client(timeout=0.1)"
    outcome = subprocess.run([python, "-c", question], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 1
    assert "default/connection.json' not found" in outcome.stderr
