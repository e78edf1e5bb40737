"""mpi4py on the engines: the classics, while the comm thread runs, and the ways out of a call that never returns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from harness.notebooks import EXAMPLES, run_cell, running_kernel
from harness.waiting import wait_for
from pxcluster import Client

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(300)]


@pytest.fixture
def view(rc: Client) -> ipp.DirectView:
    """All four engines, with mpi4py and numpy."""
    everybody = rc[:]
    everybody.execute("import numpy as np\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD", block=True)
    return everybody


def run(view: ipp.DirectView, code: str) -> None:
    """Runs it on all engines, within a generous time."""
    view.execute(code, block=False).get(timeout=120)


def test_engine_comm_is_the_world_of_the_engines(view: ipp.DirectView) -> None:
    run(view, "import pxcluster\ncomm = pxcluster.engine_comm()\nplace = (comm.rank, comm.size, comm == world)")
    assert view["place"] == [(engine, 4, True) for engine in range(4)]
    with pytest.raises(RuntimeError, match="for code that runs on an engine, and this process is none"):
        ipp.engine_comm()


def test_objects_and_arrays_are_reduced_and_shared(view: ipp.DirectView) -> None:
    run(
        view,
        """
total = world.allreduce({world.rank}, lambda one, other: one | other)
array = np.full(1_000_000, world.rank, dtype="d")
reduced = np.empty_like(array)
world.Allreduce(array, reduced, MPI.SUM)
array[:] = np.arange(len(array)) if world.rank == 2 else 0
world.Bcast(array, root=2)
part = np.empty(250_000)
world.Scatter(array if world.rank == 0 else None, part, root=0)
part *= -1
whole = np.empty(1_000_000) if world.rank == 1 else None
world.Gather(part, whole, root=1)
""",
    )
    assert view["total"] == [{0, 1, 2, 3}] * 4
    assert view["(reduced == 6).all(), array.sum()"] == [(True, 999_999 * 500_000)] * 4
    assert view.client[1]["(whole == -np.arange(1_000_000)).all()"]


def test_point_to_point_split_and_windows(view: ipp.DirectView) -> None:
    run(
        view,
        """
token, right, left = np.array([world.rank]), (world.rank + 1) % world.size, (world.rank - 1) % world.size
for _ in range(world.size):
    got = np.empty_like(token)
    MPI.Request.Waitall([world.Isend(token, right), world.Irecv(got, left)])
    token = got
half = world.Split(world.rank % 2)
halves = half.allgather(world.rank)
half.Free()
window = MPI.Win.Allocate(4096, comm=world)  # MPICH 4.0 mixes up windows of 8 bytes
memory = np.frombuffer(window.tomemory(), dtype="d")
memory[:] = -1
window.Fence()
window.Put(np.array([float(world.rank)]), right)
window.Fence()
put = float(memory[0])
del memory
window.Free()
""",
    )
    assert view["int(token[0])"] == [0, 1, 2, 3]
    assert view["halves"] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert view["put"] == [3.0, 0.0, 1.0, 2.0]


def plate_alone(rows: int, columns: int, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What examples/halo.py computes, on one process."""
    plate = np.zeros((rows + 2, columns))
    plate[0] = 100.0
    for _ in range(steps):
        plate[1:-1, 1:-1] = (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]) / 4
    inner: np.ndarray[Any, np.dtype[np.float64]] = plate[1:-1]
    return inner


def test_the_example_of_a_halo_exchange(cluster: Cluster) -> None:
    run = cluster.site.run("python", str(EXAMPLES / "halo.py"))
    assert run.returncode == 0, run.stderr
    expected = plate_alone(96, 64, 200)
    said = re.fullmatch(r"4 engines, 200 steps: ([\d.]+) degrees on average, last change (\S+)\n", run.stdout)
    assert said, run.stdout
    assert float(said[1]) == pytest.approx(expected.mean(), abs=1e-6)
    np.testing.assert_allclose(cluster.client()[:].gather("mine", block=True), expected)


def test_collectives_go_on_while_the_cluster_is_at_work(cluster: Cluster, view: ipp.DirectView) -> None:
    other = cluster.client()
    code = """
import time
sums = 0
until = time.monotonic() + 1.0
while world.allreduce(time.monotonic() < until, MPI.LAND):
    sums += world.allreduce(1)
    if sums == 40:
        print("still summing")
done = sums % 4
"""
    computing = view.execute(code, block=False)
    array = np.arange(4_000_000)
    pushed = [other[:].push({"array": array + number}, block=False) for number in range(5)]
    mapped = other.load_balanced_view().map_async(abs, range(-2000, 0))
    computing.get(timeout=120)
    assert mapped.get(timeout=120) == list(range(2000, 0, -1))
    for result in pushed:
        result.get(timeout=120)
    assert view["done"] == [0] * 4
    assert view["int(array[0])"] == [4] * 4
    assert "still summing" in computing.stdout[0]


def test_cells_of_a_notebook_use_it(cluster: Cluster) -> None:
    cells = [
        "import pxcluster as ipp\nrc = ipp.Client()\n%autopx",
        "from mpi4py import MPI\nimport numpy as np",
        "n = 100_000\nx = (np.arange(MPI.COMM_WORLD.rank, n, MPI.COMM_WORLD.size) + 0.5) / n\n"
        "pi = MPI.COMM_WORLD.allreduce((4 / (1 + x * x)).sum() / n)",
        "%autopx",
        "print([round(float(value), 8) for value in rc[:]['pi']])",
    ]
    with running_kernel(cluster.site.env) as (_, kernel):
        said = [run_cell(kernel, cell) for cell in cells]
    assert said[-1] == ("ok", "[3.14159265, 3.14159265, 3.14159265, 3.14159265]\n"), said


def test_who_waits_for_ever_is_killed_and_the_others_live(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(3)
    rc = cluster.client()
    rc[:].execute("from mpi4py import MPI\nimport pathlib", block=True)
    mark = json.dumps(str(tmp_path / "begun"))
    waiting = rc[[0, 2]].execute(
        f"pathlib.Path({mark} + str(MPI.COMM_WORLD.rank)).touch()\nMPI.COMM_WORLD.barrier()", block=False
    )
    with pytest.raises(ipp.RemoteError, match="ZeroDivisionError"):
        rc[1].execute("1 / 0; MPI.COMM_WORLD.barrier()", block=True)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, "two engines have come to the barrier")
    assert rc[1].apply_sync(abs, -1) == 1
    rc.kill_engines([0, 2], block=True)
    with pytest.raises(ipp.CompositeError, match="EngineError"):
        waiting.get(timeout=60)
    assert rc.ids == [1]
    assert rc[1].apply_sync(abs, -2) == 2


def test_finalize_is_left_to_the_cluster(view: ipp.DirectView) -> None:
    run(view, "state = (MPI.Is_initialized(), MPI.Query_thread() == MPI.THREAD_MULTIPLE, MPI.COMM_SELF.size)")
    assert view["state"] == [(True, True, 1)] * 4
    assert len(view["MPI.Get_processor_name()"]) == 4
