"""Clusters on several hosts, started by ssh from a host of the user's; hosts without power, cables that are pulled."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable

import pxcluster as ipp
import pytest
from harness.hosts import is_hydra
from harness.rig import LOGIN, NODES, NOWHERE, Login, Rig
from harness.waiting import wait_for
from pxcluster import interactive

pytestmark = pytest.mark.timeout(300)

SIZE = 40_000_000
#: Engines by host: rank 0 is the first process of the first host.
ENGINES = {"h1": [0], "h2": [1, 2], "h3": [3, 4]}


@pytest.fixture
def login(new_login: Callable[..., Login]) -> Login:
    return new_login()


def start(login: Login, *flags: str) -> None:
    """Five engines on three hosts."""
    places = [f"{name}:2" if is_hydra() else f"{name} slots=2" for name in NODES]
    (login.base / "hosts").write_text("\n".join([*places, ""]))
    login.said("pxcluster", "start", "-n", "5", "--hostfile", "hosts", *flags)


@interactive
def place(number: int) -> tuple[int, str]:
    import socket
    import time

    time.sleep(0.02)
    return number * number, socket.gethostname()


SESSION = """
import pxcluster as ipp
rc = ipp.Client()
rc.activate()
get_ipython().run_line_magic("px", "import socket; print(socket.gethostname())")
"""


@pytest.mark.smoke
def test_a_hostfile_spreads_a_cluster_over_hosts(login: Login, rig: Rig) -> None:
    start(login)
    rc = login.client()
    hosts = rc[:].apply_sync(socket.gethostname)
    assert {name: [i for i, host in enumerate(hosts) if host == name] for name in NODES} == ENGINES
    done = rc.load_balanced_view().map_sync(place, range(200))
    assert [square for square, _ in done] == [number * number for number in range(200)]
    assert {host for _, host in done} == set(NODES)
    said = login.said(sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "-c", SESSION)
    shown = dict(re.findall(r"^\[stdout:(\d)\] *\n?(\w+)$", said, re.M))
    assert shown == {str(engine): host for engine, host in enumerate(hosts)}, said
    assert login.said("pxcluster", "stop") == "pxcluster: cluster 'default' is stopped\n"


def test_large_data_goes_to_each_host_once(login: Login, rig: Rig) -> None:
    start(login)
    rc = login.client()
    before = {name: rig.received(name) for name in NODES}
    rc[:].push({"data": os.urandom(SIZE)}, block=True)
    got = {name: rig.received(name) - before[name] for name in NODES}
    assert all(SIZE <= count < 1.5 * SIZE for count in got.values()), got
    assert rc[:].apply_sync(ipp.Reference("len"), ipp.Reference("data")) == [SIZE] * 5
    login.said("pxcluster", "stop")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.smoke), "cut"])
def test_a_host_goes_and_its_tasks_run_elsewhere(login: Login, rig: Rig, fault: str) -> None:
    start(login, "--lost-after", "8")
    rc = login.client()
    asked = rc.load_balanced_view().map_async(place, range(600))
    wait_for(lambda: asked.progress > 50, "the map is under way")
    getattr(rig, fault)("h3")
    done = asked.get(timeout=120)
    assert [square for square, _ in done] == [number * number for number in range(600)]
    wait_for(lambda: rc.ids == [0, 1, 2], lambda: f"two engines are lost: {rc.ids}")
    with pytest.raises(ipp.EngineError, match="nothing has been heard of its host for 8 s"):
        rc[3].apply_sync(abs, -1)
    assert rc[:].apply_sync(socket.gethostname) == ["h1", "h2", "h2"]
    rc.close()
    assert login.said("pxcluster", "stop").startswith("pxcluster: cluster 'default' is stopped")
    # Neither MPI's mpirun ends before the connection to the lost host does, which takes hours, nor its ssh.
    waits = re.compile("mpirun|mpiexec|/ssh -x h3 ")
    wait_for(lambda: all(map(waits.search, login.remains())), lambda: f"all others end: {login.remains()}")
    for process in login.processes_on(LOGIN):
        process.kill()


def test_a_cable_that_is_plugged_in_again_costs_nothing(login: Login, rig: Rig) -> None:
    start(login)
    rc = login.client()
    asked = rc.load_balanced_view().map_async(place, range(600))
    wait_for(lambda: asked.progress > 50, "the map is under way")
    rig.cut("h3")
    wait_for(lambda: asked.progress > 300, "the others go on")
    rig.heal("h3")
    assert [square for square, _ in asked.get(timeout=120)] == [number * number for number in range(600)]
    assert rc[:].apply_sync(socket.gethostname) == [host for host, engines in ENGINES.items() for _ in engines]
    login.said("pxcluster", "stop")


CONNECT = """
import pxcluster as ipp
with ipp.Client(timeout=600) as rc:
    print(rc[:].apply_sync(abs, -1))
"""


def test_an_address_that_leads_nowhere_does_not_cost_the_time_for_all(login: Login, rig: Rig) -> None:
    rig.lead_nowhere(LOGIN, NOWHERE)
    start(login, "--advertise", f"{NOWHERE},h1")
    connection = json.loads((login.directory / "default" / "connection.json").read_text())
    assert [address.partition(":")[0] for address in connection["addresses"]] == [NOWHERE, "h1"]
    # It is ended before half of the client's time is over.
    assert login.said(sys.executable, "-c", CONNECT) == "[1, 1, 1, 1, 1]\n"
    login.said("pxcluster", "stop")
