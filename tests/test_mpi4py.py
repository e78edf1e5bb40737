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
from harness.work import keep_busy
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


def test_a_cluster_stops_although_engines_wait_for_ever(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(3)
    waiting = keep_busy(cluster.client(), "from mpi4py.MPI import COMM_WORLD\nCOMM_WORLD.recv()", tmp_path / "marks")
    assert cluster.command("stop").returncode == 0
    assert cluster.wait_ended() == 0
    with pytest.raises(ipp.ConnectionLost):
        waiting.get(timeout=60)


def test_who_did_not_come_to_a_barrier_may_come_later(view: ipp.DirectView, tmp_path: Path) -> None:
    mark = json.dumps(str(tmp_path / "begun"))
    code = f"import pathlib\npathlib.Path({mark} + str(world.rank)).touch()\n1 / (world.rank - 1)\nworld.barrier()"
    waiting = view.execute(code, block=False)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 4, "all engines begin")
    view.client[1].execute("world.barrier()", block=True)
    with pytest.raises(ipp.CompositeError, match="ZeroDivisionError") as raised:
        waiting.get(timeout=60)
    assert len(raised.value.elist) == 1
    run(view, "total = world.allreduce(1)")
    assert view["total"] == [4] * 4


def test_ctrl_c_while_a_message_is_polled_for(view: ipp.DirectView, tmp_path: Path) -> None:
    code = """
import time
awaited = world.irecv(source=world.rank, tag=5)
while not awaited.test()[0]:
    time.sleep(0.001)
"""
    busy = keep_busy(view.client, code, tmp_path / "marks")
    view.client.send_signal("SIGINT", block=True)
    errors = busy.get(timeout=60, return_exceptions=True)
    assert [error.ename for error in errors] == ["KeyboardInterrupt"] * 4
    run(view, "world.send('late', world.rank, 5)\nsaid = awaited.wait()\ntotal = world.allreduce(1)")
    assert view["said, total"] == [("late", 4)] * 4


def test_ctrl_c_in_a_call_that_waits_has_its_effect_when_that_returns(view: ipp.DirectView, tmp_path: Path) -> None:
    rc, arrived = view.client, tmp_path / "arrived"
    arrived.mkdir()
    code = f"""
import os, signal
arrivals = os.open(f"{arrived}/{{os.getpid()}}", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
signal.set_wakeup_fd(arrivals)
world.recv(source=world.rank + 1, tag=6)
afterwards = True
"""
    busy = keep_busy(rc, code, tmp_path / "marks", [0, 2])
    wait_for(lambda: len(list(arrived.iterdir())) == 2, "both come to where they wait")
    rc.send_signal("SIGINT", targets=[0, 2], block=True)
    wait_for(lambda: all(path.read_bytes() for path in arrived.iterdir()), "the signals arrive")
    rc[[1, 3]].execute("world.send('at last', world.rank - 1, 6)", block=True)
    errors = busy.get(timeout=60, return_exceptions=True)
    assert [error.ename for error in errors] == ["KeyboardInterrupt"] * 2
    rc[[0, 2]].execute("signal.set_wakeup_fd(-1)\nos.close(arrivals)", block=True)
    assert rc[[0, 2]]["'afterwards' in globals()"] == [False] * 2


def test_the_living_make_a_communicator_without_the_dead(new_cluster: Callable[..., Cluster]) -> None:
    rc = new_cluster(4).client()
    rc[:].execute("from mpi4py import MPI\nworld = MPI.COMM_WORLD\nhalf = world.Split(world.rank % 2)", block=True)
    with pytest.raises(ipp.EngineError):
        rc[1].execute("import os; os._exit(1)", block=True)
    living = rc[:]
    run(living, "alive = world.Create_group(world.group.Excl([1]))\ntotal = alive.allreduce(world.rank)")
    assert living["(alive.rank, total)"] == [(0, 5), (1, 5), (2, 5)]
    both = rc[[0, 2]]
    run(both, "total = half.allreduce(world.rank)")
    assert both["total"] == [2, 2]
    assert rc.load_balanced_view().map_sync(abs, range(-20, 0)) == list(range(20, 0, -1))


