from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pxcluster
import pytest
from fake_controller import KEY, FakeController


def info_of(path, **changes):
    """The content of a connection file for a fake controller at `path`."""
    info = {
        "protocol_version": 1,
        "version": "0.1.0",
        "cluster_id": "default",
        "key": KEY,
        "certificate": "",
        "addresses": [],
        "socket": str(path),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "engines": 4,
        "python": "3.11",
        "slurm_job_id": None,
        "started": 1.0,
    }
    return {**info, **changes}


def child(code):
    """Run `code` in a fresh interpreter that finds the package and these helpers."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent / 'src'}:{here}"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.fixture
def controller(tmp_path):
    fake = FakeController(tmp_path / "socket")
    yield fake
    fake.close()
    assert fake.errors == []


@pytest.fixture
def rc(controller, tmp_path):
    with pxcluster.Client(info_of(tmp_path / "socket")) as client:
        yield client


@pytest.fixture
def dv(rc):
    return rc[:]


@pytest.fixture
def lbv(rc):
    return rc.load_balanced_view()
