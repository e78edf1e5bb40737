from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from datetime import datetime

import pxcluster as ipp
import pytest


def fail_on(n):
    def f():
        raise ValueError(n)

    return f


def test_it_is_a_future(dv, lbv):
    results = [dv.apply_async(len, "abc"), lbv.map_async(len, ["a"] * 10), lbv.apply_async(len, "ab")]
    done, pending = concurrent.futures.wait(results, timeout=10)
    assert (len(done), pending) == (3, set())
    assert [result.result() for result in results] == [[3] * 4, [1] * 10, 2]
    assert all(isinstance(result, concurrent.futures.Future) for result in results)
    seen = [result.result() for result in concurrent.futures.as_completed(results, timeout=10)]
    assert 2 in seen


def test_it_works_with_asyncio(lbv):
    async def main():
        return await asyncio.wrap_future(lbv.apply_async(len, "abc"))

    assert asyncio.run(main()) == 3


def test_callbacks_run_without_anybody_waiting(dv):
    called = threading.Event()
    seen = []

    def callback(result):
        seen.append(result.get())
        seen.append(dv.apply_sync(len, "ab"))  # a callback may use the client
        called.set()

    dv.apply_async(len, "abc").add_done_callback(callback)
    assert called.wait(10)
    assert seen == [[3] * 4, [2] * 4]


def test_states(dv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "abc")
    assert repr(result) == "<AsyncResult(len): pending>"
    assert not result.ready()
    assert not result.done()
    assert result.running()
    assert result.wait(0.01) is False
    with pytest.raises(TimeoutError, match="not ready"):
        result.get(0.01)
    with pytest.raises(TimeoutError):
        result[0]
    with pytest.raises(RuntimeError):
        result.successful()
    with pytest.raises(TimeoutError):
        _ = result.wall_time
    assert result.elapsed >= 0
    assert result.progress == 0
    controller.release()
    assert result.wait(10) is True
    assert result.successful()
    assert result.exception() is None
    with pytest.raises(RuntimeError, match="already done"):
        result.abort()


def test_indices_names_and_metadata(dv, rc):
    result = dv.execute("print(engine_id); engine_id", silent=False, block=True)
    assert result[1].execution_count == 1
    assert len(result[1:]) == 3
    assert result.stdout == ["0\n", "1\n", "2\n", "3\n"]
    assert result["engine_id"] == [0, 1, 2, 3]
    assert result.status == ["ok"] * 4
    assert all(isinstance(stamp, datetime) and stamp.tzinfo for stamp in result.started + result.received)
    assert result.metadata[2].engine_id == 2
    with pytest.raises(KeyError):
        result["nonsense"]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = result.nonsense
    with pytest.raises(TypeError):
        result[1.5]
    single = rc[0].apply_async(len, "a")
    with pytest.raises(TypeError, match="not iterable"):
        iter(single)
    assert single.get() == 1
    assert single.engine_id == 0
    assert set(single.metadata) >= {"msg_id", "submitted", "follow", "label", "data"}
    assert result.wall_time > 0
    assert result.serial_time >= 0
    assert result.timedelta(result.submitted, result.received) >= 0


def test_errors_of_several_engines(dv):
    result = dv.apply_async(lambda: 1 / 0)
    with pytest.raises(ipp.CompositeError) as raised:
        result.get()
    assert repr(raised.value) == "CompositeError(4)"
    assert str(raised.value).splitlines()[1] == "[0:apply]ZeroDivisionError: division by zero"
    assert repr(result) == "<AsyncResult(<lambda>): failed>"
    assert result.exception() is raised.value
    assert [type(value) for value in result.get(return_exceptions=True)] == [ipp.RemoteError] * 4
    assert result.error[3].engine_info == {"engine_id": 3, "engine_uuid": "uuid-3", "method": "apply"}
    with pytest.raises(ipp.RemoteError, match=r"\[2:apply\] ZeroDivisionError"):
        raised.value.raise_exception(2)


