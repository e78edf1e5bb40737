from __future__ import annotations

import pxcluster as ipp
import pytest
from fake_controller import FakeController
from pxcluster import serialize
from support import child, info_of


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, pxcluster; print({'IPython', 'tqdm', 'numpy', 'ssl', 'json'} & set(sys.modules))"
    assert child(code).stdout == "set()\n"


def test_ids_length_iteration_and_indexing(rc):
    assert rc.ids == [0, 1, 2, 3]
    assert len(rc) == 4
    assert [view.targets for view in rc] == [0, 1, 2, 3]
    assert rc[-1].targets == 3
    assert rc[1:3].targets == [1, 2]
    assert rc[(0, 3)].targets == [0, 3]
    assert rc[range(2)].targets == [0, 1]
    views = (rc[:], rc[0], rc[::2], rc.load_balanced_view(), rc.direct_view("all"), rc.broadcast_view())
    assert repr(views) == (
        "(<DirectView [0, 1, 2, 3]>, <DirectView 0>, <DirectView [0, 2]>, <LoadBalancedView None>, "
        "<DirectView all>, <BroadcastView [0, 1, 2, 3]>)"
    )
    with pytest.raises(IndexError, match=r"^No such engine: 99$"):
        rc[99]
    for key in ("all", None, 1.0):
        with pytest.raises(TypeError):
            rc[key]


def test_queue_status(rc):
    assert rc.queue_status() == {"unassigned": 0, **{n: {"queue": 0, "completed": 0, "tasks": 0} for n in range(4)}}
    assert rc.queue_status(1) == {"queue": 0, "completed": 0, "tasks": 0}


def test_signals_by_number_and_name(rc, controller):
    rc.send_signal("SIGINT", targets=[1], block=True)
    assert controller.expect("signal")[0] == {"type": "signal", "id": 1, "signum": 2, "targets": [1]}
    rc.send_signal(15)
    assert controller.expect("signal")[0]["targets"] is None
    with pytest.raises(ValueError, match="no signal"):
        rc.send_signal("SIGNOTHING")


def test_abort_names_requests(rc, controller):
    result = rc[:].apply_async(len, "abc")
    rc.abort(result, block=True)
    assert controller.expect("abort")[0]["requests"] == [1]


def test_waiting_for_engines(rc, controller):
    rc.wait_for_engines(4)
    rc.wait_for_engines()
    with pytest.raises(TimeoutError, match=r"5 engines not ready in 0.01 seconds. Currently ready: 4"):
        rc.wait_for_engines(5, timeout=0.01)
    future = rc.wait_for_engines(5, block=False)
    controller.send({"type": "engines", "joined": [{"id": 4, "host": "h", "pid": 1}], "lost": []})
    assert future.result(timeout=10) is None
    assert rc.ids == [0, 1, 2, 3, 4]


def test_history_results_and_metadata_by_name(rc, dv, lbv):
    first = dv.apply_async(len, "abc")
    second = lbv.map_async(len, ["a", "bb"])
    assert rc.wait()
    assert first.get() == [3] * 4
    assert rc.history == first.msg_ids + second.msg_ids
    assert len(dv.history) == 4
    assert rc.outstanding == set()
    assert rc.get_result(second.msg_ids[1]).get() == 2
    assert rc.get_result(-1).get() == 2
    assert rc.get_result(first).get() == [3] * 4
    assert rc.results[first.msg_ids[0]] == 3
    assert rc.metadata[first.msg_ids[2]].engine_id == 2
    with pytest.raises(KeyError, match="nobody holds"):
        rc.get_result("s1_77")


def test_shutdown_of_the_cluster(rc):
    with pytest.raises(NotImplementedError, match="hub=True"):
        rc.shutdown()
    rc.shutdown(hub=True)
    assert rc.ids == []
    with pytest.raises(ipp.ConnectionLost, match="has stopped: a client asked for it"):
        rc.wait_for_engines(1)


def test_a_lost_connection_fails_what_waits_and_what_comes(rc, dv, lbv, controller):
    controller.hold.set()
    results = [dv.apply_async(len, "a"), lbv.map_async(len, ["a"]), lbv.apply_async(len, "a")]
    controller.expect("map")
    controller.break_connection()
    for result in results:
        with pytest.raises(ipp.ConnectionLost):
            result.get(timeout=10)
    calls = (lambda: rc[:], lambda: dv["x"], lambda: lbv.map(len, ["a"]), rc.queue_status, lambda: rc[0])
    for call in calls:
        with pytest.raises(ipp.EngineError):
            call()
    assert rc.ids == []


def test_closing_ends_the_thread_and_fails_what_waits(rc, dv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "a")
    controller.expect("direct")
    rc.close()
    rc.close()
    assert not rc._session._daemon.is_alive()
    with pytest.raises(ipp.ConnectionLost, match="this Client is closed"):
        result.get(timeout=10)
    with pytest.raises(ConnectionError):
        dv.apply(len, "a")


