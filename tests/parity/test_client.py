"""The client: engines by index, views, what is known of calls, waiting and control."""

from __future__ import annotations

import concurrent.futures
import re
from pathlib import Path
from typing import Any

import pytest
from harness.gates import Gate, pass_gate
from harness.waiting import wait_for

from .functions import fail, pid, square
from .peers import Peer


@pytest.mark.smoke
def test_ids_length_and_iteration(rc: Any) -> None:
    assert rc.ids == [0, 1, 2, 3]
    assert len(rc) == 4
    assert [view.targets for view in rc] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("key", "targets"),
    [
        (0, 0),
        (3, 3),
        (-1, 3),
        (-4, 0),
        (slice(None), [0, 1, 2, 3]),
        (slice(None, None, 2), [0, 2]),
        (slice(1, 3), [1, 2]),
        (slice(-2, None), [2, 3]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        ([1, 3], [1, 3]),
        ([3, 1], [3, 1]),
        ([2], [2]),
        ((0, 3), [0, 3]),
        (range(1, 4), [1, 2, 3]),
    ],
)
def test_a_view_by_index(rc: Any, ipp: Any, key: Any, targets: Any) -> None:
    view = rc[key]
    assert isinstance(view, ipp.DirectView)
    assert view.targets == targets
    assert len(view) == (1 if isinstance(targets, int) else len(targets))


@pytest.mark.parametrize("key", ["0", "all", "any", None, 1.0, {0}, {0: 1}])
def test_other_keys_are_type_errors(rc: Any, key: Any) -> None:
    with pytest.raises(TypeError, match="key by int/slice/iterable of ints only, not <class"):
        rc[key]


def test_engines_that_do_not_exist(rc: Any) -> None:
    for key in (4, 99):
        with pytest.raises(IndexError, match=f"No such engine: {key}"):
            rc[key]
    with pytest.raises(IndexError):
        rc[-5]


def test_ids_in_lists(peer: Peer, rc: Any) -> None:
    if peer.differs("engine ids in lists"):
        assert rc[[-1, 0]].targets == [3, 0]
        with pytest.raises(IndexError, match="No such engine: 99"):
            rc[[0, 99]]
    else:
        for key in ([-1, 0], [0, 99]):
            with pytest.raises(KeyError):
                rc[key]


@pytest.mark.parametrize("make", ["direct_view", "load_balanced_view", "broadcast_view"])
def test_targets_by_name(peer: Peer, rc: Any, make: str) -> None:
    method = getattr(rc, make)
    assert (
        repr(method("all"))
        == {
            "direct_view": "<DirectView all>",
            "load_balanced_view": "<LoadBalancedView None>",
            "broadcast_view": "<BroadcastView [0, 1, 2, 3]>",
        }[make]
    )
    refused = ["any", "0"]
    if make == "load_balanced_view" and peer.differs('`load_balanced_view("any")`'):
        refused.remove("any")
        assert repr(method("any")) == "<LoadBalancedView None>"
    for name in refused:
        with pytest.raises(TypeError, match=f"'{name}' not valid str target, must be 'all'"):
            method(name)


def test_repr_of_views(rc: Any) -> None:
    views = [rc[:], rc[0], rc[-1], rc[::2], rc[[1, 3]], rc[(0,)], rc.direct_view(), rc.direct_view([0])]
    views += [rc.load_balanced_view(), rc.load_balanced_view([0, 1]), rc.broadcast_view([1])]
    views += [rc.direct_view([0, 1, 2, 3, 0, 1])]
    assert [repr(view) for view in views] == [
        "<DirectView [0, 1, 2, 3]>",
        "<DirectView 0>",
        "<DirectView 3>",
        "<DirectView [0, 2]>",
        "<DirectView [1, 3]>",
        "<DirectView [0]>",
        "<DirectView all>",
        "<DirectView [0]>",
        "<LoadBalancedView None>",
        "<LoadBalancedView [0, 1]>",
        "<BroadcastView [1]>",
        "<DirectView [0, 1, 2, 3,...]>",
    ]


