"""Large arrays, clients near and far that send them, and what becomes of the memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pxcluster import Client

from .cluster import Cluster
from .memory import shared_bytes
from .peer import port_of
from .processes import is_stopped
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


#: Sends 200 MB of ones to all engines. Having written a portion it says so, and goes on when it is told.
UPLOAD = """
import json, sys
import numpy as np
import pxcluster as ipp
from pxcluster import channel, sharedmemory

PORTION = 20 << 20

def pause():
    print("uploading", flush=True)
    sys.stdin.readline()

def write(self, place, is_warm, buffer, told):
    bytes_ = memoryview(buffer).cast("B")
    real_write(self, place, is_warm, bytes_[:PORTION], told)
    pause()
    real_write(self, place + PORTION, False, bytes_[PORTION:], told)

def flush(self):
    global flushes
    flushes += 1
    if flushes == 100:  # of 256 KB
        pause()
    return real_flush(self)

rc = ipp.Client(json.loads(sys.argv[1]))
flushes = 0
real_write, sharedmemory.SharedMemory.write = sharedmemory.SharedMemory.write, write
real_flush, channel.TlsChannel._flush = channel.TlsChannel._flush, flush
rc[:]["sent"] = np.ones(200 << 20, dtype=np.uint8)
print("done", flush=True)
"""


@contextmanager
def uploading_client(cluster: Cluster, link: str) -> Iterator[Callable[[], None]]:
    """A client in the middle of sending ``sent`` to all engines, killed at the end. Given is what lets it finish."""
    command = [sys.executable, "-c", UPLOAD, json.dumps(connection_over(cluster, link))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:

        def finish() -> None:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline() == "done\n"

        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "uploading\n"
            yield finish
        finally:
            client.kill()


def nodes_of(cluster: Cluster, rc: Client) -> list[int]:
    """A process of each host, rank 0's first."""
    engines = rc._session.registry.engines
    by_host = {engine["host"]: engine["pid"] for engine in engines.values()}
    by_host[os.uname().nodename] = controller_of(cluster)
    return [by_host.pop(os.uname().nodename), *(by_host[name] for name in sorted(by_host))]


def stop(pid: int) -> None:
    """Stop a process, and wait until all its threads are."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid), f"process {pid} is stopped")


def gone(rc: Client, *lost: int) -> None:
    """Wait until a client knows that these engines are gone."""
    wait_for(lambda: not set(lost) & set(rc.ids), lambda: f"{lost} are gone; there are {rc.ids}")
