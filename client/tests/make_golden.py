"""Writes protocol/tests/golden: one frame of every message type with fixed values, and its description in JSON.

Run it when the protocol changes: ``python tests/make_golden.py``. It does not use the client's codec.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "protocol" / "tests" / "golden"

_ENGINES = [{"id": 0, "host": "node1", "pid": 101}, {"id": 1, "host": "node2", "pid": 102}]
_NANNY = {"protocol_version": 1, "key": "ab" * 32, "engine": 1, "pid": 102}
_ERROR = json.dumps(
    {
        "ename": "ZeroDivisionError",
        "evalue": "division by zero",
        "traceback": "…",
        "engine_id": 1,
        "engine_uuid": "u1",
        "method": "apply",
    },
    separators=(",", ":"),
    ensure_ascii=False,
).encode()

_PAST = json.dumps(
    [
        {
            "session": "5e55",
            "request": 1,
            "kind": "apply",
            "label": None,
            "submitted": 1700000000.0,
            "tasks": 0,
            "targets": [0, 2],
            "parts": 2,
        },
        {
            "session": "5e55",
            "request": 2,
            "kind": "map",
            "label": "märz",
            "submitted": 1700000000.0,
            "tasks": 1,
            "targets": [],
            "parts": 1,
        },
    ],
    separators=(",", ":"),
    ensure_ascii=False,
).encode()

#: name of the file -> (header, buffers)
FRAMES: dict[str, tuple[dict[str, object], list[bytes]]] = {
    "hello": (
        {
            "type": "hello",
            "protocol_version": 1,
            "key": "ab" * 32,
            "client_version": "0.1.0",
            "python": "3.11",
            "host": "login1",
            "pid": 4711,
            "session": None,
        },
        [],
    ),
    "memory_request": ({"type": "memory", "protocol_version": 1, "key": "ab" * 32}, []),
    "hello_sharing": (
        {
            "type": "hello",
            "protocol_version": 1,
            "key": "ab" * 32,
            "client_version": "0.1.0",
            "python": "3.11",
            "host": "login1",
            "pid": 4711,
            "session": None,
            "shares": True,
        },
        [],
    ),
    "reserve": ({"type": "reserve", "ticket": 3, "sizes": [104857600, 1048576]}, []),
    "reserve_direct": ({"type": "reserve", "ticket": 5, "sizes": [8388608], "direct": True, "targets": [1, 2]}, []),
    "written": ({"type": "written", "place": 4096, "bytes": 4194304}, []),
    "abandon": ({"type": "abandon", "places": [4096]}, []),
    "direct": ({"type": "direct", "id": 1, "kind": "apply", "targets": [0, 2]}, [b"pickle", b"out-of-band"]),
    "direct_labelled": ({"type": "direct", "id": 1, "kind": "apply", "targets": [0], "label": "märz"}, [b"pickle"]),
    "direct_unlisted": ({"type": "direct", "id": 1, "kind": "apply", "targets": None, "unlisted": True}, [b"pickle"]),
    "map": (
        {"type": "map", "id": 2, "tasks": 3, "targets": None, "label": "märz", "retries": 0},
        [b"function", struct.pack("<4Q", 0, 1, 3, 6), b"abbccc"],
    ),
    "signal": ({"type": "signal", "id": 3, "signum": 2, "targets": None}, []),
    "interrupt": ({"type": "interrupt", "id": 12, "requests": [3, 4]}, []),
    "abort": ({"type": "abort", "id": 4, "requests": [1, 2], "targets": None}, []),
    "status_request": ({"type": "status", "id": 5}, []),
    "history_request": ({"type": "history", "id": 5}, []),
    "purge": ({"type": "purge", "id": 6, "requests": [["5e55", 1], ["5e55", 2]]}, []),
    "drain": ({"type": "drain", "id": 6, "grace": 20.0}, []),
    "shutdown": ({"type": "shutdown", "id": 6}, []),
    "kill": ({"type": "kill", "id": 7, "targets": [1]}, []),
    "hello_again": (
        {
            "type": "hello",
            "protocol_version": 1,
            "key": "ab" * 32,
            "client_version": "0.1.0",
            "python": "3.11",
            "host": "login1",
            "pid": 4711,
            "session": "5e55",
            "received": 12,
        },
        [],
    ),
    "received": ({"type": "received", "frames": 300}, []),
    "fetch": ({"type": "fetch", "id": 8, "session": "5e55", "request": 2}, []),
    "goodbye": ({"type": "goodbye"}, []),
    "death": (
        {"type": "death", **_NANNY, "signal": 11, "code": None, "running": {"client": 2, "request": 7, "task": 41}},
        [],
    ),
    "silent": ({"type": "silent", **_NANNY, "seconds": 30.5}, []),
    "welcome": (
        {
            "type": "welcome",
            "protocol_version": 1,
            "session": "5e55",
            "client_id": 7,
            "cluster_id": "default",
            "python": "3.11",
            "engines": _ENGINES,
            "host": "node0",
            "pid": 100,
            "version": "0.1.0",
        },
        [],
    ),
    "welcome_again": (
        {
            "type": "welcome",
            "protocol_version": 1,
            "session": "5e55",
            "client_id": 7,
            "cluster_id": "default",
            "python": "3.11",
            "engines": [],
            "host": "node0",
            "pid": 100,
            "version": "0.1.0",
            "last_request": 41,
        },
        [],
    ),
    "request_map": ({"type": "request", "id": 8, "kind": "map", "label": "märz", "tasks": 3, "targets": []}, []),
    "request_direct": (
        {"type": "request", "id": 9, "kind": "execute", "label": None, "tasks": 0, "targets": [0, 2]},
        [],
    ),
    "refused": ({"type": "refused", "reason": "the key is wrong"}, []),
    "reply": (
        {"type": "reply", "id": 1, "engine": 1, "status": 1, "started": 1700000000.25, "completed": 1700000000.5},
        [_ERROR],
    ),
    "results": (
        {"type": "results", "id": 2},
        [
            struct.pack("<2I", 2, 0),
            struct.pack("<2I", 1, 0),
            bytes([0, 1]),
            struct.pack("<2d", 1700000000.25, 1700000000.5),
            struct.pack("<2d", 1700000000.75, 1700000001.0),
            struct.pack("<3Q", 0, 5, 5 + len(_ERROR)),
            b"value" + _ERROR,
        ],
    ),
    "output": ({"type": "output", "id": 2, "engine": 1, "task": 2, "name": "stdout"}, ["grüß\n".encode()]),
    "failed": ({"type": "failed", "id": 2, "ename": "EngineError", "message": "Engine 1 died"}, []),
    "engines": (
        {"type": "engines", "joined": [_ENGINES[1]], "lost": [{"id": 0, "reason": "killed by signal 9"}]},
        [],
    ),
    "engines_silent": (
        {"type": "engines", "joined": [], "lost": [], "silent": [{"id": 1, "reason": "silent for 30 s"}]},
        [],
    ),
    "memory": ({"type": "memory"}, []),
    "reserved": ({"type": "reserved", "ticket": 3, "places": [[4096, False], [104861696, True]]}, []),
    "reserved_told": ({"type": "reserved", "ticket": 5, "places": [[4096, False]], "tell": True}, []),
    "ahead": (
        {
            "type": "ahead",
            "id": 3,
            "engine": 1,
            "sizes": [5, 8388608],
            "buffer": 1,
            "place": 4096,
            "at": 0,
            "upto": 7,
        },
        [b"\x00\x01\x02\x03\x04\x05\x06"],
    ),
    "forget": ({"type": "forget", "place": 4096}, []),
    "reserved_nothing": ({"type": "reserved", "ticket": 4, "places": None}, []),
    "done": ({"type": "done", "id": 3}, []),
    "history": (
        {"type": "history", "id": 5},
        [
            _PAST,
            struct.pack("<3I", 0, 2, 0xFFFFFFFF),
            bytes([0, 1, 255]),
            struct.pack("<3d", 1700000000.25, 1700000000.5, float("nan")),
            struct.pack("<3d", 1700000000.75, 1700000001.0, float("nan")),
        ],
    ),
    "status": (
        {
            "type": "status",
            "id": 5,
            "cluster_id": "default",
            "host": "node0",
            "pid": 100,
            "version": "0.1.0",
            "uptime": 12.5,
            "clients": 1,
            "unassigned": 3,
            "directs": 1,
            "finished": 40,
            "stolen": 4,
            "slurm_job_id": "4711",
            "slurm_end_time": 1700003600,
            "lost": [{"id": 2, "reason": "engine 2 (host node2, pid 103) was killed"}],
            "silent": [{"id": 0, "reason": "engine 0 (host node1, pid 101) has said nothing for 30 s"}],
            "memory": {
                "buffers": 1,
                "used": 104857600,
                "pooled": 4096,
                "bound": 1073741824,
                "others": [{"host": "node2", "used": 104857600}],
            },
            "engines": [
                {
                    **_ENGINES[0],
                    "queue": 1,
                    "tasks": 2,
                    "completed": 3,
                    "shared": 104857600,
                    "busy": True,
                    "finished": 2,
                    "stolen": 1,
                    "rss": 41943040,
                }
            ],
        },
        [],
    ),
    "draining": (
        {"type": "draining", "reason": "the controller received SIGTERM", "grace": 20.0},
        [],
    ),
    "closing": ({"type": "closing", "reason": "a client asked for it"}, []),
    "kill_engine": ({"type": "kill_engine"}, []),
}


def encoded(header: dict[str, object], buffers: list[bytes]) -> bytes:
    """The frame, spelt out."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    lengths = b"".join(struct.pack("<Q", len(buffer)) for buffer in buffers)
    return struct.pack("<II", len(text), len(buffers)) + lengths + text + b"".join(buffers)


def main() -> None:
    """Write every file that is not there yet."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, (header, buffers) in FRAMES.items():
        binary, description = GOLDEN / f"{name}.bin", GOLDEN / f"{name}.json"
        if not binary.exists():
            binary.write_bytes(encoded(header, buffers))
        if not description.exists():
            content = {"header": header, "buffers": [buffer.hex() for buffer in buffers]}
            description.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