def test_flags_of_new_views(rc: Any) -> None:
    view = rc.direct_view([1, 2], block=True, label="mine")
    assert (view.targets, view.block, view.label, view.track) == ([1, 2], True, "mine", False)
    balanced = rc.load_balanced_view([0, 1], retries=2, timeout=3)
    assert (balanced.targets, balanced.retries, balanced.timeout) == ([0, 1], 2, 3.0)
    assert (balanced.after, balanced.follow, balanced.block) == (None, None, False)


def test_views_inherit_block_from_the_client(rc: Any) -> None:
    assert rc.block is False
    rc.block = True
    try:
        assert rc[:].block is True
        assert rc.load_balanced_view().block is True
    finally:
        rc.block = False
    assert rc[0].block is False


def test_waiting_for_engines(rc: Any) -> None:
    assert rc.wait_for_engines(4, timeout=60) is None
    assert rc.wait_for_engines(1, interactive=False) is None
    future = rc.wait_for_engines(4, block=False)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=60) is None


def test_waiting_for_engines_that_do_not_come(rc: Any) -> None:
    with pytest.raises(TimeoutError, match=r"^5 engines not ready in 0\.1 seconds\. Currently ready: 4$"):
        rc.wait_for_engines(5, timeout=0.1, interactive=False)


def test_calls_are_found_by_id_by_index_and_by_result(rc: Any, ipp: Any, tmp_path: Path) -> None:
    pids = rc[:].apply_sync(pid)
    with Gate(tmp_path / "gate") as gate:
        single = rc[1].apply_async(pass_gate, None, gate.folder)
        several = rc[:].apply_async(pass_gate, None, gate.folder)
        assert (len(single.msg_ids), len(several.msg_ids)) == (1, 4)
        assert rc.history[-5:] == [*single.msg_ids, *several.msg_ids]
        named = {
            single.msg_ids[0]: pids[1],
            (*single.msg_ids,): [pids[1]],
            (*several.msg_ids,): pids,
            (single.msg_ids[0], several.msg_ids[2]): pids[1:3],
            single: pids[1],
            -5: pids[1],
            None: pids[3],
        }
        found = [rc.get_result(list(name) if isinstance(name, tuple) else name) for name in named]
        assert all(isinstance(result, ipp.AsyncResult) for result in found)
        gate.open()
        assert [result.get(timeout=60) for result in found] == list(named.values())
    with pytest.raises(TypeError):
        rc.get_result(1.5)


def test_unknown_calls(rc: Any, ipp: Any) -> None:
    with pytest.raises((KeyError, ipp.RemoteError), match="deadbeef"):
        rc.get_result("deadbeef_1").get(timeout=60)


def test_results_and_metadata_by_id(peer: Peer, rc: Any) -> None:
    result = rc[2].apply_async(square, 7)
    assert result.wait(timeout=60)
    (msg_id,) = result.msg_ids
    if peer.differs("`rc.results`, `rc.metadata`"):
        assert rc.results[msg_id] == 49
        assert rc.metadata[msg_id]["engine_id"] == 2
        assert rc.metadata[msg_id].msg_id == msg_id
    else:
        assert msg_id not in rc.results
    assert msg_id not in rc.outstanding


