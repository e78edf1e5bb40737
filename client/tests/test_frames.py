from __future__ import annotations

import json

import pytest
from make_golden import FRAMES, GOLDEN
from pxcluster import frames
from support import feed


def decode_all(data, portion):
    return feed(frames.Decoder(), [data], portion)


@pytest.mark.parametrize("name", sorted(FRAMES))
def test_golden_frames_are_encoded_and_decoded_byte_for_byte(name):
    data = (GOLDEN / f"{name}.bin").read_bytes()
    described = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    buffers = [bytes.fromhex(text) for text in described["buffers"]]
    assert b"".join(frames.encode(described["header"], buffers)) == data
    assert decode_all(data, 1 << 20) == [(described["header"], buffers)]
    assert list(decode_all(data, 1 << 20)[0][0]) == list(described["header"])


@pytest.mark.parametrize("portion", [1, 7, 1000, 1 << 20])
def test_frames_of_all_sizes_arrive_in_any_portions(portion):
    size = 300_000 if portion > 1 else 70_000
    sent = [
        ({"type": "a"}, []),
        ({"type": "big"}, [b"x" * size, b"", b"small", b"y" * size]),
        ({"type": "many"}, [bytes([n % 256]) * (n % 90) for n in range(2000)]),
        ({"type": "empty"}, [b"", b""]),
        ({"type": "long", "text": "z" * 100_000}, [b"1"]),
        ({"type": "end"}, [b"2"]),
    ]
    data = b"".join(piece for frame in sent for piece in frames.encode(*frame))
    assert decode_all(data, portion) == sent


def test_big_buffers_are_neither_copied_nor_joined():
    big = bytearray(1 << 20)
    pieces = frames.encode({"type": "x"}, [b"head", big, memoryview(b"tail")])
    assert len(pieces) == 3
    assert pieces[1].obj is big


def test_buffers_of_big_frames_are_writable():
    data = b"".join(frames.encode({"type": "x"}, [b"1" * 100_000, b"22"]))
    ((_, buffers),) = decode_all(data, 1 << 20)
    assert not any(memoryview(buffer).readonly for buffer in buffers)


@pytest.mark.parametrize("places", [{}, {2: 1 << 20}], ids=["in the frame", "in shared memory"])
@pytest.mark.parametrize("size", [9, 100_000])
def test_buffers_are_read_to_where_they_belong(places, size):
    sent = [b"pickle" * size, b"", b"x" * 200_000, b"y" * 300_000]
    asked, memory = [], memoryview(bytearray(300_000))

    def land(header, lengths):
        asked.append((header["id"], list(lengths)))
        return {2: memory[7 : 7 + lengths[2]]}

    def read(offset, length, buffer):
        assert (offset, length, len(buffer)) == (1 << 20, 200_000, 200_000)
        buffer[:] = sent[2]
        return buffer

    decoder = frames.Decoder(read=read, land=land)
    pieces = [piece for n in (5, 6) for piece in frames.encode({"type": "x", "id": n}, sent, places)]
    found = [buffers for _, buffers in feed(decoder, pieces)]
    assert asked == [(number, [len(buffer) for buffer in sent]) for number in (5, 6)]
    assert found == [sent, sent]
    assert all(buffers[2].obj is memory.obj for buffers in found)
    assert memory[7:200_007] == sent[2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n", "announces a header"),
        (b"\x02\0\0\0\0\0\0\0[]", "no type"),
        (b"\x03\0\0\0\0\0\0\0{x}", "not JSON"),
        (b"\x0c\0\0\0\x01\0\0\0" + b"\xff" * 8 + b'{"type":"a"}', "bytes of buffers"),
    ],
)
def test_garbage_is_refused(data, message):
    with pytest.raises(frames.FrameError, match=message):
        decode_all(data, 1 << 20)
