"""Maps with a checkpoint: what is in the file is not run again, and the file is that of one map and of one writer."""

from __future__ import annotations

import functools
import os
import pickle
import signal
import sqlite3
import struct
import time
import warnings

import numpy
import pxcluster as ipp
import pytest
from pxcluster import filelock, journal
from pxcluster.journal import Identity, Journal
from support import child

PATIENCE = 60.0


def identity(items=10, **changes):
    ours = Identity("m.f", b"code", b"items", items, False, 1, "3.11")
    return ours._replace(**changes)


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


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint"


@pytest.fixture
def ran(monkeypatch):
    """The items that `work` is called with, in whatever process; here it is this one."""
    calls = []
    monkeypatch.setattr("builtins.px_calls", calls, raising=False)
    return calls


def work(item):
    import builtins

    builtins.px_calls.append(item)
    if item < 0:
        raise ValueError(item)
    return item * item


# -- the file ----------------------------------------------------------------------------------------------------


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
    opened._database.execute("PRAGMA max_page_count = 1000")
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


# -- maps --------------------------------------------------------------------------------------------------------


def test_a_second_call_runs_nothing(rc, lbv, path, ran) -> None:
    first = lbv.map_async(work, range(10), checkpoint=path)
    assert first.get() == [n * n for n in range(10)]
    assert ran == list(range(10))
    second = lbv.map_async(work, iter(range(10)), checkpoint=str(path))
    assert second.done()
    assert second.get() == list(second) == first.get()
    assert ran == list(range(10))
    assert second.progress == len(second) == 10
    assert second.successful()
    assert second.engine_id == [None] * 10
    assert set(second["status"]) == {"ok"}
    assert set(second["tries"]) == {0}
    assert second.started == [None] * 10
    assert second.serial_time == 0
    assert second.wall_time >= 0
    assert second.stdout == [""] * 10
    assert second.msg_ids == rc.history[-10:]
    assert rc.get_result(second.msg_ids[3]).get() == 9
    assert lbv.map_sync(work, range(10), checkpoint=path) == first.get()
    with lbv.temp_flags(block=True):
        assert lbv.map(work, range(10), checkpoint=path) == first.get()
    second.wait_interactive(widget=False)


def half(lbv, path, done=(1, 2, 5, 6, 7), count=10, **options):
    """The file of a map that has ended when it had these."""
    lbv.map_async(work, range(count), checkpoint=path, **options).wait()
    journal._close_all()
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM results")
    file.close()
    size = options.get("chunksize", 1)
    values = {task: [n * n for n in range(count)][task * size : (task + 1) * size] for task in done}
    opened = sqlite3.connect(path)
    arrived = frame(done, [value if size > 1 else value[0] for value in values.values()])
    opened.execute("INSERT INTO results VALUES (?, ?, ?)", (arrived[0], arrived[5], arrived[6]))
    opened.commit()
    opened.close()


@pytest.mark.parametrize("ordered", [True, False])
def test_only_the_rest_is_run(rc, lbv, path, ran, controller, ordered) -> None:
    half(lbv, path)
    ran.clear()
    controller.hold.set()
    result = lbv.map_async(work, range(10), checkpoint=path, ordered=ordered, label="half")
    assert result.progress == 5
    assert not result.done()
    values = iter(result)
    if not ordered:
        assert [next(values) for _ in range(5)] == [1, 4, 25, 36, 49]  # what is there
    controller.release()
    assert sorted(values) == ([n * n for n in range(10)] if ordered else [0, 9, 16, 64, 81])
    assert ran == [0, 3, 4, 8, 9]
    assert result.get() == [n * n for n in range(10)]
    assert [engine is None for engine in result.engine_id] == [n in (1, 2, 5, 6, 7) for n in range(10)]
    assert [part.get() for part in result.split()] == result.get()
    assert [rc.get_result(msg_id).get() for msg_id in result.msg_ids] == result.get()
    assert rc.results[result.msg_ids[4]] == 16
    assert result.metadata[5]["label"] == "half"
    assert result.serial_time > 0
    journal._close_all()
    assert lbv.map_sync(work, range(10), checkpoint=path) == result.get()
    assert len(ran) == 5


