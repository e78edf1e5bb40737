"""Nobody without the connection file gets in, and nothing that a stranger sends harms the cluster."""

from __future__ import annotations

import os
import pickle
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Cluster, running_alone
from harness.peer import Peer, encode, tcp, tls, tls_context, unix
from harness.waiting import wait_for

pytestmark = pytest.mark.smoke

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def open_cluster() -> Iterator[Cluster]:
    """Two engines and a log that tells of every connection."""
    with running_alone(2, "--log", "info") as cluster:
        yield cluster


@pytest.fixture
def attacked(open_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster before an attack; after it, it must do its work as before."""
    yield open_cluster
    assert open_cluster.is_running(), open_cluster.log()
    with open_cluster.client() as client:
        assert client.ids == [0, 1]
        assert len(set(client[:].apply_async(os.getpid).get(timeout=30))) == 2
        assert client.load_balanced_view().map_async(abs, [-1, -2, -3]).get(timeout=30) == [1, 2, 3]
    assert "internal error" not in open_cluster.log()


def logged(cluster: Cluster, before: str, *words: str) -> None:
    """Waits for a line with all these words that was not in the log before."""

    def found() -> bool:
        lines = cluster.log()[len(before) :].splitlines()
        return any(all(word in line for word in words) for line in lines)

    wait_for(found, lambda: f"{words} in the log: {cluster.log()[len(before) :]}", 30)


@pytest.mark.parametrize("connect", [unix, tls])
def test_a_wrong_key_is_refused(attacked: Cluster, connect: Callable[..., Any]) -> None:
    before = attacked.log()
    for key in ("", "0" * 64, "é"):
        with Peer(connect(attacked.connection()), attacked.connection()) as peer:
            answer = peer.hello(key=key)
            assert answer["type"] == "refused"
            assert "the key is wrong" in answer["reason"]
            assert peer.is_closed_by_the_other_side()
    logged(attacked, before, "refused", "the key is wrong")
    assert attacked.connection()["key"] not in attacked.log()


@pytest.mark.parametrize("version", [0, 2])
def test_another_protocol_version_is_refused(attacked: Cluster, version: int) -> None:
    before = attacked.log()
    with Peer(unix(attacked.connection()), attacked.connection()) as peer:
        answer = peer.hello(protocol_version=version)
        assert answer["type"] == "refused"
        assert f"protocol version {version}" in answer["reason"]
        assert peer.is_closed_by_the_other_side()
    logged(attacked, before, "refused", f"protocol version {version}")


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0" * 8, b"\xff" * 1000, HTTP, b"\x16\x03\x01"],
    ids=["nothing", "zeros", "garbage", "http", "half a TLS record"],
)
def test_strangers_on_the_tcp_port(attacked: Cluster, sent: bytes) -> None:
    before = attacked.log()
    with tcp(attacked.connection()) as scanner:
        scanner.sendall(sent)
    logged(attacked, before, "127.0.0.1", "refused")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", ["handshake"]),
        (b"\xff" * 1000, ["refused", "announces a header of"]),
        (HTTP, ["refused", "announces a header of"]),
        (struct.pack("<II", 10, 0) + b"[1, 2, 3]!", ["refused", "cannot be understood"]),
        (struct.pack("<II", 10, 1), ["refused", "announces 1 buffers"]),
        (encode({"type": "shutdown", "id": 1}), ["refused", "first frame is not `hello`"]),
        (b"abc", ["gone during the handshake"]),
    ],
    ids=["nothing", "garbage", "http", "no object", "a buffer", "no hello", "half a frame"],
)
@pytest.mark.parametrize("connect", [unix, tls])
def test_strangers_past_the_socket(
    attacked: Cluster, connect: Callable[..., Any], sent: bytes, words: list[str]
) -> None:
    before = attacked.log()
    with connect(attacked.connection()) as stranger:
        stranger.sendall(sent)
    logged(attacked, before, *words)


def test_the_protocol_without_tls_is_refused_on_the_tcp_port(attacked: Cluster) -> None:
    before, connection = attacked.log(), attacked.connection()
    with Peer(tcp(connection), connection) as peer:
        peer.send({"type": "hello", "key": connection["key"], "protocol_version": 1})
        peer.socket.settimeout(30)
        answer = peer.socket.recv(100)  # at most a TLS alert
        assert b"welcome" not in answer
    logged(attacked, before, "refused: no TLS 1.3 handshake")


def test_old_tls_is_refused(attacked: Cluster) -> None:
    before = attacked.log()
    with tcp(attacked.connection()) as connected, pytest.raises((ssl.SSLError, ConnectionError)):
        tls_context(ssl.TLSVersion.TLSv1_2).wrap_socket(connected)
    logged(attacked, before, "refused: no TLS 1.3 handshake")


@pytest.mark.slow
def test_peers_that_stop_half_way_hold_up_nobody(attacked: Cluster) -> None:
    before = attacked.log()
    client_hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        tls_context().wrap_bio(ssl.MemoryBIO(), client_hello).do_handshake()
    half = client_hello.read()[:100]
    stalled = [tcp(attacked.connection()) for _ in range(20)]
    silent = [tls(attacked.connection()) for _ in range(20)]
    try:
        for peer in stalled:
            peer.sendall(half)
        with Peer(tls(attacked.connection()), attacked.connection()) as peer:
            assert peer.hello()["type"] == "welcome"
        logged(attacked, before, "no TLS handshake within")
        logged(attacked, before, "no handshake within")
    finally:
        for connected in [*stalled, *silent]:
            connected.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 1000,
        encode({"type": "nonsense", "id": 1}),
        encode({"id": 1}),
        encode({"type": "direct", "id": -1, "kind": "apply", "targets": None}),
        encode({"type": "direct", "id": 1, "kind": "conquer", "targets": None}),
        encode({"type": "direct", "id": 1, "kind": "apply", "targets": [-1]}),
        struct.pack("<II", 4, 0) + b"\xff\xfe{}",
        struct.pack("<IIQ", 2, 1, 1 << 60) + b"{}",
    ],
    ids=["garbage", "type", "no type", "negative id", "kind", "negative target", "no UTF-8", "endless buffer"],
)
def test_garbage_after_the_key_ends_that_connection_only(attacked: Cluster, sent: bytes) -> None:
    before, connection = attacked.log(), attacked.connection()
    with Peer(tls(connection), connection) as peer:
        assert peer.hello()["type"] == "welcome"
        peer.socket.sendall(sent)
        assert peer.is_closed_by_the_other_side()
    logged(attacked, before, "cut off")


BAD_REQUESTS: list[tuple[dict[str, Any], list[bytes]]] = [
    ({"type": "direct", "kind": "apply", "targets": [7]}, [b"x"]),
    ({"type": "direct", "kind": "apply", "targets": [4_294_967_295]}, [b"x"]),
    ({"type": "direct", "kind": "apply", "targets": []}, [b"x"]),
    ({"type": "direct", "kind": "apply", "targets": None}, []),
    ({"type": "direct", "kind": "apply", "targets": None}, [b"no pickle"]),
    ({"type": "direct", "kind": "execute", "targets": [1]}, [pickle.dumps({"wrong": 1})]),
    ({"type": "direct", "kind": "push", "targets": [0, 0]}, [pickle.dumps(3)]),
    ({"type": "map", "tasks": 3, "targets": None, "label": None, "retries": 0}, []),
    ({"type": "map", "tasks": 3, "targets": None, "label": None, "retries": 0}, [b"f", b"\xff" * 32, b"abc"]),
    (
        {"type": "map", "tasks": 1, "targets": None, "label": None, "retries": 0},
        [b"f", struct.pack("<QQ", 0, 9), b"abc"],
    ),
    ({"type": "map", "tasks": 4_294_967_295, "targets": None, "label": None, "retries": 0}, [b"f", b"", b""]),
    (
        {"type": "map", "tasks": 1, "targets": [9], "label": None, "retries": 0},
        [b"f", struct.pack("<QQ", 0, 1), b"a"],
    ),
    (
        {"type": "map", "tasks": 1, "targets": None, "label": None, "retries": 0},
        [b"f", struct.pack("<QQ", 0, 1), b"a"],
    ),
]


@pytest.mark.parametrize(
    ("header", "buffers"),
    BAD_REQUESTS,
    ids=[f"{header['type']}{number}" for number, (header, _) in enumerate(BAD_REQUESTS)],
)
def test_a_bad_request_is_answered_by_an_error(attacked: Cluster, header: dict[str, Any], buffers: list[bytes]) -> None:
    connection = attacked.connection()
    with Peer(unix(connection), connection) as peer:
        peer.hello()
        peer.send(header | {"id": 1}, *buffers)
        answer, body = peer.answer_to(1)
        if answer["type"] == "results":
            assert set(body[2]) == {1}
        elif answer["type"] == "reply":
            assert answer["status"] == 1
        else:
            assert answer["type"] == "failed"
            assert answer["message"]
        peer.send({"type": "status", "id": 2})
        assert peer.answer_to(2)[0]["type"] == "status"


def test_files_are_for_their_owner_alone(open_cluster: Cluster) -> None:
    connection = open_cluster.connection()
    file, socket = open_cluster.connection_file, Path(connection["socket"])
    modes = {path: path.stat().st_mode & 0o777 for path in (file, file.parent, socket, socket.parent)}
    assert modes == {file: 0o600, file.parent: 0o700, socket: 0o600, socket.parent: 0o700}
    assert all(path.stat().st_uid == os.getuid() for path in modes)


def test_no_secret_is_on_a_command_line_or_in_an_environment(open_cluster: Cluster) -> None:
    key = open_cluster.connection()["key"]
    for process in open_cluster.site.processes():
        assert key not in process.command
        assert key.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
