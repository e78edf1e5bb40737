"""The pages of docs/api: what they show is what happens, and no method of a class is missing from its page."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pxcluster
import pytest
from harness.cluster import Cluster
from pxcluster import Client

PAGES = Path(__file__).parents[1] / "docs" / "api"
NAMES = sorted(path.name for path in PAGES.glob("*.md") if path.name != "README.md")
CLASSES = {
    "client.md": [pxcluster.Client],
    "cluster.md": [pxcluster.Cluster, pxcluster.ClusterManager],
    "direct-view.md": [pxcluster.DirectView, pxcluster.BroadcastView],
    "load-balanced-view.md": [pxcluster.LoadBalancedView],
    "async-result.md": [pxcluster.AsyncResult, pxcluster.AsyncMapResult],
}


@pytest.mark.parametrize("page", NAMES)
def test_the_examples_of_a_page_are_true(cluster: Cluster, rc: Client, page: str) -> None:
    program = Path(__file__).parent / "harness" / "examples.py"
    done = subprocess.run(
        [sys.executable, program, PAGES / page],
        env=cluster.site.env,
        cwd=cluster.site.base,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 5


@pytest.mark.parametrize(("page", "made"), [(page, made) for page, classes in CLASSES.items() for made in classes])
def test_a_page_names_everything_public(page: str, made: type) -> None:
    text = (PAGES / page).read_text()
    names = [name for name, _ in inspect.getmembers(made) if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_page_is_listed() -> None:
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (PAGES / "README.md").read_text())
    assert sorted(listed) == NAMES