def test_an_engine_that_dies(rc, dv, lbv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "a")
    controller.expect("direct")
    with controller._lock:
        controller._held.clear()
    controller.lose_engine(2)
    assert rc._session.wait(lambda: len(rc) == 3, 10)
    with pytest.raises(ipp.EngineError, match="Engine 2 is gone: killed by signal 9"):
        rc[0, 2]
    assert rc.ids == [0, 1, 3]
    assert isinstance(result.split()[2].exception(timeout=10), ipp.EngineError)
    with pytest.raises(ipp.EngineError, match="Engine 2 is gone"):
        dv.apply(len, "a")
    with pytest.raises(ipp.EngineError, match="Engine 2 is gone"):
        rc[2]


def test_an_engine_that_died_between_the_choice_of_targets_and_the_request(rc, dv, controller):
    engines, _ = dv._resolve(None)
    controller.lose_engine(2)
    assert rc._session.wait(lambda: len(rc) == 3, 10)
    request = dv._send("len", "apply", serialize.dumps((len, ("a",), {})), engines, watch=False)[0]
    assert rc._session.wait(lambda: request.slot_done(2), 10)
    assert isinstance(request.outcome(2)[1], ipp.EngineError)


def test_engines_that_are_silent_and_killed(rc, controller):
    silent = {"type": "engines", "joined": [], "lost": [], "silent": [{"id": 1, "reason": "engine 1 says nothing"}]}
    controller.send(silent)
    assert rc._session.wait(lambda: rc.silent == {1: "engine 1 says nothing"}, 10)
    assert rc.ids == [0, 1, 2, 3]
    controller.send({**silent, "silent": [{"id": 1, "reason": ""}]})
    assert rc._session.wait(lambda: not rc.silent, 10)
    controller.send(silent)
    rc.kill_engines([1, 3], block=True)
    assert (rc.ids, rc.silent) == ([0, 2], {})
    rc.kill_engines(rc.ids, block=True)
    with pytest.raises(ipp.NoEnginesRegistered, match="all have died"):
        rc.direct_view().apply(len, "a")


def test_no_engines(tmp_path):
    fake = FakeController(tmp_path / "s", engines=0)
    with ipp.Client(info_of(tmp_path / "s")) as rc:
        for call in (lambda: rc[:], lambda: rc.load_balanced_view().map(len, ["a"]), lambda: rc.direct_view().get("a")):
            with pytest.raises(ipp.NoEnginesRegistered, match="This operation requires engines"):
                call()
    fake.close()


def test_another_python_is_refused_in_one_sentence(tmp_path):
    fake = FakeController(tmp_path / "s", python="3.99")
    with pytest.raises(ipp.VersionMismatch, match=r"runs Python 3\.\d+ but the engines of cluster 'default'"):
        ipp.Client(info_of(tmp_path / "s"))
    fake.close()


def test_a_wrong_key_is_refused(tmp_path):
    fake = FakeController(tmp_path / "s")
    with pytest.raises(ConnectionRefusedError, match="the key is wrong"):
        ipp.Client(info_of(tmp_path / "s", key="00"))
    fake.close()


def test_garbage_from_the_controller_ends_the_session(rc, dv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "a")
    controller.connection.sendall(b"\xff" * 64)
    with pytest.raises(ipp.ConnectionLost, match="unintelligible"):
        result.get(timeout=10)


def test_use_after_a_fork_says_so(tmp_path):
    code = f"""
        import os
        from support import info_of
        from fake_controller import FakeController
        import pxcluster
        fake = FakeController({str(tmp_path / "s")!r})
        rc = pxcluster.Client(info_of({str(tmp_path / "s")!r}))
        dv = rc[:]
        pid = os.fork()
        if pid == 0:
            try:
                dv.apply_sync(len, "a")
            except RuntimeError as error:
                os.write(1, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert dv.apply_sync(len, "a") == [1] * 4
    """
    done = child(code)
    assert "cannot be used after a fork" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def test_an_open_client_does_not_keep_the_interpreter_alive(tmp_path):
    fake = FakeController(tmp_path / "s")
    code = f"""
        from support import info_of
        import pxcluster
        rc = pxcluster.Client(info_of({str(tmp_path / "s")!r}))
        print(rc.ids)
    """
    done = child(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2, 3]\n", "")
    fake.expect("goodbye")
    fake.close()


def test_result_status(rc, controller):
    lbv = rc.load_balanced_view()
    first = lbv.map_async(len, ["a", "bb", 5])
    first.wait()
    controller.hold.set()
    second = rc[0].apply_async(len, "a")
    ids = first.msg_ids
    assert rc.result_status([*ids, second]) == {"pending": second.msg_ids, "completed": ids}
    assert rc.result_status(ids[1], status_only=False) == {"pending": [], "completed": [ids[1]], ids[1]: 2}
    found = rc.result_status([first, -1], status_only=False)
    assert (found["pending"], found["completed"], found[ids[0]]) == (second.msg_ids, ids, 1)
    assert isinstance(found[ids[2]], ipp.RemoteError)
    controller.release()
    second.get()
    assert rc.result_status(second) == {"pending": [], "completed": second.msg_ids}
    for unknown in ("s1_99", "other_1"):
        with pytest.raises(KeyError, match=unknown):
            rc.result_status(unknown)
