"""Names, parameters, their order and defaults are ipyparallel's, or docs/ipyparallel-compat.md names them."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pxcluster
import pytest

from . import compat, signatures

ipyparallel = pytest.importorskip("ipyparallel", reason="ipyparallel is not installed: there is nothing to compare")


@functools.cache
def differences() -> dict[str, dict[str, str]]:
    """By section of the page: each name that differs, and how."""
    missing: dict[str, str] = {}
    other: dict[str, str] = {}
    only: dict[str, str] = {}

    def compare(name: str, theirs: Any, ours: Any) -> None:
        wanted, got = signatures.parameters(theirs), signatures.parameters(ours)
        if wanted != got:
            other[name] = f"{wanted} became {got}"

    theirs, ours = signatures.public_names(ipyparallel), signatures.public_names(pxcluster)
    missing |= dict.fromkeys(theirs - ours, "is not there")
    only |= dict.fromkeys(ours - theirs, "is not in ipyparallel")
    for name in sorted({*(theirs & ours), "View", "LazyMapIterator", "ExecuteReply"}):
        their, our = signatures.find(ipyparallel, name), signatures.find(pxcluster, name)
        if inspect.isclass(their):
            compare(f"{name}()", their, our)
            their_own, our_own = signatures.members(their), signatures.members(our)
            for member in sorted(their_own | our_own):
                if not inherited(their, our, member):
                    full = f"{name}.{member}"
                    if member not in our_own | signatures.attributes(our):
                        missing[full] = "is not there"
                    elif member not in their_own | signatures.attributes(their):
                        only[full] = "is not in ipyparallel"
                    elif callable(getattr(their, member, None)):
                        compare(full, getattr(their, member), getattr(our, member))
        elif callable(their):
            compare(name, their, our)
    return {compat.MISSING: missing, compat.OTHER_ARGUMENTS: other, compat.ONLY_HERE: only}


def inherited(their: type, our: type, member: str) -> bool:
    """Whether the member has been compared with a public base class already."""
    their_base, our_base = their.__mro__[1], our.__mro__[1]
    public = signatures.find(ipyparallel, their_base.__name__)
    if public is not their_base or signatures.find(pxcluster, our_base.__name__) is not our_base:
        return False
    absent = object()
    bases = [(their, their_base), (our, our_base)]
    return all(getattr(cls, member, absent) is getattr(base, member, absent) for cls, base in bases)


@pytest.mark.parametrize("section", [compat.MISSING, compat.OTHER_ARGUMENTS, compat.ONLY_HERE])
def test_every_difference_is_named(section: str) -> None:
    found = differences()[section]
    unnamed = {name: how for name, how in sorted(found.items()) if name not in compat.names(section)}
    assert not unnamed, f"no row of {compat.PAGE.name}, {section!r}, names these: {unnamed}"


@pytest.mark.parametrize("section", [compat.MISSING, compat.OTHER_ARGUMENTS, compat.ONLY_HERE])
def test_every_named_difference_is_one(section: str) -> None:
    untrue = sorted(compat.names(section) - differences()[section].keys())
    assert not untrue, f"{compat.PAGE.name}, {section!r}, names what is no difference (any more): {untrue}"


def test_every_purposeful_difference_has_a_reason() -> None:
    rows = [line.strip("|").split("|") for line in compat.rows(compat.ON_PURPOSE)]
    assert len(rows) > 40
    assert [row[0].strip() for row in rows if len(row) != 4 or not row[3].strip()] == []
