"""A Slurm of three hosts: allocations, batch jobs and their ends, clients on the login host, by TLS."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pxcluster as ipp
import pytest
from harness.jobs import describe, start_soon, wait_ended, wait_state
from harness.rig import Login, Rig
from harness.slurm import Slurm
from harness.waiting import wait_for
from pxcluster import Client, interactive

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

#: Hosts of five engines where each host has two tasks: rank 0 is the first.
PLACES = ["h1", "h2", "h2", "h3", "h3"]
SIX_TASKS = ("-N3", "-n6", "--ntasks-per-node=2")
LAUNCHERS = pytest.mark.parametrize("launcher", ["mpirun", "srun"])

SCRIPT = """
import socket, sys
import pxcluster as ipp
rc = ipp.Client(timeout=60)
mapped = rc.load_balanced_view().map_sync(abs, range(-1000, 0))
print(rc[:].apply_sync(socket.gethostname), mapped == list(range(1000, 0, -1)), sys.argv[1:])
sys.exit(len(sys.argv))
"""
#: What a client is told: that the connection is lost, or, if there was time for it, which tasks have not run.
THE_END = (OSError, ipp.CompositeError)
PRINTED = f"{PLACES} True"


@interactive
def square(number: int) -> int:
    import time

    time.sleep(0.02)
    return number * number


@pytest.fixture
def login(rig_slurm: Slurm, new_login: Callable[..., Login]) -> Login:
    """On the login host; all nodes are idle."""
    rig_slurm.wait_idle()
    login = new_login(**rig_slurm.environment)
    (login.base / "script.py").write_text(SCRIPT)
    return login


@pytest.mark.smoke
@LAUNCHERS
def test_an_allocation_is_taken_whole(login: Login, launcher: str) -> None:
    session = f"pxcluster start --launcher {launcher} >&2 && {sys.executable} script.py; pxcluster stop >&2"
    done = login.run("salloc", *SIX_TASKS, "sh", "-c", session)
    assert done.stdout == f"{PRINTED} []\n", done.stderr


@LAUNCHERS
def test_a_batch_job_runs_a_script(login: Login, launcher: str) -> None:
    command = f"pxcluster run --launcher {launcher} script.py 1 2"
    job = login.said("sbatch", "--parsable", *SIX_TASKS, "--output=out", "--wrap", command).strip()
    ended = wait_ended(login.said, job, lambda: output(login))
    said = (login.base / "out").read_text()
    assert f"{PRINTED} ['1', '2']" in said.splitlines(), said
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "3:0"), said


def submit(login: Login, launcher: str = "mpirun", *flags: str, ranks: str = "") -> str:
    """A job over all hosts that waits for clients, as its cluster does, which is called `job`; the job's number."""
    command = f"exec pxcluster start --foreground --cluster-id job --launcher {launcher} {ranks}"
    options = [*SIX_TASKS, "--output=out", "--open-mode=append", *flags]
    return login.said("sbatch", "--parsable", *options, "--wrap", command).strip()


def wait_ready(login: Login, **options: float) -> Client:
    """A client on the login host of the cluster of `submit`."""
    file = login.directory / "job" / "connection.json"
    wait_for(file.exists, lambda: f"the cluster is ready: {output(login)}", 100)
    return login.client("job", **options)


def output(login: Login) -> str:
    """What jobs have printed."""
    return "".join(path.read_text(errors="replace") for path in login.base.glob("out*"))


NOTEBOOK = """
import logging, socket, sys
import pxcluster as ipp
logging.basicConfig(stream=sys.stdout, format="%(message)s")
options = {"nodes": 3, "ntasks-per-node": 2}
with ipp.Cluster(engines="slurm", n=5, cluster_id="mine", options=options) as rc:
    print(rc[:].apply_sync(socket.gethostname), rc._info["slurm_job_id"], flush=True)
"""


def test_a_job_without_room_says_so_until_it_runs(login: Login) -> None:
    (login.base / "notebook.py").write_text(NOTEBOOK)
    first = login.said("sbatch", "--parsable", "-N3", "--exclusive", "--wrap", "exec sleep 1000").strip()
    wait_state(login.said, first, "RUNNING")
    with login.start(sys.executable, "-u", "notebook.py", stdout=subprocess.PIPE) as notebook:
        assert notebook.stdout is not None
        said = ""
        while "pending (Resources), 00:0" not in said:
            line = notebook.stdout.readline()
            assert line, said
            said += line
        login.said("scancel", first)
        said += notebook.stdout.read()
    found = re.search(r"running on h\[1-3\], .*\n(?:.*\n)*" + re.escape(str(PLACES)) + r" (\d+)\n", said)
    assert found, said
    assert wait_ended(login.said, found[1])["JobState"] == "COMPLETED"


