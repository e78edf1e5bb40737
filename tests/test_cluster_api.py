"""Clusters that Python starts and stops, beside a shell that sees the same ones."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pxcluster as ipp
import pytest
from harness.cluster import Site
from harness.notebooks import run_cell, running_kernel
from harness.waiting import wait_for
from harness.work import SLEEP, keep_busy
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager


@pytest.fixture
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A place for clusters, which is this process's, too."""
    for name in set(os.environ) - set(site.env):
        monkeypatch.delenv(name)
    for name, value in site.env.items():
        monkeypatch.setenv(name, value)
    return site


def shell(site: Site, command: str, cluster_id: str, *arguments: str) -> str:
    """`pxcluster COMMAND`, which succeeds; what it prints."""
    outcome = site.run("pxcluster", command, "--cluster-id", cluster_id, *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def directories(site: Site) -> list[str]:
    return sorted(path.name for path in site.directory.iterdir())


# -- starting and stopping -----------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_with_statement_is_a_cluster_and_leaves_nothing(here: Site) -> None:
    with ipp.Cluster(n=2) as rc:
        cluster = rc.cluster
        assert rc.ids == [0, 1]
        assert rc[:].apply_sync(pow, 2, 5) == [32, 32]
        assert shell(here, "status", cluster.cluster_id).startswith(f"cluster '{cluster.cluster_id}': 2 engines, ")
        engines = cluster.engine_set
        assert (engines.n, engines.state, cluster.controller.running) == (2, "running", True)
        sets = f"engine_sets=['{engines.engine_set_id}']"
        name = f"cluster_id='{cluster.cluster_id}', profile='default'"
        assert repr(cluster) == f"<Cluster({name}, controller=<running>, {sets})>"
    assert (cluster.controller, cluster.engines, cluster.engine_set) == (None, {}, None)
    assert repr(cluster) == f"<Cluster({name})>"
    assert engines.state == "after"
    assert "is ready: 2 engines" in engines.get_output()
    here.wait_until_nothing_remains()
    assert directories(here) == []


def test_an_event_loop_runs_on_while_a_cluster_starts_and_stops(here: Site) -> None:
    turns = {"starting": 0, "using": 0, "stopping": 0}
    phase = "starting"

    async def count() -> None:
        while True:
            turns[phase] += 1
            await asyncio.sleep(0.001)

    async def use() -> list[int]:
        nonlocal phase
        counting = asyncio.create_task(count())
        async with ipp.Cluster(n=1) as rc:
            phase = "using"
            found = rc[:].apply_sync(abs, -1)
            phase = "stopping"
        counting.cancel()
        return found

    assert asyncio.run(use()) == [1]
    # One turn is what a coroutine that blocks would let pass.
    assert turns["starting"] > 2
    assert turns["stopping"] > 2


def test_twins_work_while_an_event_loop_runs(here: Site) -> None:
    async def use() -> None:
        cluster = ipp.Cluster(cluster_id="loop")
        assert cluster.start_cluster_sync(1) is cluster
        with cluster.connect_client_sync() as rc, await cluster.connect_client() as other:
            assert rc.ids == other.ids == [0]
            assert rc.cluster is other.cluster is cluster
        cluster.stop_cluster_sync()

    asyncio.run(use())
    here.wait_until_nothing_remains()


def test_the_steps_one_by_one(here: Site) -> None:
    cluster = ipp.Cluster(n=3, cluster_id="steps", engines="local", controller="MPI")
    with pytest.raises(NotImplementedError, match=r"start_cluster\(n\)"):
        cluster.start_controller_sync()
    with pytest.raises(RuntimeError, match="'steps' is not running"):
        cluster.connect_client_sync()
    name = cluster.start_engines_sync(1)
    assert list(cluster.engines) == [name]
    with pytest.raises(RuntimeError, match="is running already"):
        cluster.start_engines_sync(1)
    with pytest.raises(RuntimeError, match=r"cluster 'steps' is already running on host .* another --cluster-id"):
        ipp.Cluster(n=1, cluster_id="steps").start_cluster_sync()
    with pytest.raises(KeyError, match="nonsense"):
        cluster.stop_engines_sync("nonsense")
    assert cluster.controller.running
    for refused in (cluster.stop_engine_sync, cluster.restart_engine_sync):
        with pytest.raises(NotImplementedError):
            refused(0)
    with pytest.raises(NotImplementedError, match="send_signal"):
        cluster.signal_engine_sync(2, 0)
    cluster.stop_engines_sync(name)
    here.wait_until_nothing_remains()
    cluster.stop_controller_sync()
    cluster.stop_cluster_sync()
    assert directories(here) == ["steps"]  # with the log, as a shell's


def test_two_stops_at_once(here: Site) -> None:
    async def use() -> None:
        cluster = await ipp.Cluster(n=1).start_cluster()
        await asyncio.gather(cluster.stop_controller(), cluster.stop_engines(), cluster.stop_cluster())
        assert cluster.controller is None

    asyncio.run(use())
    here.wait_until_nothing_remains()


@pytest.mark.smoke
def test_a_cluster_that_does_not_come_up_says_what_its_log_says(here: Site) -> None:
    cluster = ipp.Cluster(n=1, controller_args=["--python", "/bin/false"])
    with pytest.raises(RuntimeError) as caught:
        cluster.start_cluster_sync()
    sentence = "the cluster did not start: /bin/false does not answer as a Python interpreter does"
    assert str(caught.value).startswith(sentence)
    assert cluster.controller is None
    cluster.stop_cluster_sync()


def test_a_cluster_that_is_too_slow_is_stopped(here: Site) -> None:
    with pytest.raises(TimeoutError, match=r"was not ready after 0.01 seconds .*engine_timeout="):
        ipp.Cluster(n=1, engine_timeout=0.01).start_cluster_sync()
    here.wait_until_nothing_remains()


def test_flags_of_another_controller_are_refused(here: Site) -> None:
    with pytest.raises(ValueError, match=r"unexpected argument '--nodb' found.*pxcluster start --help") as caught:
        ipp.Cluster(n=1, controller_args=["--nodb"]).start_cluster_sync()
    assert "\n" not in str(caught.value)


def test_without_sbatch_there_is_no_slurm(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError, match="needs the program sbatch, which is not on this host") as caught:
        ipp.Cluster(n=1, engines="slurm").start_cluster_sync()
    assert "\n" not in str(caught.value)
    assert directories(here) == []


# -- the shell and Python ------------------------------------------------------------------------------------------


def test_python_stops_what_a_shell_has_started(here: Site) -> None:
    shell(here, "start", "default", "-n", "2")
    cluster = ipp.Cluster.from_file()
    assert (cluster.cluster_id, cluster.engine_set.n, cluster.shutdown_atexit) == ("default", 2, False)
    with cluster.connect_client_sync() as rc:
        assert rc.ids == [0, 1]
    with pytest.raises(RuntimeError, match=r"connect_client\(\)"):
        cluster.start_cluster_sync(3)
    with pytest.raises(NotImplementedError, match="does not know how it was started"):
        cluster.restart_engines_sync()
    assert cluster.controller.running
    cluster.stop_cluster_sync()
    here.wait_until_nothing_remains()
    with pytest.raises(FileNotFoundError, match=r"no cluster 'default' is running .*pxcluster start"):
        ipp.Cluster.from_file()


def test_a_shell_stops_what_python_has_started(here: Site) -> None:
    cluster = ipp.Cluster(n=1, cluster_id="shared").start_cluster_sync()
    shell(here, "stop", "shared")
    assert (cluster.controller.state, cluster.engine_set.state) == ("after", "after")
    assert "controller=<after>" in repr(cluster)
    shell(here, "start", "shared", "-n", "2")
    # The shell's cluster has the same name, but is another one, which nobody here has been asked to stop.
    cluster.stop_cluster_sync()
    assert shell(here, "status", "shared").startswith("cluster 'shared': 2 engines")
    with cluster.connect_client_sync() as rc:
        assert rc.ids == [0, 1]
    assert not cluster.shutdown_atexit
    del cluster, rc
    gc.collect()
    assert shell(here, "status", "shared").startswith("cluster 'shared': 2 engines")
    shell(here, "stop", "shared")
    here.wait_until_nothing_remains()


def test_a_manager_finds_all_clusters(here: Site) -> None:
    manager = ipp.ClusterManager()
    assert manager.load_clusters() == {}
    shell(here, "start", "of-a-shell", "-n", "1")
    key, own = manager.new_cluster(n=1, cluster_id="own", profile="mpi")
    own.start_cluster_sync()
    other = ipp.Cluster(n=1, cluster_id="other").start_cluster_sync()
    assert sorted(manager.load_clusters()) == ["default:of-a-shell", "default:other", "mpi:own"]
    assert manager.get_cluster(key) is own
    assert manager.clusters["default:other"] is not other
    shell(here, "stop", "of-a-shell")
    other.stop_cluster_sync()
    assert list(manager.load_clusters()) == ["mpi:own"]
    own.stop_cluster_sync()
    assert manager.load_clusters() == {"mpi:own": own}  # it can be started again
    here.wait_until_nothing_remains()


def test_a_cluster_is_found_again_by_what_it_writes(here: Site, tmp_path: Path) -> None:
    file = tmp_path / "written" / "cluster.json"
    cluster = ipp.Cluster(n=1, cluster_id="first", cluster_file=file, controller_args=["--hung-after", "20"])
    assert not file.exists()
    cluster.start_cluster_sync()
    assert cluster._run is not None
    assert cluster._run.info["key"] not in file.read_text()
    for again in (ipp.Cluster.from_file(file), ipp.Cluster.from_dict(json.loads(json.dumps(cluster.to_dict())))):
        assert (again.n, again.controller_args, again.shutdown_atexit) == (1, ["--hung-after", "20"], False)
        assert list(again.engines) == list(cluster.engines)
        assert again.controller.pid == cluster.controller.pid
    with pytest.raises(RuntimeError, match="connection file"):
        again.remove_cluster_file()
    again.stop_cluster_sync()
    assert cluster.controller.state == "after"
    cluster.update_cluster_file()
    assert not file.exists()
    assert ipp.Cluster.from_dict(cluster.to_dict()).controller is None
    cluster.stop_cluster_sync()
    here.wait_until_nothing_remains()


# -- restart and signals -------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_restarted_engines_are_new_and_clients_go_on(here: Site, tmp_path: Path) -> None:
    with ipp.Cluster(n=2, cluster_id="again") as rc, ipp.Client(cluster_id="again") as stranger:
        view = rc[:]
        view["name"] = 1
        before = view.apply_sync(os.getpid)
        busy = keep_busy(rc, SLEEP, tmp_path / "marks")
        rc.cluster.restart_engines_sync()
        with pytest.raises(ipp.ConnectionLost):
            busy.get(timeout=60)
        assert rc.ids == [0, 1]
        assert not set(view.apply_sync(os.getpid)) & set(before)
        assert rc.load_balanced_view().map_sync(abs, range(-10, 0)) == list(range(10, 0, -1))
        with pytest.raises(ipp.CompositeError, match="NameError"):
            view["name"]
        with pytest.raises(ipp.ConnectionLost):
            stranger[:].apply_sync(os.getpid)


def test_signals_reach_all_engines(here: Site, tmp_path: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        for number, sig in enumerate(("SIGINT", signal.SIGINT)):
            busy = keep_busy(rc, SLEEP, tmp_path / str(number))
            rc.cluster.signal_engines_sync(sig)
            errors = busy.get(timeout=60, return_exceptions=True)
            assert [error.ename for error in errors] == ["KeyboardInterrupt", "KeyboardInterrupt"]
        with pytest.raises(ValueError, match="SIGNOTHING"):
            rc.cluster.signal_engines_sync("SIGNOTHING")


# -- the end of Python ---------------------------------------------------------------------------------------------


WAIT = "print('ready', flush=True)\nimport time; time.sleep(1000)"


def script(site: Site, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import pxcluster as ipp\n{text}"],
        env=site.env,
        cwd=site.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A script in the background would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "1 / 0", "rc = cluster.connect_client_sync()"])
def test_the_end_of_python_is_the_clusters(site: Site, ending: str) -> None:
    process = script(site, f"cluster = ipp.Cluster(n=1).start_cluster_sync()\nprint(cluster)\n{ending}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == {"raise SystemExit(3)": 3, "1 / 0": 1}.get(ending, 0)
    assert f"Stopping cluster {out}" in err
    assert "Error" not in err.replace("ZeroDivisionError", "")
    site.wait_until_nothing_remains()
    assert directories(site) == []


@pytest.mark.smoke
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_python_that_is_killed_takes_its_cluster_with_it(site: Site, sig: signal.Signals) -> None:
    with script(site, f"cluster = ipp.Cluster(n=1).start_cluster_sync()\n{WAIT}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sig)
    site.wait_until_nothing_remains()


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_cluster_may_outlive_its_python(site: Site, when: str) -> None:
    text = """
import os, signal
cluster = ipp.Cluster(n=1, cluster_id="default", shutdown_atexit={})
cluster.start_cluster_sync().shutdown_atexit = False
os.kill(os.getpid(), signal.SIGKILL)
"""
    out, err = script(site, text.format(when == "later")).communicate(timeout=60)
    assert (out, err) == ("", "")
    assert shell(site, "status", "default").startswith("cluster 'default': 1 engine, ")
    shell(site, "stop", "default")


def test_a_killed_python_does_not_stop_a_later_cluster(site: Site) -> None:
    with script(site, f"cluster = ipp.Cluster(n=1, cluster_id='default').start_cluster_sync()\n{WAIT}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        shell(site, "stop", "default")
        shell(site, "start", "default", "-n", "1")
        guards = [each for each in site.processes() if "read -r line" in each.command]
        assert len(guards) == 1
        process.kill()
    wait_for(lambda: guards[0] not in site.processes(), "the guard ends")
    shell(site, "stop", "default")


def test_a_forked_child_leaves_the_cluster_alone(site: Site) -> None:
    text = """
import os, sys
cluster = ipp.Cluster(n=1).start_cluster_sync()
if os.fork() == 0:
    sys.exit()
print(os.wait()[1])
with cluster.connect_client_sync() as rc:
    print(rc.ids)
"""
    process = script(site, text)
    out, err = process.communicate(timeout=60)
    assert out == "0\n[0]\n", err
    assert err.count("Stopping cluster") == 1
    site.wait_until_nothing_remains()


def test_the_last_reference_is_the_clusters_end(here: Site) -> None:
    rc = ipp.Cluster(n=1).start_and_connect_sync()
    gc.collect()
    assert rc[:].apply_sync(abs, -1) == [1]
    rc.close()
    del rc
    gc.collect()
    here.wait_until_nothing_remains()


# -- interrupts ----------------------------------------------------------------------------------------------------

STARTS = {
    "twin": "cluster.start_and_connect_sync()",
    "coroutine": "import asyncio; asyncio.run(cluster.start_and_connect())",
    "with": "with cluster: pass",
}

#: Engines whose Python does not get ready, so that a start lasts until it is interrupted.
SLOW_ENGINES = """
import os, pathlib, time
if int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or 0) > 0:
    pathlib.Path(os.environ["PXCLUSTER_DIR"]).with_name("engine-begins").touch()
    time.sleep(1000)
"""


@pytest.fixture
def slow_site(site: Site) -> Site:
    """A place where no cluster gets ready."""
    folder = site.base / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_ENGINES)
    site.env["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [site.env.get("PYTHONPATH")])])
    return site


def wait_until_engines_begin(site: Site) -> None:
    wait_for((site.base / "engine-begins").exists, "an engine's Python begins")


@pytest.mark.smoke
@pytest.mark.parametrize("how", STARTS)
def test_ctrl_c_while_a_cluster_starts_leaves_nothing(slow_site: Site, how: str) -> None:
    text = f"""
cluster = ipp.Cluster(n=1)
try:
    {STARTS[how]}
except KeyboardInterrupt:
    print("interrupted", cluster.controller, flush=True)
"""
    with script(slow_site, text) as process:
        wait_until_engines_begin(slow_site)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out == "interrupted None\n", err
    slow_site.wait_until_nothing_remains()
    assert directories(slow_site) == []


def test_a_start_that_is_cancelled_leaves_nothing(slow_site: Site, here: Site) -> None:
    async def use() -> None:
        cluster = ipp.Cluster(n=1)
        start = asyncio.create_task(cluster.start_cluster())
        await asyncio.to_thread(wait_until_engines_begin, here)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert cluster.controller is None

    asyncio.run(use())
    here.wait_until_nothing_remains()
    assert directories(here) == []


# -- notebooks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(site: Site) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel, which is killed at the end: its clusters end all the same."""
    with running_kernel(site.env) as kernel:
        yield kernel


def test_a_notebook_shows_what_happens(notebook: tuple[KernelManager, BlockingKernelClient]) -> None:
    _, client = notebook
    for start, restart, stop in (
        ("await {}.start_and_connect(activate=True)", "await rc.cluster.restart_engines()", "await {}()"),
        ("{}.start_and_connect_sync(activate=True)", "rc.cluster.restart_engines_sync()", "{}_sync()"),
    ):
        status, text = run_cell(client, f"import pxcluster as ipp\nrc = {start.format('ipp.Cluster(n=2)')}\nrc.ids")
        assert status == "ok", text
        assert text.startswith("Starting 2 engines with <class 'pxcluster.running.MPIEngineSetLauncher'>\n")
        assert "2/2" in text
        assert text.endswith("{'text/plain': '[0, 1]'}")
        status, text = run_cell(client, restart)
        assert status == "ok", text
        assert "Stopping engine(s)" in text
        status, text = run_cell(client, "%px 6 * 7")
        assert (status, text.count("42")) == ("ok", 2)
        status, text = run_cell(client, stop.format("rc.cluster.stop_cluster"))
        assert status == "ok", text
        assert text.startswith("Stopping controller\nStopping engine(s): ")
    assert run_cell(client, "left = ipp.Cluster(n=1).start_cluster_sync()")[0] == "ok"


@pytest.mark.parametrize("start", ["await cluster.start_and_connect()", "cluster.start_and_connect_sync()"])
def test_a_notebook_interrupts_a_start(
    slow_site: Site, notebook: tuple[KernelManager, BlockingKernelClient], start: str
) -> None:
    manager, client = notebook
    # With stop_on_error the kernel would drop what comes right after the error.
    cell = f"import pxcluster as ipp\ncluster = ipp.Cluster(n=1)\n{start}"
    number = client.execute(cell, stop_on_error=False)
    wait_until_engines_begin(slow_site)
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != number:
        pass  # the kernel's greeting
    assert reply["content"]["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert run_cell(client, "print(cluster.controller, cluster.engines)") == ("ok", "None {}\n")
    wait_for(lambda: directories(slow_site) == [], lambda: f"nothing is left: {directories(slow_site)}")