def test_records_tell_of_what_was_sent(rc, lbv, path, ran, controller) -> None:
    half(lbv, path)
    result = lbv.map_async(work, range(10), checkpoint=path, label="half")
    result.wait()
    records = rc.db_query({"label": "half"}, ["msg_id", "engine_id"])
    sent = [msg_id for n, msg_id in enumerate(result.msg_ids) if n in (0, 3, 4, 8, 9)]
    assert sorted(record["msg_id"] for record in records) == sorted(sent)
    assert rc.resubmit(result.msg_ids[3]).get() == [9]
    with pytest.raises(KeyError, match="has only 5 results"):
        rc.resubmit(result.msg_ids[1])


def test_failed_tasks_are_run_again(lbv, path, ran) -> None:
    items = [1, -2, 3, -4]
    with pytest.raises(ipp.CompositeError):
        lbv.map_sync(work, items, checkpoint=path)
    result = lbv.map_async(work, items, checkpoint=path)
    result.wait()
    assert ran == [*items, -2, -4]
    assert [type(value).__name__ for value in result.get(return_exceptions=True)] == ["int", "RemoteError"] * 2
    assert result["status"] == ["ok", "error", "ok", "error"]
    with pytest.raises(ipp.RemoteError, match="-2"):
        list(result)


@pytest.mark.parametrize("ordered", [True, False])
def test_chunks(lbv, path, ran, controller, ordered) -> None:
    half(lbv, path, done=(0, 2), count=11, chunksize=3)
    ran.clear()
    result = lbv.map_async(work, range(11), checkpoint=path, chunksize=3, ordered=ordered)
    assert sorted(result) == [n * n for n in range(11)]
    assert result.get() == [n * n for n in range(11)]
    assert ran == [3, 4, 5, 9, 10]
    assert (len(result), result.progress, len(result.msg_ids)) == (11, 11, 4)
    with pytest.raises(ValueError, match="chunksize=3"):
        lbv.map_async(work, range(11), checkpoint=path)


def test_several_sequences(lbv, path) -> None:
    assert lbv.map_sync(pow, [2, 3], [4, 5], checkpoint=path) == [16, 243]
    assert lbv.map_sync(pow, [2, 3], [4, 5], checkpoint=path) == [16, 243]
    with pytest.raises(ValueError, match="other items"):
        lbv.map_sync(pow, [(2, 4), (3, 5)], checkpoint=path)


def test_what_a_user_changes(lbv, path) -> None:
    assert lbv.map_sync(lambda x: x + 1, range(3), checkpoint=path) == [1, 2, 3]
    with pytest.raises(ValueError, match="before its code was changed"):
        lbv.map_sync(lambda x: x + 2, range(3), checkpoint=path)
    changed = {"checkpoint": path, "same_code": False}
    assert lbv.map_async(lambda x: x + 2, range(3), **changed).get() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"not of builtins\.abs: name another file"):
        lbv.map_sync(abs, range(3), **changed)
    with pytest.raises(ValueError, match="3 items, and this one has 4"):
        lbv.map_sync(lambda x: x + 2, range(4), **changed)


def test_arrays_that_the_user_writes_to(lbv, path, controller) -> None:
    def made(n):
        import numpy

        return numpy.full(100_000, n)

    result = lbv.map_async(made, range(3), checkpoint=path)
    for array in result:
        array[:] = -1
    journal._close_all()
    again = lbv.map_sync(made, range(3), checkpoint=path)
    assert [array[0] for array in again] == [0, 1, 2]
    again[0][:] = 5  # arrays are the user's


def test_results_that_cannot_be_loaded_say_where_they_are(lbv, path, monkeypatch) -> None:
    import sys
    import types

    module = types.ModuleType("px_gone")
    exec("class Gone:\n  pass", vars(module))
    monkeypatch.setitem(sys.modules, "px_gone", module)
    assert lbv.map_async(getattr, [module], ["Gone"], checkpoint=path).get() == [module.Gone]
    again = lbv.map_async(getattr, [module], ["Gone"], checkpoint=path)
    monkeypatch.delitem(sys.modules, "px_gone")
    with pytest.raises(ipp.CompositeError, match="the result of the checkpoint cannot be loaded here"):
        again.get()


