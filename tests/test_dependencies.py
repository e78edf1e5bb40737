"""Tasks that wait for others, follow them, time out, or refuse an engine."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pxcluster as ipp
import pytest
from harness.gates import Gate, pass_gate
from pxcluster import Client, Dependency, interactive


@interactive
def fail() -> None:
    raise ValueError("on purpose")


@interactive
def process(_item: Any = None) -> int:
    import os

    return os.getpid()


@interactive
def note(path: str, line: int) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    with Gate(tmp_path / "gate") as gate:
        yield gate


# -- after -----------------------------------------------------------------------------------------------------------


def test_after_waits(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    first = view.apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(1)
    with view.temp_flags(after=first):
        second = view.apply_async(process)
        several = view.map_async(operator.neg, range(10))
    assert view.map_sync(operator.neg, range(100)) == [-n for n in range(100)]  # others pass by
    assert not second.done()
    assert several.progress == 0
    gate.open()
    assert isinstance(second.get(timeout=60), int)
    assert several.get(timeout=60) == [-n for n in range(10)]
    assert second.started >= first.completed
    assert second.after == first.msg_ids


def test_after_what_has_ended_or_is_direct(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    ended = view.map_async(operator.neg, range(50))
    ended.get(timeout=60)
    held = rc[[0, 2]].apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(2)
    with view.temp_flags(after=[ended, *held.msg_ids]):
        result = view.apply_async(process)
    assert not result.done()
    gate.open()
    result.get(timeout=60)
    assert result.started >= max(held.completed)


def test_after_a_whole_map_and_after_one_of_its_tasks(rc: Client) -> None:
    view = rc.load_balanced_view()
    mapped = view.map_async(process, range(50))
    with view.temp_flags(after=mapped):
        whole = view.map_async(operator.neg, range(5))
    with view.temp_flags(after=mapped.msg_ids[30]):
        one = view.apply_async(process)
    assert whole.get(timeout=60) == [0, -1, -2, -3, -4]
    assert min(whole.started) >= max(mapped.completed)
    one.get(timeout=60)
    assert one.started >= mapped.completed[30]


def test_a_chain(rc: Client, tmp_path: Path) -> None:
    view = rc.load_balanced_view()
    links: list[Any] = []
    for number in range(30):
        with view.temp_flags(after=links[-1:]):
            links.append(view.apply_async(note, str(tmp_path / "lines"), number))
    links[-1].get(timeout=60)
    assert (tmp_path / "lines").read_text().split() == [str(number) for number in range(30)]


def test_lazy_maps_wait_too(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    first = view.apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(1)
    with view.temp_flags(after=first):
        lazy = view.imap(operator.neg, range(20))
    gate.open()
    assert list(lazy) == [-n for n in range(20)]


def test_success_and_failure(rc: Client) -> None:
    view = rc.load_balanced_view()
    good, bad = view.apply_async(process), view.apply_async(fail)

    def after(*args: Any, **kwargs: Any) -> Any:
        with view.temp_flags(after=Dependency(*args, **kwargs)):
            return view.apply_async(process)

    runs = [
        after(good),
        after([good, bad], all=False),
        after([good, bad], failure=True),
        after(bad, success=False, failure=True),
        after([good, bad], all=False, success=False, failure=True),
    ]
    never = [
        after(bad),
        after([good, bad]),
        after(good, success=False, failure=True),
        after([good, bad], success=False, failure=True),
    ]
    for result in runs:
        assert isinstance(result.get(timeout=60), int)
    for result in never:
        with pytest.raises(ipp.ImpossibleDependency) as caught:
            result.get(timeout=60)
        assert isinstance(caught.value, ipp.RemoteError)
        assert result.status == "error"


def test_what_can_never_start_stops_what_waits_for_it(rc: Client) -> None:
    view = rc.load_balanced_view()
    last = view.apply_async(fail)
    for _ in range(3):
        with view.temp_flags(after=last):
            last = view.apply_async(process)
    with pytest.raises(ipp.ImpossibleDependency):
        last.get(timeout=60)
    with view.temp_flags(after=last, retries=2):
        mapped = view.map_async(operator.neg, range(20))
    found = mapped.get(timeout=60, return_exceptions=True)
    assert len(found) == 20
    assert all(isinstance(error, ipp.ImpossibleDependency) for error in found)


def test_what_is_not_known_is_invalid(rc: Client) -> None:
    view = rc.load_balanced_view()
    own = view.apply_async(process).msg_ids[0]
    for msg_id in (own + "99999", "0123456789abcdef_1"):
        with view.temp_flags(after=msg_id):
            result = view.apply_async(process)
        with pytest.raises(ipp.InvalidDependency):
            result.get(timeout=60)


def test_another_client_can_be_waited_for(rc: Client, cluster: Any, gate: Gate) -> None:
    first = cluster.client().load_balanced_view().apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(1)
    view = rc.load_balanced_view()
    with view.temp_flags(after=first.msg_ids):
        second = view.apply_async(process)
    assert view.apply_sync(operator.neg, 1) == -1
    assert not second.done()
    gate.open()
    second.get(timeout=60)
    first.get(timeout=60)
    assert second.started >= first.completed


def test_an_aborted_one_counts_as_failed(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    first = view.apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(1)
    with view.temp_flags(after=first):
        needed = view.apply_async(process)
    with view.temp_flags(after=needed):
        never = view.apply_async(process)
    with view.temp_flags(after=Dependency(needed, success=False, failure=True)):
        instead = view.apply_async(process)
    needed.abort()
    with pytest.raises(ipp.TaskAborted):
        needed.get(timeout=60)
    with pytest.raises(ipp.ImpossibleDependency):
        never.get(timeout=60)
    assert isinstance(instead.get(timeout=60), int)
    gate.open()
    first.get(timeout=60)


# -- follow ----------------------------------------------------------------------------------------------------------


def test_follow_goes_where_the_other_was(rc: Client) -> None:
    view = rc.load_balanced_view()
    pids = rc[:].apply_sync(process)
    for engine, pid in enumerate(pids):
        with view.temp_flags(follow=rc[engine].apply_async(process)):
            assert view.apply_async(process).get(timeout=60) == pid
            assert set(view.map_async(process, range(20)).get(timeout=60)) == {pid}
    first = view.apply_async(process)
    with view.temp_flags(follow=first):
        second = view.apply_async(process)
    assert second.get(timeout=60) == first.get(timeout=60)
    assert second.engine_id == first.engine_id
    assert second.follow == first.msg_ids


def test_follow_of_several(rc: Client) -> None:
    view = rc.load_balanced_view()
    pids = rc[:].apply_sync(process)
    two = rc[[1, 3]].apply_async(process)
    with view.temp_flags(follow=Dependency(two, all=False)):
        assert set(view.map_async(process, range(20)).get(timeout=60)) <= {pids[1], pids[3]}
    with view.temp_flags(follow=two.msg_ids[1]):
        assert view.apply_async(process).get(timeout=60) == pids[3]
    with view.temp_flags(follow=two):
        nowhere = view.apply_async(process)
    with pytest.raises(ipp.ImpossibleDependency):
        nowhere.get(timeout=60)
    with view.temp_flags(follow=two.msg_ids[1], targets=[0, 1]):
        excluded = view.apply_async(process)
    with pytest.raises(ipp.ImpossibleDependency):
        excluded.get(timeout=60)


# -- timeout ---------------------------------------------------------------------------------------------------------


def test_time_outs(rc: Client, gate: Gate) -> None:
    view = rc.load_balanced_view()
    first = view.apply_async(pass_gate, 0, gate.folder)
    gate.wait_for_marks(1)
    with view.temp_flags(after=first, timeout=0.2):
        late = view.apply_async(process)
        many = view.map_async(operator.neg, range(10))
    with view.temp_flags(after=first, timeout=600):
        patient = view.apply_async(process)
    with view.temp_flags(after=late):
        behind = view.apply_async(process)
    with pytest.raises(ipp.TaskTimeout) as caught:
        late.get(timeout=60)
    assert isinstance(caught.value, ipp.RemoteError)
    assert all(isinstance(error, ipp.TaskTimeout) for error in many.get(timeout=60, return_exceptions=True))
    with pytest.raises(ipp.ImpossibleDependency):
        behind.get(timeout=60)
    assert not patient.done()
    gate.open()
    assert isinstance(patient.get(timeout=60), int)


# -- depend and require ----------------------------------------------------------------------------------------------


def test_depend_finds_the_engine(rc: Client) -> None:
    rc[:]["capable"] = False
    rc[2]["capable"] = True
    check = interactive(lambda wanted: capable is wanted)  # noqa: F821
    view = rc.load_balanced_view()
    result = view.map_async(ipp.depend(check, True)(process), range(20))
    assert set(result.get(timeout=60)) == {rc[2].apply_sync(process)}
    assert set(result.engine_id) == {2}
    elsewhere = view.map_async(ipp.depend(check, wanted=False)(process), range(20))
    elsewhere.get(timeout=60)
    assert 2 not in elsewhere.engine_id


def test_what_every_engine_refuses_is_impossible(rc: Client) -> None:
    view = rc.load_balanced_view()
    never = ipp.depend(interactive(lambda: False))(process)
    found = view.map_async(never, range(5)).get(timeout=60, return_exceptions=True)
    assert all(isinstance(error, ipp.ImpossibleDependency) for error in found)
    assert len(found) == 5
    with view.temp_flags(targets=[1]), pytest.raises(ipp.ImpossibleDependency):
        view.apply_async(ipp.require("no_such_module_at_all")(process)).get(timeout=60)
    with pytest.raises(ipp.UnmetDependency):
        rc[0].apply_sync(never)


def test_require_finds_the_module(rc: Client, tmp_path: Path) -> None:
    (tmp_path / "pxc_only_here.py").write_text("value = 5\n")
    rc[1].execute(f"import sys; sys.path.insert(0, {str(tmp_path)!r})", block=True)
    try:
        use = ipp.require("pxc_only_here")(interactive(lambda n: n + pxc_only_here.value))  # noqa: F821
        result = rc.load_balanced_view().map_async(use, range(10))
        assert result.get(timeout=60) == [n + 5 for n in range(10)]
        assert set(result.engine_id) == {1}
    finally:
        forget = f"import sys; sys.path.remove({str(tmp_path)!r}); sys.modules.pop('pxc_only_here', None)"
        rc[1].execute(forget, block=True)


@pytest.mark.parametrize("name", ["UnmetDependency", "TaskRejectError"])
def test_tasks_refuse_engines_themselves(rc: Client, name: str) -> None:
    rc[:]["here"] = False
    rc[3]["here"] = True

    @interactive
    def only_there(n: int, name: str) -> int:
        import pxcluster

        if not here:  # noqa: F821
            raise getattr(pxcluster, name)("not here")
        return n

    result = rc.load_balanced_view().map_async(only_there, range(10), [name] * 10)
    assert result.get(timeout=60) == list(range(10))
    assert set(result.engine_id) == {3}
