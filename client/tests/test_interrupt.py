"""Ctrl-C, really sent, at moments that the tests choose."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from pxcluster.interrupt import InterruptGuard
from support import child


def interrupt_when(condition):
    """Send SIGINT to this process as soon as `condition` returns; also while the main thread is blocked."""

    def send():
        condition()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_an_interrupted_wait_leaves_the_client_usable(rc, dv, lbv, controller):
    for wait in (
        lambda: dv.apply_sync(len, "abc"),
        lambda: rc[0].apply_sync(len, "abc"),
        lambda: lbv.map_sync(len, ["a"] * 20),
        lambda: dv["x"],
    ):
        controller.hold.set()
        while not controller.received.empty():
            controller.received.get()
        thread = interrupt_when(lambda: controller.received.get(timeout=10))
        with pytest.raises(KeyboardInterrupt):
            wait()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        controller.release()
        assert dv.apply_sync(len, "abcd") == [4] * 4
        assert lbv.map_sync(len, ["ab"] * 20) == [2] * 20


def test_an_interrupted_result_can_be_waited_for_again(dv, controller):
    controller.hold.set()
    result = dv.apply_async(len, "abc")
    controller.expect("direct")
    waiting = threading.Event()
    thread = interrupt_when(waiting.wait)
    with pytest.raises(KeyboardInterrupt):
        waiting.set() or result.get()
    thread.join()
    controller.release()
    assert result.get(10) == [3] * 4


def test_interrupting_a_send_that_is_blocked_loses_no_bytes(rc, controller):
    taken = threading.Event()
    go_on = threading.Event()
    original = controller._on_direct

    def slow(header, buffers):
        taken.set()
        assert go_on.wait(30)
        original(header, buffers)

    controller._on_direct = slow
    first = rc[0].apply_async(len, b"x")
    assert taken.wait(10)  # from here on nobody reads the socket
    data = b"y" * (8 << 20)

    def half_sent():
        while len(rc._session.registry.pending) < 2:
            pass

    thread = interrupt_when(half_sent)
    with pytest.raises(KeyboardInterrupt):
        rc[0].push({"data": data}, block=True)
    thread.join()
    go_on.set()
    controller._on_direct = original
    assert first.get(10) == 1
    assert rc[0].apply_sync(len, "abc") == 3
    assert rc[0]["len(data)"] == len(data)


def test_a_storm_of_interrupts_tears_nothing():
    code = """
        import os, tempfile
        from support import Storm, info_of
        from fake_controller import FakeController
        import pxcluster

        path = tempfile.mkdtemp() + "/s"
        fake = FakeController(path)
        rc = pxcluster.Client(info_of(path))
        lbv = rc.load_balanced_view()
        finished = 0

        def work():
            global finished
            assert rc[0].apply_sync(len, "ab") == 2
            assert lbv.map_sync(len, ["abc"] * 5) == [3] * 5
            finished += 1

        storm = Storm()
        while finished < 50 or storm.hits < 200:
            storm.over(work)
        storm.end()
        assert rc[:].apply_sync(len, "abc") == [3] * 4
        print("survived")
        rc.close()
        os._exit(0)
    """
    done = child(code)
    assert done.stdout == "survived\n", done.stderr


def test_a_storm_while_another_thread_reads():
    code = """
        import os, tempfile, threading
        from support import Storm, info_of
        from fake_controller import FakeController
        import pxcluster

        path = tempfile.mkdtemp() + "/s"
        fake = FakeController(path)
        rc = pxcluster.Client(info_of(path))
        fake.hold.set()
        result = rc[0].apply_async(len, "ab")
        reader = threading.Thread(target=result.wait)
        reader.start()
        storm = Storm()
        while storm.hits < 3000:
            storm.over(result.wait)
        storm.end()
        fake.release()
        assert result.get(60) == 2
        reader.join(60)
        print("survived")
        rc.close()
        os._exit(0)
    """
    done = child(code)
    assert done.stdout == "survived\n", done.stderr


def test_the_guard_remembers_and_delivers_once():
    guard = InterruptGuard()
    outer = guard.hold()
    signal.raise_signal(signal.SIGINT)
    inner = guard.hold()
    guard.release(inner)
    with pytest.raises(KeyboardInterrupt):
        guard.release(outer)
    outer = guard.hold()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        guard.open()
    signal.raise_signal(signal.SIGINT)  # an interrupt that was delivered has shut it
    with pytest.raises(KeyboardInterrupt):
        guard.open()
    guard.open()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    guard.release(outer)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_that_python_cannot_call_are_left_alone():
    guard = InterruptGuard()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        was_open = guard.hold()
        signal.raise_signal(signal.SIGINT)
        guard.release(was_open)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
