"""Dependencies: what they are, what of them goes to the controller, and the errors that come back."""

from __future__ import annotations

import json
from array import array

import pxcluster as ipp
import pytest
from fake_controller import columns
from pxcluster.maprequest import MapRequest


def test_a_dependency_is_a_set_of_msg_ids(dv, lbv):
    result, one = dv.apply_async(len, "a"), lbv.apply_async(len, "a")
    dependency = ipp.Dependency([result, one, "s1_9"])
    assert dependency == {*result.msg_ids, *one.msg_ids, "s1_9"}
    assert (dependency.all, dependency.success, dependency.failure) == (True, True, False)
    again = ipp.Dependency(dependency.as_dict())
    assert again == dependency
    assert ipp.Dependency(one) == ipp.Dependency(one.msg_ids[0]) == set(one.msg_ids)
    assert ipp.Dependency([ipp.Dependency("s1_1", failure=True), "s1_2"]) == {"s1_1", "s1_2"}
    with pytest.raises(ValueError, match="at least one of"):
        ipp.Dependency("s1_1", success=False)
    with pytest.raises(TypeError, match="invalid dependency type"):
        ipp.Dependency([1])


@pytest.mark.parametrize(
    ("flags", "completed", "failed", "holds", "lost"),
    [
        ({}, {"a"}, set(), False, False),
        ({}, {"a", "b", "c"}, set(), True, False),
        ({}, {"a"}, {"b"}, False, True),
        ({"all": False}, {"a"}, {"b"}, True, False),
        ({"all": False}, set(), {"a", "b"}, False, True),
        ({"failure": True}, {"a"}, {"b"}, True, False),
        ({"success": False, "failure": True}, {"a"}, {"b"}, False, True),
        ({"success": False, "failure": True}, set(), {"a", "b"}, True, False),
        ({"all": False, "success": False, "failure": True}, {"a"}, set(), False, False),
        ({"all": False, "success": False, "failure": True}, {"a", "b"}, None, False, True),
    ],
)
def test_rules(flags, completed, failed, holds, lost):
    dependency = ipp.Dependency(["a", "b"], **flags)
    assert dependency.check(completed, failed) is holds
    assert dependency.unreachable(completed, failed) is lost
    assert ipp.Dependency([], **flags).check(set())
    assert not ipp.Dependency([], **flags).unreachable({"a"})


def test_headers(rc, lbv, controller):
    plain = lbv.apply_async(len, "a")
    plain.get()
    header = controller.expect("map")[0]
    assert not {"after", "follow", "timeout"} & header.keys()
    assert plain.metadata["after"] == plain.metadata["follow"] == []
    rules = {"all": True, "success": True, "failure": False}
    with lbv.temp_flags(after=plain, follow=plain.msg_ids, timeout=2):
        chained = lbv.apply_async(len, "a")
        mapped = lbv.map_async(len, ["a", "b", "c"])
    for _ in range(2):
        header = controller.expect("map")[0]
        assert header["after"] == header["follow"] == {"needs": [{"request": 1}], **rules}
        assert header["timeout"] == 2.0
    assert chained.get() == 1
    assert chained.metadata["after"] == chained.follow == plain.msg_ids
    assert [entry["after"] for entry in mapped.metadata] == [plain.msg_ids] * 3
    # Whole requests are named once, parts of maps by their slots, other sessions by their names.
    with lbv.temp_flags(after=ipp.Dependency([mapped, "other_7_3", "other_8"], all=False, failure=True)):
        lbv.apply_sync(len, "a")
    needed = controller.expect("map")[0]["after"]
    assert sorted(map(str, needed.pop("needs"))) == sorted(
        map(str, [{"request": 3}, {"session": "other", "request": 7, "part": 3}, {"session": "other", "request": 8}])
    )
    assert needed == {"all": False, "success": True, "failure": True}
    with lbv.temp_flags(after=[mapped.msg_ids[2], mapped.msg_ids[1]]):
        lbv.apply_sync(len, "a")
    needs = controller.expect("map")[0]["after"]["needs"]
    assert needs == [{"request": 3, "part": 1}, {"request": 3, "part": 2}]


@pytest.mark.parametrize("held", [True, False])
def test_parts_of_direct_requests_are_engines(rc, lbv, controller, held):
    result = rc[[3, 1]].apply_async(len, "a")
    result.get()
    with lbv.temp_flags(follow=result.msg_ids[0]):
        if not held:
            del result
        lbv.apply_sync(len, "a")
    assert controller.expect("map")[0]["follow"]["needs"] == [{"request": 1, "part": 3}]


@pytest.mark.parametrize("flag", ["after", "follow"])
@pytest.mark.parametrize("value", [5, "nonsense", ["s1_1", None], object()])
def test_invalid_dependencies_change_nothing(lbv, flag, value):
    with pytest.raises(ipp.InvalidDependency, match="Invalid dependency"):
        lbv.set_flags(**{flag: value})
    assert getattr(lbv, flag) is None


@pytest.mark.parametrize(
    "name", ["ImpossibleDependency", "DependencyTimeout", "TaskTimeout", "InvalidDependency", "UnmetDependency"]
)
def test_errors_of_the_controller(name):
    request = failed_map({"ename": name, "evalue": "why", "traceback": None, "engine_id": None})
    error = request.outcome(0)[1]
    assert isinstance(error, ipp.RemoteError)
    assert isinstance(error, getattr(ipp, name))
    assert (error.ename, error.evalue, str(error)) == (name, "why", f"[Engine Exception] {name}: why")
    assert type(error.__reduce__()[0](*error.__reduce__()[1])) is type(error)


def test_only_what_users_raise_on_purpose_is_taken_for_itself():
    trace = {"evalue": "why", "traceback": "lines", "engine_id": 2, "method": "apply"}
    unmet = failed_map({"ename": "UnmetDependency", **trace}).outcome(0)[1]
    assert isinstance(unmet, ipp.UnmetDependency)
    assert str(unmet) == "[2:apply] UnmetDependency: why"
    assert not isinstance(failed_map({"ename": "TaskTimeout", **trace}).outcome(0)[1], ipp.TaskTimeout)


def failed_map(payload):
    request = MapRequest("f", 1)
    request.take_results(columns([(0, 2**32 - 1, 1, 1.0, 1.0, json.dumps(payload).encode())]))
    return request


def test_direct_calls_raise_unmet_dependencies(rc):
    @ipp.depend(lambda: False)
    def never():
        return 1

    with pytest.raises(ipp.UnmetDependency):
        rc[0].apply_sync(never)

    @ipp.require("no_such_module_at_all")
    def missing():
        return 1

    with pytest.raises(ipp.UnmetDependency, match="no_such_module_at_all"):
        rc[1].apply_sync(missing)


def test_tries(lbv):
    result = lbv.map_async(len, ["a", "b"])
    assert result.tries == [1, 1]
    request = MapRequest("f", 2)
    entries = [(1, 0, 0, 1.0, 2.0, b"x"), (0, 0, 0, 1.0, 2.0, b"y")]
    request.take_results([*columns(entries), array("I", [3, 1]).tobytes()])
    assert [request.metadata(slot)["tries"] for slot in (0, 1)] == [1, 3]
