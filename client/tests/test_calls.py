"""What a client remembers of its calls: to run them again, to search them, to forget them."""

from __future__ import annotations

import datetime
import warnings

import numpy
import pxcluster as ipp
import pytest
from pxcluster import calls, util
from pxcluster._engine import objects
from pxcluster.error import collect_exceptions, unwrap_exception, wrap_exception


def test_direct_calls_are_made_again(rc, dv, controller):
    rc[[1, 3]].push({"x": 1}, block=True)
    result = rc[[1, 3]].apply_async(len, "abc")
    result.get()
    again = rc.resubmit(result.msg_ids)
    assert isinstance(again, ipp.AsyncHubResult)
    assert (again.get(), again.engine_id) == ([3, 3], [1, 3])
    assert again.msg_ids != result.msg_ids
    assert repr(again) == "<AsyncHubResult(len): finished>"
    assert rc.resubmit(result.msg_ids[1]).engine_id == [3]
    assert rc.resubmit([result.msg_ids[1], result.msg_ids[0]]).engine_id == [3, 1]
    assert rc.resubmit(again, block=True).ready()  # what was made again is remembered, too
    assert rc.resubmit().get() == [3]  # the last of the history


def test_the_whole_cluster_is_addressed_again_as_such(rc, dv, controller):
    result = dv.execute("x = 5", block=True)
    rc.resubmit(result).get()
    headers = [controller.expect("direct")[0] for _ in range(2)]
    assert [header["targets"] for header in headers] == [None, None]
    assert headers[0]["id"] != headers[1]["id"]


def test_tasks_are_made_again(rc, lbv):
    with lbv.temp_flags(label="mine"):
        result = lbv.map_async(lambda a, b: a * b, range(10), range(10))
    assert result.get() == [number * number for number in range(10)]
    again = rc.resubmit([result.msg_ids[4], result.msg_ids[2], result.msg_ids[4]])
    assert again.get() == [16, 4, 16]
    assert again.label == ["mine"] * 3
    assert rc.resubmit(lbv.apply_async(pow, 2, 5)).get() == [32]


def test_what_cannot_be_made_again_is_named(rc, dv, lbv, monkeypatch):
    monkeypatch.setattr(objects, "_objects", {})
    large = dv.apply_async(len, numpy.zeros(20_000))
    with pytest.raises(KeyError, match=r"s1_\d+' cannot be made again, because its arguments are larger than"):
        rc.resubmit(large)
    arrays = lbv.map_async(len, [numpy.zeros(20_000)])
    with pytest.raises(KeyError, match="because its items hold large arrays"):
        rc.resubmit(arrays)
    handle = rc.put([1, 2])
    shared = rc[0].apply_async(type, handle)
    assert shared.get() is list
    with pytest.raises(KeyError, match="objects that were sent once"):
        rc.resubmit(shared)
    with pytest.raises(KeyError, match="is not a msg_id: they look like s1_1"):
        rc.resubmit("invalid")
    with pytest.raises(KeyError, match="'s2_1' is a call of another client"):
        rc.resubmit("s2_1")
    with pytest.raises(KeyError, match="is not remembered"):
        rc.resubmit("s1_999")
    small = dv.apply_async(len, "abc")
    with pytest.raises(KeyError, match="has only 4 results"):
        rc.resubmit(small.msg_ids[0][:-1] + "7")
    with pytest.raises(TypeError, match="Expected msg_id, int, or AsyncResult"):
        rc.resubmit(2.5)


def test_a_call_on_an_engine_that_died_is_refused_before_anything_is_sent(rc, dv, controller):
    good, bad = rc[0].apply_async(len, "a"), rc[2].apply_async(len, "ab")
    assert (good.get(), bad.get()) == (1, 2)
    controller.lose_engine(2)
    assert rc._session.wait(lambda: 2 not in rc.ids, 30)
    before = rc.history
    with pytest.raises(ipp.EngineError, match="Engine 2 is gone"):
        rc.resubmit([good, bad])
    assert rc.history == before


def test_arguments_are_those_of_the_first_time(rc, dv):
    values = numpy.ones(1000)
    result = dv.apply_async(numpy.sum, values)
    assert result.get() == [1000.0] * 4
    values[:] = 7
    assert rc.resubmit(result).get() == [1000.0] * 4