def test_errors_of_mpi_are_exceptions(view: ipp.DirectView) -> None:
    run(view, "half = world.Split(world.rank % 2)")
    for code in ("world.send(1, dest=77)", "half.bcast(1, root=9)", "MPI.COMM_SELF.send(1, dest=2)"):
        errors = view.execute(code, block=False).get(timeout=60, return_exceptions=True)
        assert [error.ename for error in errors] == ["Exception"] * 4, code
        assert all("MPI_ERR" in error.evalue or "Invalid r" in error.evalue for error in errors), errors
    run(view, "half.Free()\ntotal = world.allreduce(1)")
    assert view["total"] == [4] * 4


def test_finalize_is_left_to_the_cluster(view: ipp.DirectView) -> None:
    run(
        view,
        """
import mpi4py
MPI.Finalize()
state = (MPI.Is_initialized(), MPI.Is_finalized(), MPI.Query_thread() == MPI.THREAD_MULTIPLE, MPI.COMM_SELF.size)
state += (mpi4py.rc.initialize, mpi4py.rc.finalize, world.allreduce(1))
""",
    )
    assert view["state"] == [(True, False, True, 1, False, False, 4)] * 4
    assert all(view["MPI.Get_processor_name()"])


def test_a_pool_of_mpi4py_futures_on_the_engines(view: ipp.DirectView) -> None:
    run(
        view,
        """
from mpi4py.futures import MPICommExecutor
mapped = None
with MPICommExecutor(world, root=0) as executor:
    if executor is not None:
        mapped = list(executor.map(abs, range(-100, 0)))
""",
    )
    assert view["mapped"] == [list(range(100, 0, -1)), None, None, None]


def test_a_plate_in_four_quarters(view: ipp.DirectView) -> None:
    """Halos in two dimensions, the neighbours named by a Cartesian topology."""
    run(
        view,
        """
rows, columns, steps = 24, 20, 50
grid = world.Create_cart(MPI.Compute_dims(world.size, 2), reorder=False)
(above, below), (before, behind) = grid.Shift(0, 1), grid.Shift(1, 1)
(top, bottom), (left, right) = ((n * at // parts, n * (at + 1) // parts)
    for n, at, parts in zip((rows, columns - 2), grid.coords, grid.dims))
plate = np.zeros((bottom - top + 2, right - left + 2))
if above == MPI.PROC_NULL:
    plate[0] = 100.0
for step in range(steps):
    inner = plate[1:-1, 1:-1]
    for out, to, into, of in (
        (plate[1, 1:-1], above, (-1, slice(1, -1)), below),
        (plate[-2, 1:-1], below, (0, slice(1, -1)), above),
        (plate[1:-1, 1], before, (slice(1, -1), -1), behind),
        (plate[1:-1, -2], behind, (slice(1, -1), 0), before),
    ):
        got = np.empty_like(plate[into])
        grid.Sendrecv(np.ascontiguousarray(out), to, recvbuf=got, source=of)
        if of != MPI.PROC_NULL:
            plate[into] = got
    plate[1:-1, 1:-1] = (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]) / 4
place = (slice(top, bottom), slice(left + 1, right + 1))
grid.Free()
""",
    )
    expected = plate_alone(24, 20, 50)
    quarters = view["plate[1:-1, 1:-1]"]
    assert [quarter.shape for quarter in quarters] == [(12, 9)] * 4
    for place, quarter in zip(view["place"], quarters, strict=True):
        np.testing.assert_allclose(quarter, expected[place])


def test_a_transform_by_mpi4py_fft(view: ipp.DirectView) -> None:
    pytest.importorskip("mpi4py_fft", reason="mpi4py-fft is not installed, which needs FFTW's headers to be built")
    run(
        view,
        """
from mpi4py_fft import PFFT, newDistArray
transform = PFFT(world, (24, 20, 16), dtype="d")
values = np.random.default_rng(7).random((24, 20, 16))
mine = newDistArray(transform, False)
mine[:] = values[mine.local_slice()]
spectrum = transform.forward(mine)
wanted = np.fft.rfftn(values)[transform.local_slice(True)] / values.size
right = (np.allclose(spectrum, wanted), np.allclose(transform.backward(spectrum), values[mine.local_slice()]))
""",
    )
    assert view["right"] == [(True, True)] * 4
