"""Clients on a laptop, through ssh: ``Client(sshserver=…)``, with a real sshd."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Cluster, program
from harness.gates import Gate, pass_gate
from harness.peer import port_of
from harness.ssh import Sshd, missing
from pxcluster import Client

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if reason := missing():
        pytest.skip(reason)
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def laptop(sshd: Sshd, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host without any cluster, from which ssh leads to one that has them."""
    monkeypatch.setenv("PXCLUSTER_SSH", sshd.command)
    monkeypatch.setenv("PXCLUSTER_DIR", str(tmp_path))
    monkeypatch.setenv("PXCLUSTER_REMOTE", remote(cluster.site.env["PXCLUSTER_DIR"]))


def remote(directory: str) -> str:
    """The program on the other host, where clusters are in this directory."""
    return shlex.join(["env", f"PXCLUSTER_DIR={directory}", program("pxcluster")])


def use(rc: Client) -> None:
    assert rc.ids == [0, 1, 2, 3]
    rc[:]["data"] = b"x" * 5_000_000
    assert rc[0]["data"] == b"x" * 5_000_000
    assert rc.load_balanced_view().map_sync(abs, range(-100, 0)) == list(range(100, 0, -1))
    rc[:].clear(block=True)


def ssh_of(rc: Client) -> Any:
    way = rc._session._channel._way  # type: ignore[attr-defined]
    return way.process


@pytest.mark.usefixtures("laptop")
def test_a_client_does_everything_through_ssh() -> None:
    with Client(sshserver="login") as rc:
        use(rc)
        ssh = ssh_of(rc)
        assert ssh.poll() is None
    assert ssh.poll() is not None  # it has ended with the client


@pytest.mark.usefixtures("laptop")
def test_the_controller_may_be_on_a_third_host(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = cluster.connection()
    connection |= {"host": "node7", "addresses": [f"127.0.0.1:{port_of(connection)}"]}
    file = tmp_path / "far" / "connection.json"
    file.parent.mkdir()
    file.write_text(json.dumps(connection))
    file.chmod(0o600)
    monkeypatch.setenv("PXCLUSTER_REMOTE", remote(str(tmp_path)))
    with Client(sshserver="login", cluster_id="far") as rc:
        assert type(rc._session._channel).__name__ == "_SshTlsChannel"
        use(rc)


@pytest.mark.usefixtures("laptop")
def test_an_ssh_that_is_cut_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    with Client(sshserver="login") as rc, Gate(tmp_path / "gate") as gate:
        pids = rc[:].apply_sync(os.getpid)
        waiting = rc[:].apply_async(pass_gate, None, gate.folder)
        gate.wait_for_marks(4)
        first = ssh_of(rc)
        os.kill(first.pid, signal.SIGKILL)
        gate.open()
        assert waiting.get(timeout=60) == pids
        assert rc[:].apply_sync(abs, -1) == [1] * 4
        assert ssh_of(rc) is not first


@pytest.mark.usefixtures("laptop")
def test_what_is_wrong_on_the_way_is_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sshd: Sshd
) -> None:
    with pytest.raises(OSError, match=r"ssh login ended with 1: pxcluster: no cluster 'other' is running"):
        Client(sshserver="login", cluster_id="other")
    monkeypatch.setenv("PXCLUSTER_REMOTE", "/none/pxcluster")
    with pytest.raises(OSError, match=r"ssh login ended with 127: .*; PXCLUSTER_REMOTE names the program"):
        Client(sshserver="login")
    monkeypatch.setenv("PXCLUSTER_SSH", f"{sshd.command} -p 1")
    with pytest.raises(OSError, match=r"ssh login ended with 255: .*refused"):
        Client(sshserver="login")
    monkeypatch.setenv("PXCLUSTER_SSH", shlex.join([sys.executable, "-c", "print('hello')"]))
    with pytest.raises(OSError, match="ssh login ended with 0: it said nothing"):
        Client(sshserver="login")
    with pytest.raises(ValueError, match="name its cluster by cluster_id="):
        Client(str(tmp_path / "file"), sshserver="login")