def test_dependencies_on_what_was_there(rc, lbv, path, ran, controller) -> None:
    def sent_need(**flags):
        with lbv.temp_flags(**flags):
            lbv.apply_async(abs, 1).wait()
        headers = []
        while not controller.received.empty():
            headers.append(controller.received.get()[0])
        return [header for header in headers if header["type"] == "map"][-1].get("after")

    half(lbv, path)
    result = lbv.map_async(work, range(10), checkpoint=path)
    result.wait()
    number = int(result.msg_ids[0].split("_")[1])
    assert sent_need(after=result)["needs"] == [{"request": number}]
    assert sent_need(after=result.msg_ids[1]) is None
    assert sent_need(after=[result.msg_ids[1], result.msg_ids[3]])["needs"] == [{"request": number, "part": 1}]
    assert sent_need(after=ipp.Dependency(result, all=False)) is None
    failing = ipp.Dependency(result, all=False, success=False, failure=True)
    assert sent_need(after=failing)["needs"] == [{"request": number}]
    with pytest.raises(ipp.InvalidDependency, match="have succeeded"):
        sent_need(after=ipp.Dependency(result, success=False, failure=True))
    whole = lbv.map_async(work, range(10), checkpoint=path)
    assert sent_need(after=whole) is None
    with pytest.raises(ipp.InvalidDependency, match="have succeeded"):
        sent_need(after=ipp.Dependency(whole, all=False, success=False, failure=True))


def test_what_keeps_no_checkpoint(rc, lbv, path) -> None:
    with pytest.raises(NotImplementedError, match="map_async"):
        lbv.imap(abs, [1], checkpoint=path)
    with pytest.raises(NotImplementedError, match=r"rc.load_balanced_view\(\).map_async"):
        rc[:].map_async(abs, [1], checkpoint=path)
    with pytest.raises(NotImplementedError):
        rc[:].imap(abs, [1], checkpoint=path)
    assert lbv.map_async(abs, [], checkpoint=path) == []
    with pytest.raises(ipp.SerializationError):
        lbv.map_async(abs, [(x for x in ())], checkpoint=path)
    assert os.listdir(path.parent) == ["socket"]


def test_a_map_that_cannot_be_sent_lets_go_of_its_file(rc, lbv, path, controller) -> None:
    with pytest.raises(ipp.SerializationError):
        lbv.map_async(functools.partial(abs, (x for x in ())), [1], checkpoint=path)
    for number in list(controller.engines):
        controller.lose_engine(number)
    rc._session.wait(lambda: len(rc) == 0, PATIENCE)
    with pytest.raises(ipp.NoEnginesRegistered):
        lbv.map_async(abs, [1], checkpoint=path)
    assert not (path.parent / "checkpoint.lock").exists()


def test_a_map_that_still_runs_here(rc, lbv, path, controller, ran) -> None:
    controller.hold.set()
    first = lbv.map_async(work, range(4), checkpoint=path)
    with pytest.raises(BlockingIOError, match="has not ended"):
        lbv.map_async(work, range(4), checkpoint=path)
    controller.release()
    assert first.get() == lbv.map_sync(work, range(4), checkpoint=path)
    assert ran == [0, 1, 2, 3]


def test_a_client_that_is_closed_lets_go_of_the_file(rc, lbv, path, controller, ran) -> None:
    controller.hold.set()
    result = lbv.map_async(work, range(4), checkpoint=path)
    assert (path.parent / "checkpoint.lock").exists()
    rc.close()
    with pytest.raises(ipp.ConnectionLost):
        result.get()
    wait_until(lambda: not (path.parent / "checkpoint.lock").exists())


def test_values_of_numpy_items(lbv, path, ran) -> None:
    items = [numpy.arange(3) * n for n in range(3)]
    assert lbv.map_sync(numpy.sum, items, checkpoint=path) == [0, 3, 6]
    assert lbv.map_async(numpy.sum, [numpy.arange(3) * n for n in range(3)], checkpoint=path).done()
    with pytest.raises(ValueError, match="other items"):
        lbv.map_sync(numpy.sum, items[::-1], checkpoint=path)
