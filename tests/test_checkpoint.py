"""Maps that keep what is finished in a file, on a real cluster: clients that are killed, full disks, two writers."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pxcluster as ipp
import pytest
from harness.checkpoints import results_in
from harness.cluster import Cluster
from harness.waiting import wait_for
from pxcluster import Client, interactive

Script = Callable[[], "subprocess.Popen[str]"]

#: A script with a map of 40 items, of which those from the 20th on end when there is a gate. It waits for itself to be
#: killed when the others are in the file.
SCRIPT = """
import os, sqlite3, sys, time
import pxcluster as ipp

folder = sys.argv[1]

def work(item, folder=folder):
    import os, time
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{item}\\n")
    while item >= 20 and not os.path.exists(os.path.join(folder, "gate")):
        time.sleep(0.005)
    return {item, item * item}

rc = ipp.Client()
lbv = rc.load_balanced_view()
items = [{"n": n} for n in range(40)]
result = lbv.map_async(lambda item, work=work: work(item["n"]), items, checkpoint=os.path.join(folder, "checkpoint"))
print(result.tries.count(0), flush=True)
sys.stdin.read()
print(result.get() == [{n, n * n} for n in range(40)], flush=True)
"""


@interactive
def gated(item: int, folder: str) -> bytes:
    import os
    import time

    while item >= 3 and not os.path.exists(os.path.join(folder, "gate")):
        time.sleep(0.005)
    with open(os.path.join(folder, f"ran-{item}"), "x"):
        return bytes([item]) * (1 << 20)


@interactive
def kinds(number: int) -> Any:
    import datetime
    import fractions

    import numpy

    class Own:
        def __init__(self, n: int) -> None:
            self.n = n

        def __eq__(self, other: object) -> bool:
            return bool(vars(self) == vars(other))

    return [
        None,
        number,
        "text",
        b"a" * (3 << 20),
        {"set": {1, 2}, "tuple": (1, [2])},
        numpy.arange(200_000.0) + number,
        {"two": [numpy.zeros((300, 300)), numpy.ones(100_000, dtype="i4")], "small": numpy.arange(3)},
        numpy.float32(2.5),
        numpy.array([{"a": 1}, None], dtype=object),
        fractions.Fraction(1, 3),
        datetime.date(2026, 1, 1),
        ValueError("a value"),
        lambda x: x + number,
        Own(number),
        numpy.zeros(0),
    ][number % 15]


@pytest.fixture
def script(cluster: Cluster, tmp_path: Path) -> Iterator[Script]:
    """Starts the script; what still runs at the end is killed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, tmp_path / "script.py", tmp_path]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=cluster.site.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    (tmp_path / "gate").touch()
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def runs(tmp_path: Path) -> Counter[int]:
    """How often each item has been run."""
    return Counter(map(int, (tmp_path / "runs").read_text().split()))


