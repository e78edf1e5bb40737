from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fake_controller
import pxcluster as ipp
import pytest


def test_a_lost_connection_is_made_again_and_what_was_held_back_arrives(rc, dv, lbv, controller):
    controller.resumes = True
    controller.hold.set()
    mapped = lbv.map_async(len, ["a", "bb", "ccc"])
    applied = dv.apply_async(len, "abcd")
    controller.expect("direct")
    controller.last_request = 2
    controller.break_connection()
    hello = controller.expect("hello")[0]
    assert (hello["session"], hello["received"]) == (rc.session_name, 0)
    controller.release()
    assert mapped.get(timeout=30) == [1, 2, 3]
    assert applied.get(timeout=30) == [4] * 4
    assert rc.ids == [0, 1, 2, 3]
    assert dv.apply_sync(len, "ab") == [2] * 4


def test_only_what_was_never_sent_fails(rc, dv, controller):
    controller.resumes = True
    controller.hold.set()
    sent, lost = dv.apply_async(len, "a"), dv.apply_async(len, "b")
    controller.expect("direct")
    controller.expect("direct")
    controller.last_request = 1
    controller.break_connection()
    with pytest.raises(ipp.ConnectionLost, match="before this was sent; the session goes on"):
        lost.get(timeout=30)
    assert not sent.done()
    controller.release()
    assert sent.get(timeout=30) == [1] * 4


def test_a_cluster_that_ends_is_announced_once_and_explains_what_did_not_run(rc, lbv, controller, capfd):
    controller.resumes = True
    controller.hold.set()
    mapped = lbv.map_async(len, ["a", "bb"])
    number = controller.expect("map")[0]["id"]
    for _ in range(2):
        controller.send({"type": "draining", "reason": "the night comes", "grace": 20.0})
    aborted = [(index, 2**32 - 1, 2, 0.0, 0.0, b"") for index in range(2)]
    controller.send({"type": "results", "id": number}, fake_controller.columns(aborted))
    with pytest.raises(ipp.CompositeError, match="ClusterEnding: this task was not started: the night comes"):
        mapped.get(timeout=30)
    outcome = mapped.get(return_exceptions=True)[0]
    assert isinstance(outcome, ipp.ClusterEnding)
    told = "the cluster is ending: the night comes; of 2 unfinished tasks those that run may finish, within 20 s"
    assert capfd.readouterr().err.count(told) == 1


@pytest.mark.parametrize(("question", "ask"), [("status", "queue_status"), ("history", "hub_history")])
def test_questions_whose_answers_are_not_kept_are_asked_again(rc, dv, controller, question, ask):
    dv.apply_sync(len, "a")
    controller.resumes = True
    controller.hold.set()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(getattr(rc, ask))
        number = controller.expect(question)[0]["id"]
        controller.last_request = number
        controller.break_connection()
        assert controller.expect(question)[0]["id"] == number
        controller.release()
        assert len(answer.result(timeout=30)) > 3


def test_an_idle_connection_is_made_again_before_it_is_needed(rc, dv, controller):
    controller.resumes = True
    controller.expect("hello")
    for _ in range(3):
        assert dv.apply_sync(len, "a") == [1] * 4
        controller.last_request += 1
        controller.break_connection()
        assert controller.expect("hello")[0]["session"] == rc.session_name
    assert dv.apply_sync(len, "a") == [1] * 4


def test_what_has_come_is_confirmed(rc, dv, controller):
    for _ in range(5):
        dv.apply_sync(len, "a")
    assert controller.expect("received")[0]["frames"] == 16
    assert controller.expect("received")[0]["frames"] == 20  # when nothing happens any more


def test_msg_ids_that_nobody_keeps_are_key_errors(rc, dv):
    dv.apply_sync(len, "a")
    with pytest.raises(KeyError, match="nobody holds the result of '0ther_1_0' any more, and its results are not kept"):
        rc.get_result("0ther_1_0")
    with pytest.raises(KeyError, match="is not a msg_id"):
        rc.get_result("nonsense")


def test_a_session_that_another_process_has_resumed_is_over(rc, dv, controller):
    controller.hold.set()
    waiting = dv.apply_async(len, "a")
    controller.expect("direct")
    controller.send({"type": "refused", "reason": "session s1 has been resumed by process 5 on h"})
    with pytest.raises(ipp.ConnectionLost, match="resumed by process 5"):
        waiting.get(timeout=30)


def test_all_that_live_and_one_that_died_meanwhile_are_everyone() -> None:
    from pxcluster.registry import Registry

    registry = Registry()
    engines = [{"id": number, "host": "fakehost", "pid": 1000 + number} for number in range(3)]
    registry.set_engines(engines)
    assert registry.is_everyone([0, 1, 2])
    assert not registry.is_everyone([0, 1])
    registry.set_engines([engines[0], engines[2]])
    assert registry.is_everyone([0, 1, 2])
    assert not registry.is_everyone([1, 2, 7])
    registry.set_engines(engines[:1])
    assert not registry.is_everyone([0])
