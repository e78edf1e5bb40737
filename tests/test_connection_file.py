"""The connection file as a client meets it: by TLS from another host, damaged, exposed, of another cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pxcluster as ipp
import pytest
from harness.cluster import Cluster, Site
from harness.peer import port_of
from pxcluster import Client

pytestmark = pytest.mark.smoke


def write(path: Path, content: Any, mode: int = 0o600) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return str(path)


def from_another_host(connection: dict[str, Any]) -> dict[str, Any]:
    """The file as it looks from another host: TLS is the only way."""
    return connection | {"host": "another-host", "addresses": [f"127.0.0.1:{port_of(connection)}"]}


def refusal(connection_file: str) -> str:
    """What a client says of the file: one line."""
    with pytest.raises((OSError, ValueError, ipp.error.IPythonError)) as caught:
        Client(connection_info=connection_file, timeout=1)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_tls_does_everything_that_the_socket_does(cluster: Cluster, tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", from_another_host(cluster.connection()))
    with cluster.client(connection_info=file) as client:
        assert client.ids == [0, 1, 2, 3]
        client[:]["data"] = b"x" * 5_000_000
        assert client[:].pull("len(data)", block=True) == [5_000_000] * 4
        assert client.load_balanced_view().map_sync(abs, range(-100, 0)) == list(range(100, 0, -1))
        assert client[0]["data"] == b"x" * 5_000_000


def test_addresses_are_tried_in_order(cluster: Cluster, tmp_path: Path) -> None:
    connection = from_another_host(cluster.connection())
    connection["addresses"] = ["127.0.0.1:1", *connection["addresses"]]
    with cluster.client(connection_info=write(tmp_path / "c.json", connection)) as client:
        assert client.ids == [0, 1, 2, 3]


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that says nothing at all, as behind a firewall: the queue of who waits there is full."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield "{}:{}".format(*listener.getsockname())


def test_an_address_that_leads_nowhere_does_not_use_up_the_time(cluster: Cluster, tmp_path: Path, nowhere: str) -> None:
    connection = from_another_host(cluster.connection())
    connection["addresses"] = [*[nowhere] * 12, *connection["addresses"]]
    with cluster.client(connection_info=write(tmp_path / "c.json", connection), timeout=10) as client:
        assert client.ids == [0, 1, 2, 3]
    connection["addresses"] = [nowhere]
    assert nowhere in refusal(write(tmp_path / "c.json", connection))


def test_addresses_are_those_that_are_to_be_advertised(new_cluster: Callable[..., Cluster]) -> None:
    one = new_cluster(1, "--interface", "lo").connection()["addresses"]
    assert [address.partition(":")[0] for address in one] == ["127.0.0.1"]
    cluster = new_cluster(1, "--advertise", "login.example.org:8022,127.0.0.1")
    first, second = cluster.connection()["addresses"]
    assert first == "login.example.org:8022"
    assert second == f"127.0.0.1:{port_of(cluster.connection())}"


def test_an_interface_that_is_not_there_is_refused(site: Site) -> None:
    command = ["pxcluster", "start", "-n", "1", "--interface", "nope0"]
    refused = subprocess.run(command, env=site.env, capture_output=True, text=True, timeout=100)
    assert refused.returncode == 1
    assert "--interface nope0: no interface of this name is up" in refused.stderr


def test_a_missing_socket_means_tls(cluster: Cluster, tmp_path: Path) -> None:
    connection = from_another_host(cluster.connection())
    connection |= {"host": cluster.connection()["host"], "socket": str(tmp_path / "gone.sock")}
    with cluster.client(connection_info=write(tmp_path / "c.json", connection)) as client:
        assert client.ids == [0, 1, 2, 3]


def test_another_certificate_is_refused(cluster: Cluster, new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    connection = from_another_host(cluster.connection())
    connection["certificate"] = new_cluster(1).connection()["certificate"]
    assert "certificate" in refusal(write(tmp_path / "c.json", connection))


def test_another_key_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    for connection in (cluster.connection(), from_another_host(cluster.connection())):
        assert "key" in refusal(write(tmp_path / "c.json", connection | {"key": "0" * 64}))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(cluster: Cluster, tmp_path: Path, mode: int) -> None:
    file = write(tmp_path / "c.json", cluster.connection(), mode)
    assert file in refusal(file)


def test_a_file_of_another_version_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", cluster.connection() | {"protocol_version": 99})
    assert "99" in refusal(file)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"text"', "{}", '{"protocol_version": 1}', "\0\1\2", "[" * 10_000],
    ids=range(9),
)
def test_a_file_that_is_no_connection_file_is_refused(tmp_path: Path, content: str) -> None:
    file = write(tmp_path / "c.json", content)
    assert file in refusal(file)


@pytest.mark.parametrize("key", ["key", "certificate", "addresses", "socket", "host"])
@pytest.mark.parametrize("value", [None, 7, {}])
def test_a_file_with_a_wrong_value_is_refused(cluster: Cluster, tmp_path: Path, key: str, value: Any) -> None:
    file = write(tmp_path / "c.json", from_another_host(cluster.connection()) | {key: value})
    assert file in refusal(file)


def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "nowhere")
    assert str(directory) in refusal(str(directory))
    for path in (dangling, tmp_path / "missing.json", tmp_path / "no" / "folder.json"):
        with pytest.raises(OSError, match="no controller could be found") as caught:
            Client(connection_info=str(path), timeout=0.1)
        assert str(caught.value).startswith(f"Connection file '{path}' not found.")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", "{}", 0o000)
    assert file in refusal(file)


def test_the_default_is_the_default_cluster_of_the_directory(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PXCLUSTER_DIR", str(cluster.site.directory))
    with Client() as client:
        assert client.ids == [0, 1, 2, 3]
    with Client(cluster_id="default") as client:
        assert client.ids == [0, 1, 2, 3]
    with pytest.raises(OSError, match="no-such-cluster"):
        Client(cluster_id="no-such-cluster", timeout=0.1)
