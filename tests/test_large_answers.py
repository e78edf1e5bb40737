"""Large answers on their way back, over both links and over connections that break."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness.cluster import Cluster
from harness.large import LINKS, client_over, data
from harness.memory import MEGA
from harness.waiting import wait_for
from pxcluster import Client, interactive
from pxcluster.landing import Landing


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_answers(cluster: Cluster, rc: Client, link: str) -> None:
    rc = client_over(cluster, link)
    view = rc[:]
    view.scatter("who", range(4), flatten=True, block=True)
    view.execute(
        "import numpy; x = numpy.arange(12_500_000.0) + who; y = x[:400_000] * 2; z = 'z' * 3_000_000", block=True
    ).get()
    for who, got in enumerate(view["x"]):
        assert got.nbytes == 100_000_000
        assert (got == np.arange(12_500_000.0) + who).all()
    for who, (y, z, w) in enumerate(view.pull(["y", "z", "who"], block=True)):
        assert (y == 2 * (np.arange(400_000.0) + who)).all()
        assert (z, w) == ("z" * 3_000_000, who)
    at_once = [(name, view.pull(name, block=False)) for name in ("x", "y", "z") for _ in range(2)]
    for name, result in at_once:
        assert [len(got) for got in result.get(timeout=60)] == [
            {"x": 12_500_000, "y": 400_000, "z": 3_000_000}[name]
        ] * 4
    whole = view.gather("y", block=True)
    np.testing.assert_array_equal(whole, np.concatenate([2 * (np.arange(400_000.0) + who) for who in range(4)]))
    view.clear(block=True)


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
def test_results_of_maps(cluster: Cluster, rc: Client, link: str) -> None:
    tasks = client_over(cluster, link).load_balanced_view()
    made = interactive(lambda n: __import__("numpy").full(375_000, n, dtype="i8"))
    for number, got in enumerate(tasks.map(made, range(200))):
        assert got.shape == (375_000,)
        assert (got == number).all()


@pytest.mark.parametrize("link", LINKS)
def test_a_client_that_reconnects_gets_its_answers(cluster: Cluster, rc: Client, link: str) -> None:
    client = client_over(cluster, link)
    view, session = client[:], client._session
    arrays = {f"x{n}": data(20 * MEGA, n) for n in range(3)}
    view.push(arrays, block=True)
    before = rc.queue_status()[3]["completed"]
    with session._reading:  # nobody reads
        results = {name: view.pull(name, block=False) for name in arrays}
        wait_for(lambda: rc.queue_status()[3]["completed"] >= before + 3, "all is answered")
        session._channel.shutdown()
    for name, result in results.items():
        for got in result.get(timeout=60):
            np.testing.assert_array_equal(got, arrays[name])
        session._channel.shutdown()
    rc[:].push({"y": arrays["x1"][: 3 * MEGA]}, block=True)
    mapped = client.load_balanced_view().map_async(interactive(lambda n: y[n:].copy()), range(40))  # noqa: F821
    for number, got in enumerate(mapped):
        np.testing.assert_array_equal(got, arrays["x1"][number : 3 * MEGA])
        if number % 8 == 3:
            session._channel.shutdown()
    assert session.lost is None
    view.clear(block=True)


# -- gather ----------------------------------------------------------------------------------------------------------


def address(array: np.ndarray) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


@pytest.fixture
def landings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], Any]]:
    """Where parts were read to, and the array that was made of them there, None if it had to be made elsewhere."""
    seen: list[tuple[list[int], Any]] = []
    join = Landing.join

    def joined(landing: Landing, parts: list[Any]) -> Any:
        places = [address(part) for part in parts]
        seen.append((places, join(landing, parts)))
        return seen[-1][1]

    monkeypatch.setattr(Landing, "join", joined)
    return seen


@pytest.mark.smoke
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("shape", [(4_000_000,), (400_000, 10), (300_000, 2, 5)])
def test_a_gathered_array_is_where_its_parts_were_read_to(
    cluster: Cluster, rc: Client, link: str, shape: tuple[int, ...], landings: list[tuple[list[int], Any]]
) -> None:
    view = client_over(cluster, link)[:]
    made = np.arange(float(np.prod(shape))).reshape(shape)
    view.scatter("x", made, block=True)
    sizes = view["x.nbytes"]
    whole = view.gather("x", block=True)
    ((places, joined),) = landings
    assert joined is whole
    assert address(whole) == places[0]
    assert places == [address(whole) + sum(sizes[:number]) for number in range(4)]
    assert whole.flags.writeable
    np.testing.assert_array_equal(whole, made)
    view.clear(block=True)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("first", [0, 3])
def test_uneven_parts_are_moved_together_whichever_comes_first(
    cluster: Cluster, rc: Client, link: str, first: int, landings: list[tuple[list[int], Any]]
) -> None:
    view = client_over(cluster, link)[:]
    view.scatter("who", range(4), flatten=True, block=True)
    made = np.arange(4_000_006.0).reshape(-1, 2)
    view.scatter("x", made, block=True)
    whole = view.gather(f"(__import__('time').sleep(0.5 * (who != {first})), x)[1]", block=True)
    ((places, joined),) = landings
    assert joined is whole
    assert (address(whole) == places[0]) == (first == 0)  # otherwise the longer first part lies behind the others
    assert whole.flags.writeable
    np.testing.assert_array_equal(whole, made)
    view.clear(block=True)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("parts", [1, 6, 11])
def test_gathers_at_once_over_a_connection_that_breaks(cluster: Cluster, rc: Client, link: str, parts: int) -> None:
    client = client_over(cluster, link)
    view, session = client[:], client._session
    made = data(40 * MEGA + 3)
    view.scatter("x", made, block=True)
    results = [view.gather("x", block=False) for _ in range(3)]
    wait_for(lambda: sum(result.progress for result in results) >= parts, "some parts are here")
    session._channel.shutdown()
    for number, whole in enumerate([result.get(timeout=60) for result in results]):
        np.testing.assert_array_equal(whole, made)
        whole[:] = number
    assert session.lost is None
    view.clear(block=True)
