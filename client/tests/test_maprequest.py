"""Columns of a map: whatever order results come in, each task has the value that belongs to it, once."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections.abc import Sequence

import pytest
from pxcluster.error import RemoteError
from pxcluster.maprequest import MapRequest
from pxcluster.requests import ERROR, OK


def frame(slots: Sequence[int], engine: int = 0, failed: Sequence[int] = (), tries: int = 1) -> list[bytes]:
    """Results of these tasks: the value of each is its square; those of `failed` raised."""
    count = len(slots)
    error = json.dumps({"ename": "ValueError", "evalue": "no", "traceback": [], "engine_info": {}}).encode()
    payloads = [error if slot in failed else pickle.dumps(slot**2) for slot in slots]
    ends = [sum(map(len, payloads[:end])) for end in range(count + 1)]
    buffers = [
        struct.pack(f"{count}I", *slots),
        struct.pack(f"{count}I", *[engine] * count),
        bytes(ERROR if slot in failed else OK for slot in slots),
        struct.pack(f"{count}d", *[1000.0 + slot for slot in slots]),
        struct.pack(f"{count}d", *[2000.0 + slot for slot in slots]),
        struct.pack(f"{count + 1}Q", *ends),
        b"".join(payloads),
    ]
    return buffers if tries == 1 else [*buffers, struct.pack(f"{count}I", *[tries] * count)]


@pytest.mark.parametrize("seed", range(20))
def test_results_in_any_order_and_pieces(seed: int) -> None:
    source = random.Random(seed)
    tasks = source.randint(1, 60)
    request = MapRequest("f", tasks)
    left = list(range(tasks))
    if seed % 2:
        source.shuffle(left)
    order = list(left)
    while left:
        size = source.randint(1, len(left))
        request.take_results(frame(left[:size], engine=len(left)))
        if source.random() < 0.5:  # some are asked for before all are there
            slot = source.choice(left[:size])
            assert request.outcome(slot) == (True, slot**2)
        del left[:size]
    assert request.done
    assert list(request.arrived) == order
    assert request.values() == [slot**2 for slot in range(tasks)]
    assert request.values() == [slot**2 for slot in range(tasks)]
    assert [request.outcome(slot) for slot in range(tasks)] == [(True, slot**2) for slot in range(tasks)]
    assert [request.times(slot)[:2] for slot in range(tasks)] == [(1000.0 + n, 2000.0 + n) for n in range(tasks)]


def test_a_result_that_comes_again_is_ignored() -> None:
    request = MapRequest("f", 6)
    request.take_results(frame([1, 2], engine=1))
    request.take_results(frame([0, 1, 2, 3], engine=2))
    assert [request.engine(slot) for slot in range(5)] == [2, 1, 1, 2, None]
    assert list(request.arrived) == [1, 2, 0, 3]
    assert not request.done
    assert request.values() is None


def test_a_failure_leaves_the_other_values() -> None:
    request = MapRequest("f", 4)
    request.take_results(frame([0, 1, 2, 3], failed=[2], tries=3))
    assert request.values() is None
    assert request.failed()
    assert request.outcome(1) == (True, 1)
    succeeded, error = request.outcome(2)
    assert not succeeded
    assert isinstance(error, RemoteError)
    assert request.metadata(2)["tries"] == 3


def test_a_value_that_cannot_be_loaded_is_an_error_of_its_own() -> None:
    request = MapRequest("f", 3)
    buffers = frame([0, 1, 2])
    offset = struct.unpack("4Q", buffers[5])[1]
    buffers[6] = buffers[6][:offset] + b"\xff" + buffers[6][offset + 1 :]
    request.take_results(buffers)
    assert request.values() is None
    assert [request.outcome(slot)[0] for slot in range(3)] == [True, False, True]
    assert "engine 0" in str(request.outcome(1)[1])


def test_decoded_results_let_go_of_their_frame() -> None:
    request = MapRequest("f", 3)
    payload = bytearray(frame([0, 1, 2])[6])
    buffers: list[bytes | bytearray] = [*frame([0, 1, 2])[:6], payload]
    request.take_results(buffers)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        payload.clear()
    assert request.outcome(0) == (True, 0)
    assert request.values() == [0, 1, 4]
    buffers.clear()
    payload.clear()
