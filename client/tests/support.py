"""What tests of the client share beside fixtures."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

from fake_controller import KEY

#: Seconds; more than anything here takes.
PATIENCE = 60.0


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


class Storm:
    """SIGINT from another process, at whatever point this one is. The interrupts that hit raise KeyboardInterrupt."""

    def __init__(self):
        self.hits = self._left = 0
        signal.signal(signal.SIGINT, self._hit)
        send = "import os, random, time\nwhile True: os.kill({}, 2); time.sleep(0.002 * random.random())"
        self._sender = subprocess.Popen([sys.executable, "-c", send.format(os.getpid())])

    def _hit(self, signum, frame):
        if self._left:
            self._left -= 1
            self.hits += 1
            raise KeyboardInterrupt

    def over(self, work):
        """Run `work`, with two hits at most: wherever they come, they end here."""
        with suppress(KeyboardInterrupt):
            with suppress(KeyboardInterrupt):
                with suppress(KeyboardInterrupt):
                    self._left = 2
                    work()
                self._left = 0
            self._left = 0

    def end(self):
        self._sender.kill()
        self._sender.wait()


def wait_until(condition):
    """Wait until `condition()` is true; no longer than `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def frame(slots, values=None, failed=()):
    """A frame of results, as the controller sends it."""
    pickles = [pickle.dumps(slot**2 if values is None else values[at]) for at, slot in enumerate(slots)]
    ends = [sum(map(len, pickles[:end])) for end in range(len(pickles) + 1)]
    count = len(slots)
    return [
        struct.pack(f"{count}I", *slots),
        bytes(4 * count),
        bytes(slot in failed for slot in slots),
        bytes(8 * count),
        bytes(8 * count),
        struct.pack(f"{count + 1}Q", *ends),
        b"".join(pickles),
    ]