def test_memory_is_bounded(rc, monkeypatch):
    monkeypatch.setattr(calls, "MOST_CALLS", 3)
    monkeypatch.setattr(calls, "MOST_BYTES", 100_000)
    view = rc[0]
    results = [view.apply_async(len, "x" * 100) for _ in range(5)]
    assert [rc._calls.find(result._requests[0].id) is not None for result in results] == [False] * 2 + [True] * 3
    big = [view.apply_async(len, "x" * 60_000) for _ in range(2)]
    assert rc.resubmit(big[1]).get() == [60_000]
    with pytest.raises(KeyError, match="not remembered"):
        rc.resubmit(big[0])
    assert rc._calls._bytes <= 100_000


# -- records -----------------------------------------------------------------------------------------------------


def test_records(rc, dv, lbv):
    first = dv.apply_async(len, "abc")
    first.get()
    lbv.map(len, ["a", "bb"], label="two").get()
    executed = rc[1].execute("6 * 7", silent=False, block=True)
    history = rc.hub_history()
    assert history == rc.history
    assert [record["msg_id"] for record in rc.db_query({})] == history
    [record] = rc.db_query({"msg_id": first.msg_ids[2]})
    assert (record["engine_id"], record["engine_uuid"], record["status"]) == (2, "fakehost-1002-2", "ok")
    assert (record["queue"], record["client_uuid"]) == ("mux", "s1")
    assert record["header"]["msg_type"] == "apply_request"
    assert set(rc.metadata[first.msg_ids[0]]) <= set(record)
    [record] = rc.db_query({"execute_input": "6 * 7"}, keys=["execute_result", "header"])
    assert sorted(record) == ["execute_result", "header", "msg_id"]
    assert record["execute_result"]["data"] == {"text/plain": "42"}
    assert record["header"]["msg_type"] == "execute_request"
    assert executed.execute_input == "6 * 7"
    rest = rc.db_query({"label": "two"}, keys="queue")
    assert rest == [{"msg_id": msg_id, "queue": "task"} for msg_id in history[4:6]]


def test_calls_of_other_clients(rc, dv, controller):
    rows = controller.remember({"id": 7, "label": "theirs"}, "map", tasks=3, session="s2")
    rows[1] = (2, 1, 5.0, 6.0)
    controller.remember({"id": 8}, "execute", targets=[3], session="s2")[0] = (3, 0, 7.0, 8.0)
    mine = dv.apply_async(len, "abc")
    mine.get()
    assert rc.hub_history() == ["s2_7_0", "s2_7_1", "s2_7_2", "s2_8", *mine.msg_ids]
    assert [record["msg_id"] for record in rc.db_query({"completed": None})] == ["s2_7_0", "s2_7_2"]
    [failed] = rc.db_query({"status": "error"})
    assert (failed["engine_id"], failed["engine_uuid"], failed["label"]) == (2, "fakehost-1002-2", "theirs")
    assert (failed["started"].timestamp(), failed["completed"].timestamp()) == (5.0, 6.0)
    assert (failed["client_uuid"], failed["queue"], failed["stdout"], failed["error"]) == ("s2", "task", "", None)
    [executed] = rc.db_query({"client_uuid": "s2", "queue": "mux"}, keys=["header", "engine_id"])
    assert (executed["header"]["msg_type"], executed["engine_id"]) == ("execute_request", 3)
    rc.purge_hub_results(targets=3)
    assert rc.hub_history() == ["s2_7_0", "s2_7_1", "s2_7_2"]  # what has not ended stays
    with pytest.raises(KeyError, match="not remembered"):
        rc.resubmit(mine)
    rc.purge_hub_results("s2_7_1")
    assert rc.hub_history() == ["s2_7_0", "s2_7_1", "s2_7_2"]
    rows[0] = rows[2] = (1, 0, 5.0, 6.0)
    rc.purge_hub_results("s2_7_1")
    assert rc.hub_history() == []


def test_a_map_of_which_the_controller_keeps_no_tasks(rc, controller):
    controller.remember({"id": 9}, "map", tasks=2, session="s2")
    call, rows = controller.past[-1]
    call["parts"] = 0
    rows.clear()
    assert [record["status"] for record in rc.db_query({"msg_id": {"$in": ["s2_9_0", "s2_9_1"]}})] == [None, None]


def test_what_the_client_does_for_itself_is_not_listed(rc, controller):
    handle = rc.put([1] * 1000)
    assert rc[0].apply_sync(len, handle) == 1000
    del handle
    rc[0].apply_sync(len, "")
    assert rc.hub_history() == rc.history


