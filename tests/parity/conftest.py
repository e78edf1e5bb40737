"""`peer`: every test that asks for it runs against pxcluster and against ipyparallel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .options import chosen_peers
from .peers import STARTERS, Peer


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "peer" not in metafunc.fixturenames:
        return
    metafunc.parametrize("peer", chosen_peers(metafunc.config)[0], indirect=True, scope="package")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only pxcluster has to do with MPI: ipyparallel's tests are none of those that every MPI must pass.

    And only pxcluster's warnings are errors.
    """
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("peer") == "ipyparallel":
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "smoke"]
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="package")
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with STARTERS[request.param]() as peer:
        yield peer


@pytest.fixture
def ipp(peer: Peer) -> Any:
    """The package, under the name that its users give it."""
    return peer.ipp


@pytest.fixture
def rc(peer: Peer) -> Any:
    """The shared client: tests leave its flags as they are, and choose names of their own on the engines."""
    assert peer.rc.ids == [0, 1, 2, 3]
    return peer.rc


@pytest.fixture
def dv(rc: Any) -> Any:
    """A view of all engines of the test's own, which blocks."""
    view = rc[:]
    view.block = True
    return view


@pytest.fixture
def lbv(rc: Any) -> Any:
    """A load-balanced view of the test's own."""
    return rc.load_balanced_view()