@pytest.mark.smoke
def test_what_is_outstanding(rc: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        result = rc[0].apply_async(pass_gate, None, gate.folder)
        assert set(result.msg_ids) <= rc.outstanding
        assert rc.wait(result, timeout=0.05) is False
        assert rc.wait(timeout=0.05) is False
        assert rc.wait(result.msg_ids, timeout=0.05) is False
        gate.open()
        assert rc.wait(result, timeout=60) is True
    assert not set(result.msg_ids) & rc.outstanding
    assert rc.wait([], timeout=60) is True


def test_status_of_results(peer: Peer, rc: Any, ipp: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        waiting = rc[0].apply_async(pass_gate, None, gate.folder)
        gate.wait_for_marks(1)
        status = wait_for(lambda: status_of(ipp, rc, waiting.msg_ids), "the call is known")
        assert (status["pending"], status["completed"]) == (waiting.msg_ids, [])
    result = waiting.get(timeout=60)
    if peer.differs("`result_status`"):
        (msg_id,) = waiting.msg_ids
        assert rc.result_status(waiting) == {"pending": [], "completed": [msg_id]}
        assert rc.result_status(waiting, status_only=False)[msg_id] == result


def status_of(ipp: Any, rc: Any, msg_ids: list[str]) -> Any:
    """None where a hub does not know a call yet that has been sent."""
    try:
        return rc.result_status(msg_ids)
    except ipp.RemoteError:
        return None


def test_queue_status(peer: Peer, rc: Any) -> None:
    rc[:].apply_sync(square, 1)
    status = rc.queue_status()
    assert set(status) == {0, 1, 2, 3, "unassigned"}
    assert status["unassigned"] == 0
    for engine in range(4):
        assert set(status[engine]) == {"queue", "completed", "tasks"}
        assert all(isinstance(number, int) for number in status[engine].values())
    assert set(rc.queue_status(1)) == {"queue", "completed", "tasks"}
    assert set(rc.queue_status([0, 2])) == {0, 2, "unassigned"}
    verbose = rc.queue_status(0, verbose=True)
    if peer.differs("`queue_status(verbose=True)`"):
        assert isinstance(verbose["completed"], int)
    else:
        assert isinstance(verbose["completed"], list)


def test_abort_takes_what_has_not_started(rc: Any, ipp: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        running = rc[0].apply_async(pass_gate, None, gate.folder)
        gate.wait_for_marks(1)
        waiting = rc[0].apply_async(square, 1)
        rc.abort(waiting, block=True)
        gate.open()
        running.get(timeout=60)
        with pytest.raises(ipp.TaskAborted):
            waiting.get(timeout=60)
    assert rc[0].apply_async(square, 2).get(timeout=60) == 4


@pytest.mark.parametrize("signal", [2, "SIGINT"])
def test_signals_interrupt_user_code(rc: Any, ipp: Any, tmp_path: Path, signal: Any) -> None:
    with Gate(tmp_path / "gate") as gate:
        running = rc[[1]].apply_async(pass_gate, None, gate.folder)
        gate.wait_for_marks(1)
        rc.send_signal(signal, targets=1, block=True)
        with pytest.raises(ipp.CompositeError, match=r"\[1:apply\]KeyboardInterrupt"):
            running.get(timeout=60)
    assert rc[1].apply_sync(square, 3) == 9


def test_purged_results(rc: Any) -> None:
    result = rc[0].apply_async(square, 2)
    assert result.wait(timeout=60)
    rc.purge_local_results(result)
    assert result.get() == 4


def test_engines_are_not_restarted(rc: Any) -> None:
    with pytest.raises(NotImplementedError):
        rc.shutdown(restart=True)


@pytest.mark.smoke
def test_clear_empties_namespaces(peer: Peer, rc: Any) -> None:
    rc[:].push({"cleared": 1}, block=True)
    rc.clear(block=True)
    known = rc[:].pull("'cleared' in globals()", block=True)
    if peer.differs("`clear()`"):
        assert known == [False] * 4
    else:
        wait_for(lambda: rc[:].pull("'cleared' in globals()", block=True) == [False] * 4, "names go")
    rc[:].push({"cleared": 1, "kept": 2}, block=True)
    rc[0].clear(block=True)
    wait_for(lambda: rc[:].pull("'cleared' in globals()", block=True) == [False, True, True, True], "one engine's go")


def test_a_client_is_a_context_manager(peer: Peer) -> None:
    with peer.connect() as other:
        assert other.ids == [0, 1, 2, 3]
        assert other[:].apply_sync(pid) == peer.rc[:].apply_sync(pid)
        assert other.history != peer.rc.history


def test_results_of_another_client(peer: Peer) -> None:
    result = peer.rc[0].apply_async(square, 9)
    assert result.get(timeout=60) == 81
    with peer.connect() as other:
        assert other.get_result(result.msg_ids[0], block=True).get(timeout=60) == 81


@pytest.mark.smoke
def test_errors_of_one_and_of_several_engines(rc: Any, ipp: Any) -> None:
    with pytest.raises(ipp.RemoteError, match=r"^\[2:apply\] ValueError: oh$") as single:
        rc[2].apply_sync(fail)
    assert not isinstance(single.value, ipp.CompositeError)
    with pytest.raises(ipp.CompositeError, match=re.escape("one or more exceptions raised in: fail\n[2:apply]Va")):
        rc[[2]].apply_sync(fail)