def test_operators(rc, dv):
    for _ in range(3):
        dv.apply_sync(len, "")
    history = rc.hub_history()

    def found(**query):
        return [record["msg_id"] for record in rc.db_query(query, keys="msg_id")]

    moment = rc.db_query({"msg_id": history[6]})[0]["submitted"]
    before, after = found(submitted={"$lt": moment}), found(submitted={"$gte": moment})
    assert before + after == history
    assert history[6] in after
    assert found(submitted={"$lte": moment, "$gt": moment - datetime.timedelta(days=1)}) == history[: len(before) + 4]
    assert found(submitted={"$lt": datetime.datetime.now() + datetime.timedelta(days=1)}) == history
    assert found(msg_id={"$in": history[::2]}) == history[::2]
    assert found(msg_id={"$nin": history[::2]}) == history[1::2]
    assert found(msg_id={"$ne": history[0]}) == history[1:]
    assert found(engine_id={"$mod": [2, 1]}) == history[1::2]
    assert found(completed={"$exists": False}) == []
    assert found(msg_id={"$glob": "*_2_*"}) == history[4:8]
    with pytest.raises(KeyError, match="records have no 'nothing'"):
        rc.db_query({"nothing": 1})
    with pytest.raises(KeyError, match="records have no 'buffers'"):
        rc.db_query({}, keys=["buffers"])
    with pytest.raises(ValueError, match="no operator '\\$where'"):
        rc.db_query({"msg_id": {"$where": 1}})


def test_resubmitted_is_recorded(rc, dv):
    result = rc[0].apply_async(len, "")
    again = rc.resubmit(result)
    assert [record["msg_id"] for record in rc.db_query({"resubmitted": again.msg_ids[0]})] == result.msg_ids


# -- purging -----------------------------------------------------------------------------------------------------


def test_purging_local_results(rc, dv):
    kept, purged = dv.apply_async(len, "abc"), dv.apply_async(len, "ab")
    assert (kept.get(), purged.get()) == ([3] * 4, [2] * 4)
    rc.purge_local_results(purged)
    assert sorted(rc.results) == kept.msg_ids
    assert sorted(rc.metadata) == kept.msg_ids
    assert rc.hub_history() == kept.msg_ids + purged.msg_ids
    assert rc.resubmit(purged).get() == [2] * 4
    assert purged.get() == [2] * 4


def test_purging_what_the_controller_remembers(rc, dv):
    first, second = rc[1].apply_async(len, "abc"), rc[2].apply_async(len, "ab")
    assert (first.get(), second.get()) == (3, 2)
    rc.purge_hub_results(targets=1)
    assert rc.hub_history() == second.msg_ids
    assert rc.results[first.msg_ids[0]] == 3
    with pytest.raises(KeyError, match="not remembered"):
        rc.resubmit(first)
    dv.purge_results(0)
    assert list(rc.results) == second.msg_ids
    rc.purge_results("all")
    assert (rc.hub_history(), list(rc.results)) == ([], [])
    assert rc.history == first.msg_ids + second.msg_ids
    rc.purge_everything()
    assert rc.history == []
    third = rc[0].apply_async(len, "")
    assert rc.hub_history() == third.msg_ids


def test_what_cannot_be_purged(rc, dv, controller):
    for purge in (rc.purge_results, rc.purge_local_results, rc.purge_hub_results, dv.purge_results):
        with pytest.raises(ValueError, match="at least one of `targets` and `jobs`"):
            purge()
    controller.hold.set()
    waiting = rc[1].apply_async(len, "")
    for jobs in ("all", waiting):
        with pytest.raises(RuntimeError, match=f"Can't purge outstanding tasks: {waiting.msg_ids[0]}"):
            rc.purge_results(jobs)
    with pytest.raises(RuntimeError, match="outstanding"):
        rc.purge_everything()
    controller.release()
    assert waiting.get() == 0


# -- smaller names -----------------------------------------------------------------------------------------------


def test_results_of_a_view_are_its_own(rc):
    first, second = rc[0], rc[1]
    mine, other = first.apply_async(len, "abc"), second.apply_async(len, "")
    assert (mine.get(), other.get()) == (3, 0)
    assert dict(first.results) == {mine.msg_ids[0]: 3}
    with pytest.raises(KeyError, match="no call of this view"):
        first.results[other.msg_ids[0]]


