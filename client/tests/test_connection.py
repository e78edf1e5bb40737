from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess

import pxcluster
import pytest
from fake_controller import FakeController
from pxcluster import connection
from support import info_of


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PXCLUSTER_DIR", str(tmp_path))
    (tmp_path / "default").mkdir()
    return tmp_path


def write(directory, content, mode=0o600):
    path = directory / "default" / "connection.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_the_file_of_the_default_cluster_is_found(directory):
    fake = FakeController(directory / "s")
    write(directory, info_of(directory / "s"))
    with pxcluster.Client() as rc:
        assert rc.ids == [0, 1, 2, 3]
    with pxcluster.Client(directory / "default" / "connection.json") as rc:
        assert len(rc) == 4
    fake.close()


def test_a_missing_file_is_waited_for_and_named(directory, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("PXCLUSTER_DIR", "")
    with pytest.raises(OSError, match=r"Connection file '~/.pxcluster/x/connection.json' not found.\n"):
        pxcluster.Client(cluster_id="x", timeout=0.1)
    assert capsys.readouterr().out == "Waiting for connection file: ~/.pxcluster/x/connection.json, 00:00\n"


@pytest.mark.parametrize(
    ("content", "mode", "error", "message"),
    [
        ("{", 0o600, ValueError, "is not JSON"),
        ("[]", 0o600, ValueError, "no JSON object"),
        ({"protocol_version": 9, "version": "7"}, 0o600, pxcluster.VersionMismatch, "protocol version 9"),
        ({"protocol_version": 1}, 0o600, ValueError, "no usable field 'cluster_id'"),
        ("{}", 0o640, PermissionError, "can be read by others"),
    ],
)
def test_unusable_files(directory, content, mode, error, message):
    write(directory, content, mode)
    with pytest.raises(error, match=message) as raised:
        pxcluster.Client(timeout=0)
    assert "\n" not in str(raised.value)


def test_a_stale_file_names_the_dead_controller(directory):
    gone = subprocess.Popen(["true"])
    gone.wait()
    write(directory, info_of(directory / "nothing", pid=gone.pid))
    with pytest.raises(ConnectionRefusedError, match=f"is stale: its controller .process {gone.pid} on"):
        pxcluster.Client(timeout=0)


def test_bad_cluster_ids():
    with pytest.raises(ValueError, match="not usable"):
        connection.path_of("../x")


def certificate(directory, name):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    key, pem = directory / f"{name}.key", directory / f"{name}.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=pxcluster"
    subprocess.run([*command.split(), "-keyout", key, "-out", pem], check=True, capture_output=True)
    return key, pem


def test_tls_with_a_pinned_certificate(tmp_path):
    key, pem = certificate(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    fake = FakeController(None, tls=context)
    address = f"127.0.0.1:{fake.listener.getsockname()[1]}"
    info = info_of("", host="elsewhere", addresses=[address], certificate=pem.read_text())
    with pxcluster.Client(info) as rc:
        data = os.urandom(3 << 20)
        rc[:]["data"] = data
        assert rc[1]["data"] == data
        assert rc.load_balanced_view().map_sync(len, ["a"] * 500) == [1] * 500
    other = certificate(tmp_path, "other")[1].read_text()
    with pytest.raises(ConnectionRefusedError, match="no controller answers"):
        pxcluster.Client({**info, "certificate": other})
    fake.close()
