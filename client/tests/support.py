"""What tests of the client share beside fixtures."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

from fake_controller import KEY


def feed(decoder, pieces, portion=1 << 20):
    """The frames that a decoder makes of pieces of bytes that come in portions."""
    data, found = memoryview(b"".join(pieces)), []
    while data:
        space = decoder.space()
        count = min(len(space), portion, len(data))
        space[:count], data = data[:count], data[count:]
        found += decoder.received(count)
    return found


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
        "started": 4e9,  # after any process has begun
    }
    return {**info, **changes}


def child(code):
    """Run `code` in a fresh interpreter that finds the package and these helpers."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent / 'src'}:{here}"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
