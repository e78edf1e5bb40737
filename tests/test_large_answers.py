"""Large answers on their way back, over both links and over connections that break."""

from __future__ import annotations

import numpy as np
import pytest
from harness.cluster import Cluster
from harness.large import LINKS, client_over, data
from harness.memory import MEGA
from harness.waiting import wait_for
from pxcluster import Client, interactive


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