@pytest.mark.smoke
@pytest.mark.usefixtures("rc")
def test_a_client_that_is_killed_and_another_one(script: Script, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    first = script()
    wait_for(lambda: results_in(checkpoint) == 20, lambda: "half of the map is in the file")
    wait_for(lambda: len(runs(tmp_path)) == 24, lambda: "every engine has one of the others")
    first.send_signal(signal.SIGKILL)
    assert first.communicate(timeout=60)[0] == "0\n"
    second = script()
    assert second.stdout is not None
    assert second.stdout.readline() == "20\n"
    (tmp_path / "gate").touch()
    assert second.communicate(timeout=60)[0] == "True\n"
    ran = runs(tmp_path)
    assert set(ran) == set(range(40))
    assert [ran[item] for item in range(20)] == [1] * 20
    assert sum(ran.values()) == 44  # those that were running when the first one was killed
    third = script()
    assert third.communicate(timeout=60)[0] == "40\nTrue\n"
    assert runs(tmp_path) == ran
    assert not (tmp_path / "checkpoint.lock").exists()


def test_results_of_every_kind(rc: Client, tmp_path: Path) -> None:
    lbv, checkpoint = rc.load_balanced_view(), tmp_path / "checkpoint"
    items = [*range(15), *range(15)]
    first = lbv.map_async(kinds, items, checkpoint=checkpoint).get()
    again = lbv.map_async(kinds, items, checkpoint=checkpoint)
    assert again.done()
    assert set(again.engine_id) == {None}
    for one, other in zip(first, again, strict=True):
        assert type(one).__name__ == type(other).__name__
        if isinstance(one, numpy.ndarray):
            numpy.testing.assert_array_equal(one, other)
            assert other.flags.writeable
        elif isinstance(one, ValueError):
            assert repr(one) == repr(other)
        elif callable(one):
            assert one(1) == other(1)
        elif isinstance(one, dict) and "two" in one:
            numpy.testing.assert_equal(one, other)
        elif type(one).__name__ == "Own":
            assert vars(one) == vars(other)
        else:
            assert one == other


def test_failures_and_retries(rc: Client, tmp_path: Path) -> None:
    @interactive
    def third_time(item: int, folder: str = str(tmp_path)) -> int:
        import os

        tried = len([name for name in os.listdir(folder) if name.startswith(f"try-{item}-")])
        with open(os.path.join(folder, f"try-{item}-{tried}"), "x"):
            assert item % 2 or tried == 2
        return item

    lbv, checkpoint = rc.load_balanced_view(), tmp_path / "checkpoint"
    with lbv.temp_flags(retries=1):
        first = lbv.map_async(third_time, range(6), checkpoint=checkpoint)
    assert [type(value).__name__ for value in first.get(return_exceptions=True)] == ["RemoteError", "int"] * 3
    second = lbv.map_async(third_time, range(6), checkpoint=checkpoint)
    assert second.get() == list(range(6))
    assert second["tries"] == [1, 0] * 3
    assert lbv.map_async(third_time, range(6), checkpoint=checkpoint, ordered=False).done()


def test_two_programs_at_once(script: Script, rc: Client, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    first = script()
    wait_for(lambda: results_in(checkpoint) == 20, lambda: "half of the map is in the file")
    said = script().communicate(timeout=60)[1]
    assert f"BlockingIOError: checkpoint {checkpoint} is being written by process {first.pid} on " in said
    with pytest.raises(BlockingIOError, match=f"is being written by process {first.pid} on"):
        rc.load_balanced_view().map_async(abs, range(3), checkpoint=checkpoint)
    (tmp_path / "gate").touch()
    assert first.communicate(timeout=60)[0] == "0\nTrue\n"
    assert set(runs(tmp_path).values()) == {1}


def test_a_full_disk(rc: Client, tmp_path: Path, small: Path) -> None:
    lbv, checkpoint, folder = rc.load_balanced_view(), small / "checkpoint", str(tmp_path)
    wanted = [bytes([item]) * (1 << 20) for item in range(8)]
    result = lbv.map_async(gated, range(8), [folder] * 8, checkpoint=checkpoint)
    wait_for(lambda: results_in(checkpoint) == 3, lambda: "what is finished is in the file")
    fill(small / "filler")
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        finish(result, tmp_path, wanted, checkpoint)
    assert results_in(checkpoint) == 3
    with closing(sqlite3.connect(f"file:{checkpoint}?mode=ro", uri=True)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    os.unlink(small / "filler")
    wait_for(lambda: results_in(checkpoint) == 8, lambda: "it goes on when there is room")
    assert lbv.map_async(gated, range(8), [folder] * 8, checkpoint=checkpoint).get() == wanted


def finish(result: ipp.AsyncMapResult, folder: Path, wanted: list[bytes], checkpoint: Path) -> None:
    """Lets tasks end whose results find no room."""
    from pxcluster import journal

    (folder / "gate").touch()
    assert result.get(timeout=60) == wanted
    wait_for(lambda: journal._open[str(checkpoint)]._warned, lambda: "it is told of")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_folder_in_which_nothing_may_be_written(rc: Client, tmp_path: Path, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small], check=True, timeout=20)
    with pytest.raises(OSError, match=r"cannot be written: Read-only file system .*; name a file in a folder"):
        rc.load_balanced_view().map_async(abs, range(3), checkpoint=small / "checkpoint")