def test_owner(rc, lbv):
    assert ipp.AsyncResult.owner is False
    result = rc[0].apply_async(len, "")
    assert [result.owner, lbv.apply_async(len, "").owner, lbv.map_async(len, [""]).owner] == [True, True, False]
    assert rc.get_result(result).owner
    assert not rc[0].get_result(result).owner


def test_requests_by_hand(rc):
    seen = []
    result = rc.send_apply_request(None, pow, [2, 5], ident=2, metadata={"label": "x"}, message_future_hook=seen.append)
    assert (result.get(), result.engine_id, result.label) == (32, 2, "x")
    assert seen == [result]
    assert rc.send_apply_request(None, ipp.PrePickled(pow), (2, 3)).get() == 8
    executed = rc.send_execute_request(None, "x = 3", ident=1, message_future_hook=seen.append)
    assert executed is seen[1]
    executed.get()
    assert rc[1]["x"] == 3
    for call, problem in [
        (lambda: rc.send_apply_request(None, 3), "f must be callable"),
        (lambda: rc.send_apply_request(None, pow, args=3), "args must be tuple or list"),
        (lambda: rc.send_apply_request(None, pow, kwargs=3), "kwargs must be dict"),
        (lambda: rc.send_apply_request(None, pow, metadata=3), "metadata must be dict"),
        (lambda: rc.send_apply_request(None, pow, ident=b"uuid"), "id of an engine"),
        (lambda: rc.send_execute_request(None, 3, ident=0), "code must be text"),
        (lambda: rc.send_execute_request(None, "x"), "give its id as ident"),
    ]:
        with pytest.raises(TypeError, match=problem):
            call()
    with pytest.raises(NotImplementedError, match=r"rc\.get_result"):
        rc.create_message_futures("s1_1", {})


def test_switches_without_effect(rc):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rc.spin_thread(interval=2)
        rc.stop_spin_thread()
        rc.spin()
    assert (rc.debug, rc.profile) == (False, "")


def test_an_engine_is_no_kernel():
    assert ipp.bind_kernel is util.bind_kernel
    with pytest.raises(NotImplementedError, match="%autopx0"):
        ipp.bind_kernel()
    assert util.interactive is ipp.interactive
    from traitlets.config.configurable import MultipleInstanceError

    assert ipp.MultipleInstanceError is util.MultipleInstanceError is MultipleInstanceError
    with pytest.raises(AttributeError, match="nothing"):
        util.nothing  # noqa: B018


def test_attributes_of_remote_functions(dv, lbv):
    remote = dv.remote(block=True, label="l")(len)
    assert (remote.view, remote.func, remote.block, remote.flags) == (dv, len, True, {"label": "l"})
    assert (ipp.RemoteFunction.block, ipp.ParallelFunction.chunksize) == (None, None)
    parallel = lbv.parallel(dist="r", chunksize=2, ordered=False)(len)
    assert (parallel.view, parallel.chunksize, parallel.ordered) == (lbv, 2, False)
    cut = parallel.mapObject
    parts = [cut.getPartition(list(range(7)), part, 3) for part in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert cut.joinPartitions(parts) == list(range(7))
    assert dv.parallel()(len).mapObject.getPartition(range(7), 0, 3, 5) == range(2)


def test_references_by_hand():
    assert ipp.Reference("a + 1").get_object({"a": 2}) == 3
    with pytest.raises(NameError):
        ipp.Reference("a").get_object()


def test_errors_as_dicts():
    try:
        raise ValueError("bad")
    except ValueError:
        content = wrap_exception({"engine_id": 3, "engine_uuid": "u", "method": "apply"})
    assert (content["status"], content["ename"], content["evalue"]) == ("error", "ValueError", "bad")
    error = unwrap_exception(content)
    assert str(error) == "[3:apply] ValueError: bad"
    assert "ValueError: bad" in error.traceback
    with pytest.raises(RuntimeError, match="except clause"):
        wrap_exception()
    assert collect_exceptions([1, 2]) == [1, 2]
    assert collect_exceptions({0: "a"}, "work") == {0: "a"}
    nested = ipp.CompositeError("inner", [("KeyError", "'k'", None, {})])
    with pytest.raises(ipp.CompositeError) as caught:
        collect_exceptions({0: error, 1: 5, 2: nested}, "work")
    assert str(caught.value).splitlines() == [
        "one or more exceptions raised in: work",
        "[3:apply]ValueError: bad",
        "[Engine Exception]KeyError: 'k'",
    ]
    assert (ipp.wrap_exception, ipp.unwrap_exception) == (wrap_exception, unwrap_exception)
