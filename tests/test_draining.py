"""A cluster that is told that its end is near: what runs may finish, nothing new begins, everybody is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pxcluster as ipp
import pytest
from harness.cluster import Cluster, Site
from harness.hosts import is_hydra
from harness.processes import is_alive, parent_of
from harness.slurm import Slurm
from harness.waiting import wait_for

pytestmark = pytest.mark.timeout(300)


def waiting_in(folder: Path) -> Callable[[int], int]:
    """A task that leaves a mark, runs until there is a file ``go`` beside it, and returns its number."""

    def wait(number: int) -> int:
        import time
        from pathlib import Path

        Path(folder, f"{number}.begun").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.01)
        return number

    return ipp.interactive(wait)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def begun(folder: Path) -> list[int]:
    """The tasks that have begun."""
    return sorted(int(path.stem) for path in folder.glob("*.begun"))


def busy_map(rc: ipp.Client, folder: Path, tasks: int = 50) -> ipp.AsyncMapResult:
    """A map of which every engine runs one task, and no more until there is a file ``go``."""
    result = rc.load_balanced_view().map_async(waiting_in(folder), range(tasks))
    wait_for(lambda: len(begun(folder)) == len(rc.ids), "every engine has begun a task")
    return result


def assert_only_the_begun_ran(result: ipp.AsyncMapResult, folder: Path) -> None:
    """Tasks that had begun have their results, the others a ClusterEnding."""
    result.wait(60)
    outcomes = result.get(return_exceptions=True)
    ran = begun(folder)
    assert [number for number, outcome in enumerate(outcomes) if outcome == number] == ran
    others = [outcome for number, outcome in enumerate(outcomes) if number not in ran]
    assert len(others) + len(ran) == 50
    assert all(isinstance(outcome, ipp.ClusterEnding) for outcome in others)
    assert all(isinstance(outcome, ipp.TaskAborted) and isinstance(outcome, ipp.RemoteError) for outcome in others)


@pytest.mark.smoke
def test_what_runs_finishes_and_nothing_new_begins(
    new_cluster: Callable[..., Cluster], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = new_cluster(3)
    with cluster.client() as rc, cluster.client() as other:
        rc[:].push({"x": 7}, block=True)
        waiting = rc.load_balanced_view().map_async(abs, range(5), chunksize=1)
        waiting.wait(60)
        result = busy_map(rc, folder)
        elsewhere = other.load_balanced_view().map_async(abs, [-1])
        os.kill(cluster.connection()["pid"], signal.SIGTERM)
        wait_for(lambda: rc._session.registry.ending, "the client is told")
        assert begun(folder) == sorted(begun(folder))[: len(rc.ids)]
        with pytest.raises(ipp.ClusterEnding, match="takes no new tasks: the controller received SIGTERM"):
            rc.load_balanced_view().map_sync(abs, [-1])
        with pytest.raises((ipp.ClusterEnding, ipp.CompositeError), match="ClusterEnding"):
            elsewhere.get(timeout=60)
        os.kill(cluster.connection()["pid"], signal.SIGTERM)  # comes again, and changes nothing
        last = rc[:].pull("x", block=False)
        (folder / "go").touch()
        assert_only_the_begun_ran(result, folder)
        assert last.get(timeout=60) == [7, 7, 7]
        with pytest.raises((ipp.CompositeError, ipp.ClusterEnding), match="this task was not started: the controller"):
            result.get()
        told = "the cluster is ending: the controller received SIGTERM; of 50 unfinished tasks those that run may"
        assert told in capfd.readouterr().err
        assert cluster.wait_ended() == 0
        wait_for(lambda: rc._session.lost, "the client sees the end")
    assert "47 tasks of map" in cluster.log()
    cluster.site.wait_until_nothing_remains()


def test_the_time_to_finish_is_bounded(new_cluster: Callable[..., Cluster], folder: Path) -> None:
    cluster = new_cluster(2, "--grace", "0.5")
    with cluster.client() as rc:
        result = busy_map(rc, folder)
        os.kill(cluster.connection()["pid"], signal.SIGTERM)
        assert cluster.wait_ended() == 0
        outcomes = result.get(return_exceptions=True, timeout=60)
        assert sum(isinstance(outcome, ipp.ClusterEnding) for outcome in outcomes) == 48
        assert not any(outcome in range(50) for outcome in outcomes)
    assert "is ended while tasks of it run" in cluster.log()


@pytest.mark.smoke
def test_a_launcher_tells_every_process_and_engines_go_on(new_cluster: Callable[..., Cluster], folder: Path) -> None:
    cluster = new_cluster(3)
    with cluster.client() as rc:
        result = busy_map(rc, folder)
        engines = [engine["pid"] for engine in rc._session.registry.engines.values()]
        controller = cluster.connection()["pid"]
        for pid in [parent_of(controller), controller, *engines, *map(parent_of, engines)]:
            os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: rc._session.registry.ending, "the client is told")
        (folder / "go").touch()
        assert_only_the_begun_ran(result, folder)
        assert "SIGUSR2" in (rc._session.registry.ending or "")
        assert cluster.wait_ended() == 0
    assert "was killed" not in cluster.log()


def test_an_engine_that_is_signalled_alone_dies(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(3)
    with cluster.client() as rc:
        for engine, signum in [(0, signal.SIGTERM), (2, signal.SIGUSR2)]:
            os.kill(rc[engine].apply_sync(os.getpid), signum)
            wait_for(lambda gone=engine: gone not in rc.ids, f"engine {engine} dies")
            assert signum.name in rc._session.registry.gone[engine]
        assert rc._session.registry.ending is None
        with pytest.raises(ipp.EngineError, match="SIGTERM"):
            rc[1].execute("import os; os.kill(os.getpid(), 15)", block=True)


def test_processes_that_user_code_starts_die_of_sigterm(new_cluster: Callable[..., Cluster]) -> None:
    def children() -> list[int]:
        import multiprocessing
        import subprocess

        context = multiprocessing.get_context("fork")
        forked = context.Process(target=__import__("time").sleep, args=(1000,))
        forked.start()
        spawned = subprocess.Popen(["sleep", "1000"])
        forked.terminate()
        spawned.terminate()
        forked.join()
        return [forked.exitcode or 0, spawned.wait()]

    cluster = new_cluster(1)
    with cluster.client() as rc:
        assert rc[0].apply_async(ipp.interactive(children)).get(timeout=60) == [-15, -15]
        import_and_ask = "import signal; default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL"
        rc[0].execute(import_and_ask, block=True)
        assert rc[0]["default"]


def test_stop_can_wait_for_what_runs(new_cluster: Callable[..., Cluster], folder: Path) -> None:
    cluster = new_cluster(2)
    with cluster.client() as rc:
        result = busy_map(rc, folder)
        (folder / "go").touch()
        stopped = cluster.command("stop", "--drain", "60")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        outcomes = result.get(return_exceptions=True, timeout=60)
        done = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
        assert set(begun(folder)) == set(done)
    assert cluster.wait_ended() == 0


@pytest.mark.slurm
def test_a_job_that_is_cancelled_drains(
    private_slurm: Slurm, new_site: Callable[..., Site], new_cluster: Callable[..., Cluster], folder: Path
) -> None:
    if is_hydra():
        pytest.skip("MPICH does not speak PMIx with srun here")
    site = new_site(**private_slurm.environment)
    srun = ("srun", "--mpi=pmix", "--kill-on-bad-exit=0")
    cluster = new_cluster(3, "--grace", "4", site=site, launcher=srun)
    with cluster.client() as rc:
        result = busy_map(rc, folder)
        job = cluster.connection()["slurm_job_id"]
        assert site.run("scancel", job).returncode == 0
        wait_for(lambda: rc._session.registry.ending, "the client is told")
        assert f"Slurm job {job} is about to end" in (rc._session.registry.ending or "")
        (folder / "go").touch()
        assert_only_the_begun_ran(result, folder)
        cluster.wait_ended()
    engines = [engine for engine in cluster.site.processes() if is_alive(engine.pid)]
    wait_for(lambda: not cluster.site.processes(), f"nothing is left of {engines}")