@LAUNCHERS
def test_a_job_that_is_cancelled_leaves_nothing(login: Login, launcher: str) -> None:
    job = submit(login, launcher)
    rc = wait_ready(login)
    assert rc[:].apply_sync(socket.gethostname) == PLACES
    asked = rc.load_balanced_view().map_async(square, range(100_000))
    wait_for(lambda: asked.progress > 50, "the map is under way")
    login.said("scancel", job)
    with pytest.raises(THE_END):
        asked.get(timeout=100)
    assert wait_ended(login.said, job, lambda: output(login))["JobState"] == "CANCELLED"


@pytest.mark.slow
def test_a_job_whose_time_is_over_delivers_what_it_has(login: Login) -> None:
    job = submit(login)
    rc = wait_ready(login)
    asked = rc.load_balanced_view().map_async(square, range(100_000))
    login.said("scontrol", "update", f"JobId={job}", "EndTime=now+1")  # Slurm looks every 30 seconds
    with pytest.raises(THE_END):
        asked.get(timeout=100)
    assert asked.progress > 50
    assert wait_ended(login.said, job, lambda: output(login))["JobState"] == "TIMEOUT"


@pytest.mark.slow
def test_a_job_that_is_put_back_has_a_cluster_again(login: Login) -> None:
    job = submit(login)
    rc = wait_ready(login)
    file = login.directory / "job" / "connection.json"
    before = file.read_bytes()
    login.said("scontrol", "requeue", job)
    wait_state(login.said, job, "PENDING")
    with pytest.raises(OSError):
        rc[:].apply_sync(abs, -1)
    wait_for(lambda: not login.remains(), lambda: f"these end: {login.remains()}")
    start_soon(login.said, job)
    wait_for(lambda: file.exists() and file.read_bytes() != before, lambda: f"it is ready again: {output(login)}", 100)
    assert wait_ready(login)[:].apply_sync(socket.gethostname) == PLACES
    assert describe(login.said, job)["Restarts"] == "1"
    login.said("pxcluster", "stop", "--cluster-id", "job")
    assert wait_ended(login.said, job, lambda: output(login))["JobState"] == "COMPLETED"


@pytest.mark.slow
@LAUNCHERS
def test_a_node_fails_and_its_tasks_run_elsewhere(login: Login, rig: Rig, launcher: str) -> None:
    job = submit(login, launcher, "--no-kill", ranks="--lost-after 8")
    rc = wait_ready(login)
    asked = rc.load_balanced_view().map_async(square, range(600))
    wait_for(lambda: asked.progress > 50, "the map is under way")
    rig.kill("h3")
    assert asked.get(timeout=120) == [number * number for number in range(600)]
    wait_for(lambda: rc.ids == [0, 1, 2], lambda: f"two engines are lost: {rc.ids}")
    assert rc[:].apply_sync(socket.gethostname) == PLACES[:3]
    login.said("pxcluster", "stop", "--cluster-id", "job")
    assert wait_ended(login.said, job, lambda: output(login))["JobState"] == "COMPLETED"


@pytest.mark.slow
def test_a_job_ends_with_its_node_unless_it_is_told_not_to(login: Login, rig: Rig) -> None:
    job = submit(login, "mpirun", "--no-requeue")
    rc = wait_ready(login)
    rig.kill("h3")
    with pytest.raises(THE_END):
        rc[:].apply_sync(time.sleep, 100.0)
    assert wait_ended(login.said, job, lambda: output(login))["JobState"] == "NODE_FAIL"


@pytest.mark.slow
@pytest.mark.smoke
def test_engines_die_on_any_host_and_the_step_goes_on(login: Login) -> None:
    job = submit(login, "srun")
    rc = wait_ready(login)
    asked = rc.load_balanced_view().map_async(square, range(600))
    wait_for(lambda: asked.progress > 50, "the map is under way")
    for engine in (0, 2, 4):
        rc[engine].execute(f"import os; os.kill(os.getpid(), {signal.SIGKILL})", block=False)
    assert asked.get(timeout=120) == [number * number for number in range(600)]
    wait_for(lambda: rc.ids == [1, 3], lambda: f"three engines are dead: {rc.ids}")
    with pytest.raises(ipp.EngineError, match="SIGKILL"):
        rc[4].apply_sync(os.getpid)
    # Slurm takes about a second to see a lost connection, and then kills the step: one that is seen now was not lost.
    assert rc.load_balanced_view().map_sync(square, range(300)) == [number * number for number in range(300)]
    assert rc[:].apply_sync(socket.gethostname) == [PLACES[1], PLACES[3]]
    login.said("pxcluster", "stop", "--cluster-id", "job")
    assert wait_ended(login.said, job, lambda: output(login))["JobState"] == "COMPLETED"
