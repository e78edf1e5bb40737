"""Load-balanced views: tasks on whichever engine is free."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from harness.gates import Gate, pass_gate

from .functions import add, everything, fail, fail_at_two, fails_the_first_time, pid, pid_of, square
from .peers import Peer


@pytest.mark.smoke
def test_apply(rc: Any, lbv: Any, ipp: Any) -> None:
    result = lbv.apply_async(square, 3)
    assert isinstance(result, ipp.AsyncResult)
    assert not isinstance(result, ipp.AsyncMapResult)
    assert result.get(timeout=60) == 9
    assert lbv.apply_sync(everything, 1, f=2, x=3) == ((1,), 2, {"x": 3})
    lbv.block = True
    assert lbv.apply(pid) in rc[:].apply_sync(pid)
    with pytest.raises(ipp.RemoteError, match=r"^\[[0-3]:apply\] ValueError: oh$"):
        lbv.apply(fail)


@pytest.mark.smoke
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map(lbv: Any, ipp: Any, ordered: bool, chunksize: int) -> None:
    result = lbv.map_async(square, range(10), ordered=ordered, chunksize=chunksize)
    assert isinstance(result, ipp.AsyncMapResult)
    assert len(result) == 10
    seen = list(result)
    wanted = [x * x for x in range(10)]
    assert (seen if ordered else sorted(seen)) == wanted
    assert result.get(timeout=60) == wanted
    assert result.progress == 10
    assert lbv.map_sync(square, range(10), ordered=ordered, chunksize=chunksize) == wanted


def test_map_of_several_sequences(lbv: Any) -> None:
    assert lbv.map_sync(add, range(5), [10] * 5) == [10, 11, 12, 13, 14]
    assert lbv.map_sync(add, range(5), [10, 20], chunksize=2) == [10, 21]
    assert lbv.map_sync(square, (x for x in range(3))) == [0, 1, 4]
    assert lbv.map(square, [4], block=True) == [16]


def test_map_of_nothing(peer: Peer, lbv: Any) -> None:
    assert lbv.map_sync(square, []) == []
    assert lbv.map_async(square, []) == []
    assert lbv.map_sync(add, [1, 2], []) == []
    problem = TypeError if peer.differs("a map without sequences") else AssertionError
    with pytest.raises(problem, match="must have some sequences to map onto!"):
        lbv.map_sync(square)


def test_map_with_block_twice(lbv: Any) -> None:
    for name in ("map_async", "map_sync"):
        with pytest.raises(TypeError, match=f"{name} doesn't take a `block` keyword argument"):
            getattr(lbv, name)(square, [1], block=True)


def test_failures_in_maps(lbv: Any, ipp: Any) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        lbv.map_sync(fail_at_two, range(4))
    assert len(caught.value.elist) == 1
    assert str(caught.value).startswith("one or more exceptions raised in: fail_at_two\n[")
    assert str(caught.value).endswith(":apply]ValueError: two")
    found = lbv.map_sync(fail_at_two, range(4), return_exceptions=True)
    assert [found[0], found[1], found[3]] == [0, 1, 3]
    assert isinstance(found[2], ipp.RemoteError)
    assert found[2].ename == "ValueError"


def test_iteration_raises_the_first_failure(lbv: Any, ipp: Any) -> None:
    values = iter(lbv.map_async(fail_at_two, range(4)))
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ipp.RemoteError, match="ValueError: two"):
        next(values)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("max_outstanding", ["auto", 0, 1, 3])
def test_imap(lbv: Any, ordered: bool, max_outstanding: Any) -> None:
    seen = list(lbv.imap(square, range(20), ordered=ordered, max_outstanding=max_outstanding))
    assert (seen if ordered else sorted(seen)) == [x * x for x in range(20)]


def test_imap_of_endless_inputs(lbv: Any) -> None:
    results = lbv.imap(add, itertools.count(), itertools.repeat(1))
    assert list(itertools.islice(results, 10)) == list(range(1, 11))
    results.cancel()
    rest = list(results)
    assert rest == list(range(11, 11 + len(rest)))


def test_imap_with_failures(lbv: Any, ipp: Any) -> None:
    results = lbv.imap(fail_at_two, range(4), max_outstanding=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ipp.RemoteError, match="ValueError: two"):
        next(results)
    found = list(lbv.imap(fail_at_two, range(4), return_exceptions=True))
    assert [found[0], found[1], found[3]] == [0, 1, 3]
    assert isinstance(found[2], ipp.RemoteError)


def test_flags(lbv: Any, ipp: Any) -> None:
    assert lbv.set_flags(retries=2, timeout=5) is lbv
    assert (lbv.retries, lbv.timeout) == (2, 5.0)
    with lbv.temp_flags(retries=0, label="mine"):
        result = lbv.apply_async(square, 1)
        assert (lbv.retries, lbv.label) == (0, "mine")
    assert (lbv.retries, lbv.label) == (2, None)
    assert result.get(timeout=60) == 1
    assert result.label == "mine"
    with pytest.raises(KeyError, match="nonsense"):
        lbv.set_flags(nonsense=1)
    with pytest.raises(ValueError, match=r"Invalid timeout: -1"):
        lbv.set_flags(timeout=-1)


def test_a_refused_flag(peer: Peer, lbv: Any) -> None:
    with pytest.raises(ValueError, match="Invalid timeout"):
        lbv.set_flags(timeout=-1)
    if peer.differs("a flag that is refused"):
        assert lbv.timeout == 0.0
        assert lbv.apply_sync(square, 2) == 4
    else:
        assert lbv.timeout == -1.0


def test_refused_dependencies(peer: Peer, lbv: Any, ipp: Any) -> None:
    problem = ipp.error.InvalidDependency if peer.differs("`after` and `follow` that make no sense") else ValueError
    for name in ("after", "follow"):
        with pytest.raises(problem, match="Invalid dependency: 5"):
            lbv.set_flags(**{name: 5})


def test_targets(rc: Any) -> None:
    pids = rc[:].apply_sync(pid)
    some = rc.load_balanced_view([1, 3])
    assert set(some.map_sync(pid_of, range(8))) <= {pids[1], pids[3]}
    assert rc.load_balanced_view(2).apply_sync(pid) == pids[2]
    assert len(some) == 2


def test_retries(lbv: Any, ipp: Any, tmp_path: Path) -> None:
    with lbv.temp_flags(retries=3):
        assert lbv.apply_sync(fails_the_first_time, str(tmp_path / "tried")) == "in the end"
    with pytest.raises(ipp.RemoteError, match="first time"):
        lbv.apply_sync(fails_the_first_time, str(tmp_path / "tried-once"))
    with lbv.temp_flags(retries=1), pytest.raises(ipp.RemoteError, match="ValueError: oh"):
        lbv.apply_sync(fail)


@pytest.mark.smoke
def test_after(lbv: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        first = lbv.apply_async(pass_gate, None, gate.folder)
        with lbv.temp_flags(after=first):
            second = lbv.apply_async(square, 5)
        with lbv.temp_flags(after=[*first.msg_ids, second]):
            third = lbv.apply_async(square, 6)
        assert not second.ready()
        gate.open()
        assert third.get(timeout=60) == 36
        assert first.ready()
        assert second.get(timeout=60) == 25


def test_follow(lbv: Any) -> None:
    first = lbv.apply_async(pid)
    where = first.get(timeout=60)
    for _ in range(4):
        with lbv.temp_flags(follow=first):
            assert lbv.apply_async(pid).get(timeout=60) == where


def test_dependencies_on_failures(lbv: Any, ipp: Any) -> None:
    failed = lbv.apply_async(fail)
    with lbv.temp_flags(after=ipp.Dependency(failed, success=False, failure=True)):
        assert lbv.apply_async(square, 2).get(timeout=60) == 4
    with lbv.temp_flags(after=failed):
        impossible = lbv.apply_async(square, 2)
    with pytest.raises(ipp.error.KernelError, match="ImpossibleDependency"):
        impossible.get(timeout=60)


def test_a_class_of_an_error_of_the_scheduler(peer: Peer, lbv: Any, ipp: Any) -> None:
    with lbv.temp_flags(after=lbv.apply_async(fail)):
        problem = lbv.apply_async(square, 2).exception(timeout=60)
    assert isinstance(problem, ipp.RemoteError)
    assert problem.ename == "ImpossibleDependency"
    by_class = isinstance(problem, ipp.ImpossibleDependency)
    assert by_class is peer.differs("errors of the scheduler, UnmetDependency of a direct call")


def test_timeouts(lbv: Any, ipp: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        blocking = lbv.apply_async(pass_gate, None, gate.folder)
        with lbv.temp_flags(after=blocking, timeout=0.2):
            late = lbv.apply_async(square, 2)
        with pytest.raises(ipp.error.KernelError, match=r"TaskTimeout|DependencyTimeout"):
            late.get(timeout=60)
        gate.open()
        blocking.get(timeout=60)


def test_dependency_objects(ipp: Any) -> None:
    both = ipp.Dependency(["a", "b"])
    assert (both.all, both.success, both.failure) == (True, True, False)
    assert both.check({"a"}) is False
    assert both.check({"a", "b"}) is True
    assert both.check({"a"}, {"b"}) is False
    assert both.unreachable({"a"}, {"b"}) is True
    assert both.unreachable({"a"}) is False
    either = ipp.Dependency(["a", "b"], all=False, failure=True)
    assert either.check(set(), {"b"}) is True
    assert either.unreachable(set(), set()) is False
    assert sorted(either.as_dict().items(), key=str) == sorted(
        {"all": False, "success": True, "failure": True, "dependencies": either.as_dict()["dependencies"]}.items(),
        key=str,
    )
    assert set(ipp.Dependency(either.as_dict())) == {"a", "b"}
    assert ipp.Dependency().check(set()) is True
    with pytest.raises(ValueError, match="Must depend on at least one of successes or failures!"):
        ipp.Dependency("a", success=False)
    with pytest.raises(TypeError):
        ipp.Dependency([1])


def test_abort(lbv: Any, rc: Any, ipp: Any, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        running = rc.load_balanced_view(0).apply_async(pass_gate, None, gate.folder)
        gate.wait_for_marks(1)
        waiting = rc.load_balanced_view(0).apply_async(square, 1)
        waiting.abort()
        gate.open()
        with pytest.raises(ipp.TaskAborted):
            waiting.get(timeout=60)
        with pytest.raises(RuntimeError, match="Can't abort, I am already done!"):
            waiting.abort()
        assert running.get(timeout=60)
