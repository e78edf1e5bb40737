"""Maps with a checkpoint, against a fake controller: only the rest is run, and everything else is as without."""

from __future__ import annotations

import functools
import os
import sqlite3

import numpy
import pxcluster as ipp
import pytest
from pxcluster import journal
from support import PATIENCE, frame, wait_until


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