def test_waiting_for_the_first(dv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "abc")
    controller.expect("direct")
    while len(controller._held) < 4:
        pass
    with controller._lock:
        controller.connection.sendall(controller._held.pop(1))
    done, pending = result.wait(10, return_when=concurrent.futures.FIRST_COMPLETED)
    assert (len(done), len(pending)) == (1, 3)
    assert next(iter(done)).engine_id == 1
    assert next(iter(done)).result(timeout=10) == 3
    controller.release()
    assert len(result.wait(10, return_when=concurrent.futures.ALL_COMPLETED)[0]) == 4


def test_split_and_join(dv):
    result = dv.apply_async(len, "abc")
    parts = result.split()
    assert [part.get() for part in parts] == [3] * 4
    assert concurrent.futures.wait(parts, timeout=10).not_done == set()
    assert ipp.AsyncResult.join(*parts).get() == [3] * 4
    assert result.get_dict() == dict.fromkeys(range(4), 3)
    with pytest.raises(ValueError):
        ipp.AsyncResult.join()


def test_an_engine_twice_makes_no_dict(lbv):
    with pytest.raises(ValueError, match="2 jobs ran on engine #0"):
        lbv.map_async(len, ["a"] * 5).get_dict()


def test_aborted_tasks(dv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "abc")
    single = dv.client[0].apply_async(len, "abc")
    while len(controller._held) < 5:  # until both have been answered, or the test's time is up
        time.sleep(0.001)
    with controller._lock:
        controller._held.clear()
        controller.hold.clear()
    for number, targets in ((1, range(4)), (2, [0])):
        for engine in targets:
            reply = {"type": "reply", "id": number, "engine": engine, "status": 2, "started": 1.0, "completed": 1.0}
            controller.send(reply)
    with pytest.raises(ipp.CompositeError, match="TaskAborted"):
        result.get(10)
    with pytest.raises(ipp.TaskAborted):
        single.get(10)
    assert single.status == "aborted"


@pytest.mark.parametrize(
    ("ename", "error"),
    [("EngineError", ipp.EngineError), ("NoEnginesRegistered", ipp.NoEnginesRegistered), ("X", ipp.RemoteError)],
)
def test_requests_that_are_lost_as_a_whole(lbv, controller, ename, error):
    controller.hold.set()
    result = lbv.map_async(len, ["a"] * 3)
    controller.expect("map")
    controller.send({"type": "failed", "id": 1, "ename": ename, "message": "Engine 1 died"})
    with pytest.raises(error):
        result.get(10)
    with pytest.raises(error):
        list(result)
    assert repr(result) == "<AsyncMapResult(len): failed>"


def test_wait_interactive_counts_items(lbv, capsys):
    result = lbv.map_async(len, ["a"] * 6, chunksize=2)
    result.wait_interactive()
    assert result.get() == [1] * 6
    assert "len: 100%" in capsys.readouterr().out.replace("\r", "\n")


def test_wait_interactive_counts_engines_of_direct_calls(dv, controller, capsys):
    result = dv.push({"a": 1})
    result.wait_interactive()
    shown = capsys.readouterr().out.replace("\r", "\n")
    assert "_push: 100%" in shown
    assert "4/4" in shown
    assert "engines/s" in shown
    controller.hold.set()
    waiting = dv.scatter("b", range(8))
    waiting.wait_interactive(interval=0.01, timeout=0.02)
    assert "scatter:   0%|          | 0/4" in capsys.readouterr().out
    controller.release()
    assert waiting.get() == [None] * 4
    dv.map_async(len, ["a"] * 6).wait_interactive()
    assert "6/6" in capsys.readouterr().out


def test_threads_share_a_client(rc, dv, lbv):
    wrong = []

    def work(number):
        for turn in range(30):
            if rc[number % 4].apply_sync(len, "x" * turn) != turn:
                wrong.append(turn)
            if lbv.map_sync(len, ["x" * number] * 20) != [number] * 20:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


def test_a_duplicated_answer_counts_once(rc, controller):
    result = rc[0].apply_async(len, "a")
    assert result.get(10) == 1
    reply = {"type": "reply", "id": 1, "engine": 0, "status": 0, "started": 1.0, "completed": 1.0}
    controller.send(reply, [b"nonsense"])
    assert rc[0].apply_sync(len, "ab") == 2
    assert result.get() == 1
