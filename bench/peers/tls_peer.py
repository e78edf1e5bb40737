"""Measures what TLS between two processes of this machine carries in one direction, into memory that is there.

Prints one JSON object of figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from payload import SIZE, check_sums, make_array, repeat


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A key, and a certificate signed with it."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *kind, *names], check=True, capture_output=True)
    return certificate, key


def serve(listener: socket.socket, certificate: Path, key: Path) -> None:
    """Sends the array once for each byte that it receives; the byte is its first element."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    array = make_array()
    connection, _ = listener.accept()
    with context.wrap_socket(connection, server_side=True) as channel:
        while asked := channel.recv(1):
            array[0] = asked[0]
            channel.sendall(memoryview(array).cast("B"))


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transfers", type=int, required=True)
    options, _ = parser.parse_known_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    received: Any = np.zeros(SIZE // 8)
    view = memoryview(received).cast("B")

    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        certificate, key = make_certificate(Path(directory))
        context.load_verify_locations(certificate)
        server = multiprocessing.Process(target=serve, args=(listener, certificate, key), daemon=True)
        server.start()
        plain = socket.create_connection(listener.getsockname())
        with context.wrap_socket(plain, server_hostname="localhost") as channel:

            def call(number: int) -> float:
                begin = time.perf_counter()
                channel.sendall(bytes([number]))
                place = 0
                while place < SIZE:
                    count = channel.recv_into(view[place:])
                    if count == 0:
                        raise RuntimeError("the sender has gone")
                    place += count
                seconds = time.perf_counter() - begin
                check_sums([received.sum()], number, 1)
                return seconds

            call(0)
            print(json.dumps({"data-pull": repeat(call, most=options.transfers)}), flush=True)
        server.join()


if __name__ == "__main__":
    main()
