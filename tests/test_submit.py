"""``pxcluster submit`` to a real Slurm: jobs with a script, clusters that wait for clients, what sbatch refuses."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pxcluster as ipp
import pytest
from harness import slurm
from harness.cluster import Site
from harness.jobs import wait_ended
from harness.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

SCRIPT = """
import os, sys
import pxcluster as ipp
rc = ipp.Client()
print(len(rc), rc.load_balanced_view().map_sync(abs, [-1, -2]), sys.argv[1:], os.environ["SLURM_JOB_ID"], flush=True)
sys.exit(3)
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(private_slurm: slurm.Slurm, site: Site) -> Run:
    """Runs a command of the user's, in the site's folder."""

    def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {**site.env, **private_slurm.environment}
        return subprocess.run(command, env=env, cwd=site.base, check=check, capture_output=True, text=True, timeout=100)

    return run


def wait_until_ended(run: Run, job: str) -> dict[str, str]:
    """What Slurm says of a job that has ended."""
    return wait_ended(lambda *command: run(*command).stdout, job)


def test_a_job_runs_a_script_and_ends_with_its_code(run: Run, site: Site) -> None:
    (site.base / "my script.py").write_text(SCRIPT)
    said = run("pxcluster", "submit", "-n", "2", "--output=out", "-t", "5", "--", "my script.py", "-x", "it's").stdout
    job = said.split()[2]
    assert f"ipp.Client(cluster_id='job-{job}')" in said
    ended = wait_until_ended(run, job)
    assert (site.base / "out").read_text() == f"2 [1, 2] ['-x', \"it's\"] {job}\n"
    assert (ended["JobState"], ended["ExitCode"], ended["NumTasks"]) == ("FAILED", "3:0", "3")
    assert (ended["JobName"], ended["TimeLimit"]) == ("pxcluster", "00:05:00")
    assert not (Path(site.env["PXCLUSTER_DIR"]) / f"job-{job}" / "connection.json").exists()


def test_srun_starts_the_ranks_where_it_is_told_to(run: Run, site: Site) -> None:
    (site.base / "script.py").write_text(SCRIPT)
    command = "pxcluster run --launcher srun script.py"
    job = run(
        "sbatch", "--parsable", "-n3", "--output=out", "--wrap", f"pxcluster start --launcher srun --dry-run; {command}"
    )
    ended = wait_until_ended(run, job.stdout.strip())
    line, printed = (site.base / "out").read_text().splitlines()
    assert re.fullmatch(r"srun --mpi=pmix --kill-on-bad-exit=0 -n 3 \S+/pxcluster-rank --cluster-id default", line)
    assert (printed.split()[:3], ended["ExitCode"]) == (["2", "[1,", "2]"], "3:0")


def test_a_job_without_a_script_waits_for_clients(run: Run, site: Site) -> None:
    submit = ("pxcluster", "submit", "--engines=2", "--cluster-id", "batch", "--output=out", "--time=60")
    job = run(*submit).stdout.split()[2]
    file = Path(site.env["PXCLUSTER_DIR"]) / "batch" / "connection.json"
    wait_for(file.exists, lambda: f"the cluster is ready: {(site.base / 'out').read_text()}", 100)
    with ipp.Client(str(file)) as rc:
        assert rc.load_balanced_view().map_sync(abs, range(-3, 0)) == [3, 2, 1]
    listed = run("pxcluster", "list").stdout.splitlines()[1].split()
    assert (listed[:2], listed[-1]) == (["batch", "running"], job)
    shown = run("pxcluster", "top", "--cluster-id", "batch").stdout
    assert re.search(rf"^job {job}, (1 h 0 min|5\d min \d+ s) left$", shown, re.MULTILINE), shown
    assert "is stopped" in run("pxcluster", "stop", "--cluster-id", "batch").stdout
    assert wait_until_ended(run, job)["JobState"] == "COMPLETED"
    assert not file.exists()


