from __future__ import annotations

import operator
import threading

import numpy
import pxcluster as ipp
import pytest


class Unloadable:
    """Pickles, but cannot be loaded by the client."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ModuleNotFoundError("No module named 'x'")


def make_unloadable(_=None):
    return Unloadable()


def fail(x):
    raise ValueError(f"bad {x}")


# -- direct views ----------------------------------------------------------------------------------------------------


def test_push_and_pull(dv, rc):
    dv["x"] = 5
    assert dv["x"] == [5, 5, 5, 5]
    assert rc[1]["x"] == 5
    assert rc[[1]]["x"] == [5]
    assert dv.pull(["x", "x + 1"], block=True) == [[5, 6]] * 4
    assert dv.push({"y": 1}).get() == [None] * 4
    assert rc[0].get("y") == 1
    with pytest.raises(TypeError, match="Must be a dict"):
        dv.push(5)
    with pytest.raises(TypeError, match="keys must be str"):
        dv.pull([1])


def test_arrays_come_back_whole_and_writable(dv, rc):
    array = numpy.arange(50_000.0)
    dv["a"] = array
    back = rc[2]["a"]
    assert (back == array).all()
    back[0] = 1


def test_apply(dv, rc):
    assert dv.apply_sync(operator.add, 3, 4) == [7] * 4
    assert rc[2].apply_sync(lambda a, f=0: (a, f), 1, f=2) == (1, 2)
    result = dv.apply(len, "abc")
    assert result.get() == [3] * 4
    assert result.get_dict() == {0: 3, 1: 3, 2: 3, 3: 3}
    dv.block = True
    assert dv.apply(len, "abc") == [3] * 4
    assert rc.direct_view("all").apply_sync(len, "ab") == [2] * 4


def test_clear_is_in_order(dv):
    dv["x"] = 1
    dv.clear()
    with pytest.raises(ipp.CompositeError) as raised:
        dv["x"]
    assert str(raised.value).splitlines()[:2] == [
        "one or more exceptions raised in: _pull",
        "[0:apply]NameError: name 'x' is not defined",
    ]


def test_scatter_and_gather(dv, rc):
    dv.scatter("x", range(10), block=True)
    assert dv["x"] == [range(3), range(3, 6), range(6, 8), range(8, 10)]
    dv.scatter("x", list(range(10))).get()
    assert dv.gather("x").get() == list(range(10))
    assert dv.gather("x", block=True) == list(range(10))
    dv.scatter("x", list(range(10)), dist="r", block=True)
    assert rc[1]["x"] == [1, 5, 9]
    assert dv.gather("x", dist="r", block=True) == list(range(10))
    dv.scatter("x", numpy.arange(6), block=True)
    assert dv.gather("x", block=True).tolist() == list(range(6))
    dv.scatter("x", numpy.arange(10).reshape(5, 2), dist="r", block=True)
    assert dv.gather("x", dist="r", block=True).tolist() == numpy.arange(10).reshape(5, 2).tolist()
    dv.scatter("x", [7, 8, 9, 10], flatten=True, block=True)
    assert dv["x"] == [7, 8, 9, 10]
    dv.scatter("x", [1], block=True)
    assert dv["x"] == [[1], [], [], []]


def test_direct_map(dv):
    result = dv.map(lambda x: x * 2, range(10))
    assert result.get() == [2 * x for x in range(10)]
    assert (len(result), result.progress) == (10, 10)
    assert dv.map_sync(operator.add, [1, 2, 3], (x for x in range(2))) == [1, 3]
    assert dv.map_async(len, []) == []
    assert list(dv.map_async(lambda x: x, "abcdef")) == list("abcdef")
    assert dv.map_sync(lambda x: x, [1]) == [1]
    with pytest.raises(TypeError):
        dv.map_sync(len, [1], block=True)


def test_execute(dv, rc, tmp_path):
    result = dv.execute("x = 3\nx", silent=False, block=True)
    assert isinstance(result, ipp.AsyncResult)
    assert repr(result) == "<AsyncResult(execute): finished>"
    assert [repr(reply) for reply in result.get()] == ["<ExecuteReply[1]: 3>"] * 4
    single = rc[0].execute("print('a'); print('b', file='stderr'); 'r' * 99", silent=False, block=True)
    assert (single.stdout, single.stderr) == ("a\n", "b\n")
    assert single.get()._plaintext() == "Out[0:2]: '" + "r" * 99 + "'"
    assert repr(single.get()) == "<ExecuteReply[2]: '" + "r" * 28 + "...>"
    assert single.get().engine_id == 0
    assert single.execute_result["data"]["text/plain"] == repr("r" * 99)
    script = tmp_path / "script.py"
    script.write_text("y = 1")
    dv.run(str(script), block=True)
    assert dv["y"] == [1] * 4


def test_references(dv, rc):
    dv["x"] = 3
    assert rc[0].apply_sync(operator.add, ipp.Reference("x"), 1) == 4
    lbv = rc.load_balanced_view()
    assert lbv.apply_sync(lambda a, b: a + b, 1, b=ipp.Reference("x")) == 4


def test_flags(dv, lbv):
    with dv.temp_flags(block=True, label="l"):
        assert (dv.block, dv.label) == (True, "l")
        assert dv.apply(len, "a") == [1] * 4
    assert (dv.block, dv.label) == (False, None)
    with pytest.raises(KeyError, match="nonsense"):
        dv.set_flags(block=True, nonsense=1)
    assert dv.block is False
    assert dv.set_flags(label="a") is dv
    assert dv.apply_async(len, "a").label == ["a"] * 4
    with pytest.raises(ValueError, match="Invalid timeout"):
        lbv.set_flags(timeout=-1)
    assert lbv.timeout == 0
    with pytest.raises(ipp.InvalidDependency, match="no msg_id"):
        lbv.set_flags(after="nonsense")
    assert lbv.after is None


def test_all_engines_are_one_broadcast_without_a_list(dv, rc, controller):
    dv.apply_sync(len, "a")
    rc[1].apply_sync(len, "a")
    assert controller.expect("direct")[0]["targets"] is None
    assert controller.expect("direct")[0]["targets"] == [1]


def test_what_cannot_be_sent_is_refused_before_anything_is_sent(dv, lbv, controller):
    lock = threading.Lock()
    calls = (
        lambda: dv.apply(len, lock),
        lambda: dv.push({"lock": lock}),
        lambda: lbv.apply(len, lock),
        lambda: lbv.map(len, [lock]),
        lambda: lbv.map(lambda x: lock, [1]),
        lambda: dv.scatter("x", [1, 2, 3, lock]),
    )
    for call in calls:
        with pytest.raises(ipp.SerializationError, match="cannot be sent"):
            call()
    assert dv.apply_sync(len, "a") == [1] * 4
    controller.expect("hello")
    assert controller.expect("direct")[0]["id"] == 1


def test_what_cannot_be_loaded_is_an_error_of_that_result_only(dv, rc, lbv):
    with pytest.raises(ipp.SerializationError, match=r"the result of engine 1 cannot be loaded here.*No module named"):
        rc[1].apply_sync(make_unloadable)
    with pytest.raises(ipp.CompositeError, match="cannot be loaded here"):
        dv.apply_sync(make_unloadable)
    result = lbv.map_async(make_unloadable, range(3), return_exceptions=True)
    assert [type(value) for value in result.get()] == [ipp.SerializationError] * 3
    assert repr(lbv.apply_async(make_unloadable).exception(timeout=10)).startswith("SerializationError")


# -- load-balanced views ---------------------------------------------------------------------------------------------


def test_load_balanced_apply(lbv):
    assert lbv.apply_sync(operator.add, 3, 4) == 7
    assert lbv.apply_sync(lambda a, b=0: (a, b), 1, b=2) == (1, 2)
    result = lbv.apply_async(fail, 3)
    with pytest.raises(ipp.RemoteError, match=r"^\[0:apply\] ValueError: bad 3$"):
        result.get()
    assert result.successful() is False
    assert repr(result) == "<AsyncResult(fail): failed>"


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_load_balanced_map(lbv, chunksize):
    result = lbv.map_async(lambda x: x * 2, range(10), chunksize=chunksize)
    assert isinstance(result, ipp.AsyncMapResult)
    assert list(result) == [2 * x for x in range(10)]
    assert result.get() == [2 * x for x in range(10)]
    assert (len(result), result.progress) == (10, 10)
    assert repr(result) == "<AsyncMapResult(<lambda>): finished>"
    assert lbv.map_sync(operator.add, [1, 2, 3], (x for x in range(2)), chunksize=chunksize) == [1, 3]
    assert lbv.map_async(len, [], chunksize=chunksize) == []


def test_targets_and_label_of_a_map(rc, controller):
    view = rc.load_balanced_view([1, 2], label="mine", retries=3)
    assert view.map_sync(len, "ab") == [1, 1]
    header = controller.expect("map")[0]
    assert header == {"type": "map", "id": 1, "tasks": 2, "targets": [1, 2], "label": "mine", "retries": 3}
    assert view.map_async(len, "ab").label == ["mine", "mine"]


def test_iterating_unordered_yields_in_order_of_arrival(lbv, controller):
    controller.result_order = reversed
    assert list(lbv.map_async(lambda x: x, range(8), ordered=False)) == list(range(7, -1, -1))
    done = lbv.map_async(lambda x: x, range(8), ordered=False)
    done.wait()
    assert list(done) == list(range(7, -1, -1))
    assert done.get() == list(range(8))
    assert list(lbv.map_async(lambda x: x, range(8))) == list(range(8))


def test_iterating_yields_what_has_come_while_the_rest_is_missing(lbv, controller):
    controller.hold.set()
    result = lbv.map_async(lambda x: x, range(6))
    controller.expect("map")
    while len(controller._held) < 2:
        pass
    with controller._lock:
        first = controller._held.pop(0)
        controller.connection.sendall(first)
    values = iter(result)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    assert not result.ready()
    assert result.progress == 3
    assert repr(result) == "<AsyncMapResult(<lambda>): pending>"
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    controller.release()
    assert list(values) == [3, 4, 5]


def test_a_map_that_fails(lbv):
    with pytest.raises(ipp.CompositeError) as raised:
        lbv.map_sync(lambda x: 1 / (x - 1), range(4))
    assert (
        str(raised.value) == "one or more exceptions raised in: <lambda>\n[1:apply]ZeroDivisionError: division by zero"
    )
    result = lbv.map_async(fail, range(6))
    result.wait()
    with pytest.raises(ipp.CompositeError) as raised:
        list(result)
    assert len(raised.value.elist) == 1
    with pytest.raises(ipp.CompositeError) as raised:
        result.get()
    assert len(raised.value.elist) == 6
    assert str(raised.value).endswith("\n.... 2 more exceptions ...")
    assert [type(value) for value in result.get(return_exceptions=True)] == [ipp.RemoteError] * 6
    assert isinstance(lbv.map_async(lambda x: 1 / x, [0, 1], return_exceptions=True).get()[0], ipp.RemoteError)


def test_results_are_read_in_order_of_tasks_however_they_arrive(lbv, controller):
    controller.result_order = reversed
    assert lbv.map_sync(lambda x: x, range(100)) == list(range(100))


def test_imap(lbv):
    def endless():
        n = 0
        while True:
            yield n
            n += 1

    values = lbv.imap(lambda x: x + 1, endless())
    assert [next(values) for _ in range(200)] == list(range(1, 201))
    values.cancel()
    rest = list(values)
    assert rest == list(range(201, 201 + len(rest)))
    assert list(lbv.imap(lambda x, y: x * y, [1, 2, 3], [4, 5], max_outstanding=1)) == [4, 10]
    assert sorted(lbv.imap(lambda x: x, range(50), ordered=False, max_outstanding=0)) == list(range(50))
    assert list(lbv.imap(len, [])) == []
    with pytest.raises(ipp.RemoteError, match="bad 0"):
        list(lbv.imap(fail, [0]))
    assert len(list(lbv.imap(fail, [0, 1], return_exceptions=True))) == 2


def test_imap_takes_no_more_than_it_may(lbv):
    taken = []

    def inputs():
        for n in range(100):
            taken.append(n)
            yield n

    values = lbv.imap(lambda x: x, inputs(), max_outstanding=5)
    assert len(taken) <= 5
    assert next(values) == 0
    assert len(taken) <= 6
    values.cancel()


def test_a_failing_input_raises_after_the_results_before_it(lbv):
    def inputs():
        yield 1
        raise KeyError("input")

    values = lbv.imap(lambda x: x, inputs())
    assert next(values) == 1
    with pytest.raises(KeyError, match="input"):
        next(values)


def test_executor(rc, lbv):
    with lbv.executor as executor:
        future = executor.submit(operator.add, 1, 2)
        assert list(executor.map(len, ["a", "bb"])) == [1, 2]
    assert future.result(timeout=10) == 3
    assert rc.executor().submit(len, "a").result() == 1


# -- decorators ------------------------------------------------------------------------------------------------------


def test_remote_functions(dv, lbv):
    @dv.remote(block=True)
    def f(x):
        """Doc."""
        return x + 1

    assert f(1) == [2] * 4
    assert (f.__name__, f.__doc__) == ("f", "RemoteFunction wrapping:\nDoc.")

    @ipp.remote(lbv)
    def g(x):
        return x

    assert g(1).get() == 1


def test_parallel_functions(dv, lbv, controller):
    @dv.parallel(block=True)
    def double(x):
        return x * 2

    assert double.map(range(8)) == [2 * x for x in range(8)]
    assert double([1, 2, 3, 4]) == [1, 1, 2, 2, 3, 3, 4, 4]

    @lbv.parallel(ordered=False, chunksize=2)
    def same(x):
        return x

    assert sorted(same.map(range(9))) == list(range(9))
    assert same([1, 2, 3]).get() == [1, 2, 3]
    assert double.map([]) == []

    @ipp.parallel(dv, block=True)
    def add(x, y):
        return x + y

    assert add.map([1, 2], [3, 4, 5]) == [4, 6]
    with pytest.raises(ValueError, match="equal length"):
        add([1, 2], [3])


def test_require_and_depend_wrap_functions():
    @ipp.require("json", value=3)
    def f(x):
        return x

    assert f(1) == 1
    assert f.__name__ == "f"

    @ipp.depend(lambda: False)
    def g():
        pass

    with pytest.raises(ipp.UnmetDependency):
        g()


def test_sync_imports(dv, capsys):
    with dv.sync_imports():
        import json
        from os.path import join
    assert capsys.readouterr().out == "importing json on engine(s)\nimporting join from os.path on engine(s)\n"
    assert join is not None
    assert json is not None
    import __main__

    assert __main__.join is join
    with dv.sync_imports(quiet=True):
        import textwrap  # noqa: F401
    assert capsys.readouterr().out == ""
    with pytest.raises(ImportError), dv.sync_imports():
        import no_such_module  # noqa: F401
