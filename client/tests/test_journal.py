"""Maps with a checkpoint: what is in the file is not run again, and the file is that of one map and of one writer."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import warnings

import pytest
from pxcluster import filelock, journal
from pxcluster.journal import Identity, Journal
from support import PATIENCE, child, frame, wait_until


def identity(items=10, **changes):
    ours = Identity("m.f", b"code", b"items", items, False, 1, "3.11")
    return ours._replace(**changes)


def kept(path, ours=None):
    """The results in a file, by task."""
    opened = Journal(str(path), ours or identity())
    try:
        return {
            task: pickle.loads(rows.payload[rows.offsets[at] : rows.offsets[at + 1]])
            for rows in opened.restored()
            for at, task in enumerate(rows.tasks)
        }
    finally:
        opened.close()


def written(path, *frames, sent=None, ours=None):
    opened = Journal(str(path), ours or identity())
    opened.begin()
    for each in frames:
        opened.keep(sent, each)
    opened.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint"


def test_what_is_written_is_read(path) -> None:
    written(path, frame([3, 4, 5]), frame([0], failed=[0]), frame([8, 1, 9], failed=[1]))
    assert kept(path) == {3: 9, 4: 16, 5: 25, 8: 64, 9: 81}
    written(path, frame([0, 1, 2]), sent=[0, 1, 7])
    assert kept(path) == {3: 9, 4: 16, 5: 25, 8: 64, 9: 81, 0: 0, 1: 1, 7: 4}
    assert sorted(os.listdir(path.parent)) == ["checkpoint"]


def test_rows_larger_than_a_piece(path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "_PIECE", 1000)
    values = ["a" * 2500, "b", "c" * 10_000]
    written(path, frame([0, 1, 2], values), frame([5]))
    assert kept(path) == {0: values[0], 1: "b", 2: values[2], 5: 25}


def test_results_are_written_while_the_map_runs(path) -> None:
    opened = Journal(str(path), identity())
    opened.begin()
    opened.note("a run")
    opened.keep(None, frame([1, 2]))

    def there():
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
            return reader.execute("SELECT run, (SELECT count(*) FROM results) FROM map").fetchone() == ("a run", 1)

    wait_until(there)
    opened.finish()
    wait_until(lambda: not (path.parent / "checkpoint.lock").exists())
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT run FROM map").fetchone() == (None,)


def test_a_killed_writer_leaves_what_it_has_written(path) -> None:
    code = f"""
        import sys, os
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_journal import *
        opened = Journal({str(path)!r}, identity())
        opened.begin()
        opened.note("a run")
        opened.keep(None, frame([1, 2]))
        wait_until(lambda: not opened._pending)
        opened._database.execute("BEGIN")
        opened._insert(*journal._Arrived(None, *[frame([5])[at] for at in (0, 2, 5, 6)]).row())
        opened._database.execute("PRAGMA cache_spill = 1")
        os.kill(os.getpid(), 9)
    """
    assert child(code).returncode == -signal.SIGKILL
    opened = Journal(str(path), identity())
    assert opened.unfinished == "a run"
    opened.close()
    assert kept(path) == {1: 1, 2: 4}


def test_one_writes_at_a_time(path) -> None:
    first = Journal(str(path), identity())
    code = f"from test_journal import *\nJournal({str(path)!r}, identity())"
    done = child(code)
    assert f"checkpoint {path} is being written by process {os.getpid()} on " in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("BlockingIOError")
    with pytest.raises(BlockingIOError, match="by a map of this program that has not ended"):
        Journal(str(path), identity())
    first.begin()
    first.keep(None, frame([1]))
    first.finish()  # one that has ended is waited for
    assert kept(path) == {1: 1}
    assert child(code).returncode == 0


def test_the_lock_of_somebody_who_has_just_removed_it(path, monkeypatch) -> None:
    other = filelock.FileLock(str(path))
    flock = filelock.fcntl.flock

    def released_before(file, operation):
        if other is not None:
            release()
        flock(file, operation)

    def release():
        nonlocal other
        going, other = other, None
        going.release()

    monkeypatch.setattr(filelock.fcntl, "flock", released_before)
    lock = filelock.FileLock(str(path))
    assert lock._is_there()
    lock.release()
    assert os.listdir(path.parent) == []


def test_a_file_system_without_locks(path, monkeypatch) -> None:
    def no_locks(_file, _operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(filelock.fcntl, "flock", no_locks)
    with pytest.warns(RuntimeWarning, match="has no locks"):
        written(path, frame([1]))
    with pytest.warns(RuntimeWarning, match="has no locks"):
        assert kept(path) == {1: 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"function": "m.g"}, "has results of m.f, not of m.g: name another file"),
        ({"items": 11}, "is of a map of 10 items, and this one has 11"),
        ({"digest": b"others"}, "is of a map of 10 other items"),
        ({"star": True}, "is of a map of 10 other items"),
        ({"chunksize": 5}, "is of a map with chunksize=1"),
        ({"code": b"changed"}, "as it was before its code was changed: delete the file to compute everything anew, or"),
        ({"code": b"changed", "python": "3.12"}, "was written by Python 3.11, whose code cannot be compared with that"),
    ],
)
def test_another_map(path, changes, sentence) -> None:
    written(path, frame([1]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=sentence):
        Journal(str(path), identity(**changes))
    assert path.read_bytes() == before
    assert kept(path) == {1: 1}


def test_changed_code_that_is_accepted_is_accepted_from_then_on(path) -> None:
    written(path, frame([1]))
    changed = identity(code=b"changed")
    Journal(str(path), changed, same_code=False).close()
    assert kept(path, changed) == {1: 1}
    with pytest.raises(ValueError, match="code was changed"):
        Journal(str(path), identity())
    with pytest.raises(ValueError, match="other items"):
        Journal(str(path), identity(digest=b"others"), same_code=False)


def of_another_program(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE a (b)")
    other.close()


def of_the_future(path):
    written(path)
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 2")
    later.close()


def cut_off(path):
    written(path, frame(range(10), ["a" * 5000] * 10))
    os.truncate(path, path.stat().st_size - 5000)


def with_wrong_rows(path):
    written(path, frame([1, 2]))
    with sqlite3.connect(path) as wrong:
        wrong.execute("UPDATE results SET payload = ?", (b"short",))
    wrong.close()


def with_too_many_tasks(path):
    written(path, frame([10]), ours=identity(11))
    with sqlite3.connect(path) as wrong:
        wrong.execute("UPDATE map SET items = 10")
    wrong.close()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_text("not a database"), "is no checkpoint of a map"),
        (of_another_program, "is no checkpoint of a map, but another database"),
        (of_the_future, "has format 2, and this pxcluster knows 1"),
        (cut_off, r"is damaged \(.*\): delete the file"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(100)), r"is damaged \(.*\): delete the file"),
        (with_wrong_rows, r"is damaged \(.*\): delete the file"),
        (with_too_many_tasks, r"is damaged \(.*\): delete the file"),
    ],
)
def test_no_checkpoint(path, make, sentence) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^(checkpoint )?{path} {sentence}"):
        kept(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["checkpoint"]


def test_places_where_nothing_can_be_written(tmp_path) -> None:
    with pytest.raises(OSError, match=r"No such file or directory .*; name a file in a folder that exists"):
        Journal(str(tmp_path / "none" / "file"), identity())
    with pytest.raises(OSError, match="cannot be read: Is a directory"):
        Journal(str(tmp_path), identity())


def fill(opened):
    """Leave the database no page more than it has."""
    opened._database.execute(f"PRAGMA max_page_count = {opened._database.execute('PRAGMA page_count').fetchone()[0]}")


def make_room(opened):
    """Take the limit away, in the thread that writes: it alone uses the connection, and closes it."""
    attempt = opened._attempt

    def with_room(batch):
        opened._database.execute("PRAGMA max_page_count = 1000")
        return attempt(batch)

    opened._attempt = with_room


def test_a_full_disk_that_has_room_again(path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "_RETRY", 0.01)
    opened = Journal(str(path), identity())
    fill(opened)

    def write_and_finish():
        opened.begin()
        opened.keep(None, frame([1, 2], ["a" * 10_000, "b"]))
        opened.keep(None, frame([3]))
        opened.finish()  # nothing is given up for that
        wait_until(lambda: opened._warned)

    with pytest.warns(RuntimeWarning, match=r"cannot be written \(database or disk is full\): results that") as told:
        write_and_finish()
    make_room(opened)
    opened._thread.join(PATIENCE)
    assert len(told) == 1
    assert kept(path) == {1: "a" * 10_000, 2: "b", 3: 9}


def test_what_a_full_disk_did_not_take(path) -> None:
    written(path, frame([0]))
    opened = Journal(str(path), identity())
    fill(opened)

    def write():
        opened.begin()
        opened.keep(None, frame([1, 2, 3], ["a" * 10_000] * 3, failed=[2]))
        opened.close()

    with pytest.warns(RuntimeWarning, match="2 results are not in it, and a later call computes them again"):
        write()
    assert kept(path) == {0: 0}


def test_a_warning_that_is_an_error_is_printed(path, capsys) -> None:
    opened = Journal(str(path), identity())
    fill(opened)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened.begin()
        opened.keep(None, frame([1], ["a" * 10_000]))
        opened.close()
    assert "pxcluster: checkpoint" in capsys.readouterr().err


def test_writers_of_a_forked_process_leave_it_alone(path) -> None:
    opened = Journal(str(path), identity())
    opened.begin()
    opened.keep(None, frame([1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads and forks
        pid = os.fork()
    if pid == 0:
        opened.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    opened.close()
    assert kept(path) == {1: 1}