def test_a_job_that_is_cancelled_leaves_nothing(run: Run, site: Site) -> None:
    job = run("pxcluster", "submit", "-n1", "--output=out").stdout.split()[2]
    file = Path(site.env["PXCLUSTER_DIR"]) / f"job-{job}" / "connection.json"
    wait_for(file.exists, lambda: f"the cluster is ready: {(site.base / 'out').read_text()}", 100)
    run("scancel", job)
    assert wait_until_ended(run, job)["JobState"] == "CANCELLED"
    wait_for(lambda: not file.exists(), "no connection file is left", 60)


NOTEBOOK = """
import logging, sys
import pxcluster as ipp
logging.basicConfig(stream=sys.stdout, format="%(message)s")
cluster = ipp.Cluster(engines="slurm", n=2, cluster_id=sys.argv[1], options={"time": "5", "comment": "by hand"})
with cluster as rc:
    print(len(rc), rc[:].apply_sync(abs, -1), rc._info["slurm_job_id"], flush=True)
"""


def test_a_notebook_has_a_cluster_in_a_job(run: Run, site: Site) -> None:
    (site.base / "notebook.py").write_text(NOTEBOOK)
    said = run("python", "notebook.py", "mine").stdout.splitlines()
    assert re.fullmatch(r"(pending.*|running on n1), 00:\d\d", said[1]), said
    values = next(line for line in said if line.startswith("2 [1, 1] "))
    ended = wait_until_ended(run, values.split()[-1])
    assert (ended["JobState"], ended["TimeLimit"], ended["NumTasks"]) == ("COMPLETED", "00:05:00", "3")
    assert not (Path(site.env["PXCLUSTER_DIR"]) / "mine" / "connection.json").exists()


def test_a_job_that_waits_is_left_in_the_queue_by_ctrl_c(run: Run, site: Site, private_slurm: slurm.Slurm) -> None:
    held = ["pxcluster", "submit", "--wait", "-n", "1", "--cluster-id", "later", "--hold"]
    env = {**site.env, **private_slurm.environment}
    with subprocess.Popen(held, env=env, cwd=site.base, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("pxcluster: pending (JobHeldUser), 00:0")
        waiting.send_signal(signal.SIGINT)
        said = waiting.stderr.read()
    assert waiting.returncode == 1
    assert "stays in the queue (pending (JobHeldUser)): ipp.Client(cluster_id='later')" in said
    job = said.split()[2]
    run("scancel", job)
    assert wait_until_ended(run, job)["JobState"] == "CANCELLED"


def test_a_job_that_ends_too_early_is_told_of_with_its_log(run: Run) -> None:
    failed = run("pxcluster", "submit", "--wait", "-n1", "--cluster-id", "bad", "--python", "/none/python", check=False)
    assert failed.returncode == 1
    assert "ended before its cluster was ready; the end of its log" in failed.stderr
    assert "/none/python" in failed.stderr


def test_the_script_is_shown(run: Run) -> None:
    shown = run("pxcluster", "submit", "--print", "-n", "4", "-p", "main", "--", "s.py").stdout.splitlines()
    assert shown[:4] == ["#!/bin/bash", "#SBATCH --job-name=pxcluster", "#SBATCH --ntasks=5", "#SBATCH -p main"]
    assert shown[-1].endswith('pxcluster run --cluster-id "job-$SLURM_JOB_ID" -- s.py')


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "nowhere"], "pxcluster: sbatch refused the job: "),
        (["-n", "0"], "pxcluster: -n 0: expected a number of engines from 1 to 100000"),
        (["s.py"], "pxcluster: 's.py' is no flag: flags of sbatch come first"),
    ],
)
def test_what_is_refused_is_said(run: Run, arguments: Sequence[str], sentence: str) -> None:
    refused = run("pxcluster", "submit", *arguments, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith(sentence)
    assert len(refused.stderr.splitlines()) == 1
