from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pxcluster import frames
from pxcluster.ahead import AheadDecoder
from pxcluster.frames import FrameError
from support import feed

PLACE = 8192


class Memory:
    """Shared memory as a client reads it; what was not written yet reads as zeros."""

    def __init__(self, size):
        self.content = bytearray(size)

    def read(self, place, length, buffer=None):
        found = memoryview(self.content)[place : place + length]
        if buffer is None:
            return memoryview(bytearray(found))
        buffer[:] = found
        return buffer


def nowhere(header, sizes):
    return {}


def ahead(buffer, at, upto, *, place=PLACE, engine=0, shares=False):
    header = {
        "type": "ahead",
        "id": 1,
        "engine": engine,
        "sizes": [3, len(buffer)],
        "buffer": 1,
        "place": place,
        "at": at,
        "upto": upto,
    }
    return frames.encode(header, [] if shares else [buffer[at:upto]])


def reply(buffer, *, place=PLACE, engine=0):
    return frames.encode({"type": "reply", "id": 1, "engine": engine}, [b"abc", buffer], {1: place})


def content(size, seed=0):
    return bytes((7 * n + seed) % 251 for n in range(size))


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 400_000),
    cuts=st.lists(st.integers(0, 400_000), max_size=5),
    portion=st.sampled_from([777, 70_000, 1 << 20]),
    shares=st.booleans(),
)
def test_the_reply_is_as_if_nothing_had_come_before_it(size, cuts, portion, shares):
    buffer = content(size)
    ends = [0, *sorted(cut for cut in cuts if 0 < cut < size)]
    memory = Memory(PLACE + size) if shares else None
    decoder = AheadDecoder(memory, nowhere)
    for at, upto in zip(ends, [*ends[1:], None if shares else size], strict=True):
        if upto is not None and at < upto:
            if shares:
                memory.content[PLACE + at : PLACE + upto] = buffer[at:upto]
            assert feed(decoder, ahead(buffer, at, upto, shares=shares), portion) == []
    if shares:
        memory.content[PLACE:] = buffer
    pieces = [*reply(buffer), *frames.encode({"type": "forget", "place": PLACE})]
    ((_, buffers),) = feed(decoder, pieces, portion)
    assert buffers == [b"abc", buffer]


def test_parts_of_several_replies_take_turns():
    one, two = content(200_000, 1), content(150_000, 2)
    decoder = AheadDecoder(None, nowhere)
    pieces = [
        *ahead(one, 0, 100_000),
        *ahead(two, 0, 10, place=PLACE * 100, engine=1),
        *frames.encode({"type": "output", "id": 1}, [b"text"]),
        *ahead(one, 100_000, 200_000),
        *ahead(two, 10, 150_000, place=PLACE * 100, engine=1),
        *reply(two, place=PLACE * 100, engine=1),
        *reply(one),
    ]
    found = feed(decoder, pieces)
    assert [header["type"] for header, _ in found] == ["output", "reply", "reply"]
    assert [buffers[-1] for _, buffers in found] == [b"text", two, one]


@pytest.mark.parametrize("shares", [False, True])
def test_parts_go_to_where_the_reply_belongs(shares):
    buffer, region, asked = content(300_000), memoryview(bytearray(300_000)), []

    def land(header, sizes):
        asked.append((header["type"], header["id"], header["engine"], list(sizes)))
        return {1: region}

    memory = Memory(PLACE + len(buffer))
    memory.content[PLACE:] = buffer
    decoder = AheadDecoder(memory if shares else None, land)
    feed(decoder, ahead(buffer, 0, 100_000, shares=shares))
    assert region[:100_000] == buffer[:100_000]
    assert not any(region[100_000:])
    feed(decoder, ahead(buffer, 100_000, 300_000, shares=shares))
    ((_, buffers),) = feed(decoder, reply(buffer))
    assert buffers[1] is region
    assert region == buffer
    assert set(map(str, asked)) == {str(("reply", 1, 0, [3, 300_000]))}


def test_what_is_forgotten_comes_whole():
    buffer = content(100_000)
    decoder = AheadDecoder(None, nowhere)
    feed(decoder, [*ahead(buffer, 0, 50_000), *frames.encode({"type": "forget", "place": PLACE})])
    whole = frames.encode({"type": "reply", "id": 1, "engine": 0}, [b"abc", buffer])
    assert feed(decoder, whole)[0][1] == [b"abc", buffer]
    with pytest.raises(FrameError, match="have not come"):
        feed(decoder, reply(buffer))


def test_parts_that_are_missing_are_noticed():
    buffer = content(200_000)
    with pytest.raises(FrameError, match="without those before"):
        feed(AheadDecoder(None, nowhere), ahead(buffer, 100_000, 200_000))
    decoder = AheadDecoder(None, nowhere)
    feed(decoder, ahead(buffer, 0, 100_000))
    with pytest.raises(FrameError, match="have not come"):
        feed(decoder, reply(buffer))
    header = {"type": "ahead", "id": 1, "engine": 0, "sizes": [3, 200_000], "buffer": 1, "place": 0, "at": 0, "upto": 9}
    with pytest.raises(FrameError, match="announced"):
        feed(AheadDecoder(None, nowhere), frames.encode(header, [buffer]))
