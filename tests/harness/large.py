"""Large arrays, clients near and far that send them, and what becomes of the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from pxcluster import Client

from .cluster import Cluster
from .memory import shared_bytes
from .peer import port_of
from .waiting import wait_for

#: How a client reaches its cluster: from the same host, or from another one.
LINKS = ["unix", "tls"]


def data(size: int, seed: int = 1) -> np.ndarray:
    """So many bytes, other ones for each seed."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def connection_over(cluster: Cluster, link: str) -> dict[str, Any]:
    """The content of the connection file as it looks over a link."""
    connection = cluster.connection()
    if link == "tls":
        connection |= {"host": "another-host", "addresses": [f"127.0.0.1:{port_of(connection)}"]}
    return connection


def client_over(cluster: Cluster, link: str) -> Client:
    """A client that is closed with the cluster."""
    return cluster.client(connection_info=connection_over(cluster, link))


def sums(rc: Client, expression: str) -> list[int]:
    """A whole number on every engine."""
    found: list[int] = rc[:][f"int({expression})"]
    return found


def pid_of(rc: Client, engine: int) -> int:
    """An engine's process."""
    pid: int = rc._session.registry.engines[engine]["pid"]
    return pid


def controller_of(cluster: Cluster) -> int:
    """The process of rank 0."""
    pid: int = cluster.connection()["pid"]
    return pid


def wait_until_given_back(*pids: int) -> None:
    """Until the shared files of these processes' nodes have no page any more; freed ones are kept for ten seconds."""

    def left() -> list[int]:
        return [shared_bytes(pid) for pid in pids]

    wait_for(lambda: not any(left()), lambda: f"{left()} bytes should have been given back")
