"""Clients of clusters that are not ready yet: held, cancelled and failed jobs of a real Slurm, starts under way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness.cluster import Cluster, Site
from harness.notebooks import running_kernel
from harness.slurm import Slurm
from harness.waiting import wait_for

pytestmark = pytest.mark.timeout(300)
slurm = pytest.mark.slurm

CLIENT = """
import sys
import pxcluster as ipp
try:
    with ipp.Client(cluster_id=sys.argv[1], timeout=float(sys.argv[2])) as rc:
        print(rc[:].apply_sync(abs, -1), flush=True)
except OSError as problem:
    print(type(problem).__name__, problem)
"""

IN_USE = """
import sys, time
import pxcluster as ipp
rc = ipp.Client(cluster_id=sys.argv[1], timeout=100)
waiting = rc[:].apply_async(time.sleep, 1000)
print("in use", flush=True)
try:
    waiting.get(timeout=100)
except ipp.error.ConnectionLost as problem:
    print(problem)
try:
    ipp.Client(cluster_id=sys.argv[1], timeout=100)
except OSError as problem:
    print(problem)
"""


class User:
    """Somebody at a site that has Slurm."""

    def __init__(self, site: Site, private: Slurm) -> None:
        self.base = site.base
        self.env = {**site.env, **private.environment}

    def run(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(
            command, env=self.env, cwd=self.base, check=True, capture_output=True, text=True, timeout=100
        )
        return done.stdout

    def submit(self, *flags: str) -> str:
        """Submits a cluster; the job."""
        return self.run("pxcluster", "submit", "-n1", *flags).split()[2]

    @contextmanager
    def program(self, text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A Python program that runs."""
        command = [sys.executable, "-W", "error", "-c", text, *arguments]
        with subprocess.Popen(
            command, env=self.env, cwd=self.base, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def wait_until_ended(self, job: str) -> None:
        """Wait until no process of a job is left."""
        ended = re.compile("JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT)")
        wait_for(lambda: ended.search(self.run("scontrol", "show", "job", job)), f"job {job} ends", 100)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def rest_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.read().splitlines()


@pytest.fixture
def user(private_slurm: Slurm, site: Site) -> User:
    return User(site, private_slurm)


@slurm
@pytest.mark.parametrize("name", [[], ["--cluster-id", "mine"]], ids=["job", "name"])
def test_a_held_job_is_waited_for_and_then_used(user: User, name: list[str]) -> None:
    job = user.submit("--hold", *name)
    with user.program(CLIENT, name[-1] if name else f"job-{job}", "100") as client:
        held = f"job {job}: pending (JobHeldUser: `scontrol release {job}` lets it go), 00:0"
        assert line_of(client).startswith(held)
        user.run("scontrol", "release", job)
        said = rest_of(client)
    assert said[-1] == "[1]"
    assert all(line.startswith(f"job {job}: ") for line in said[:-1])
    user.run("scancel", job)
    user.wait_until_ended(job)


@slurm
def test_a_job_that_is_cancelled_is_not_waited_for(user: User) -> None:
    job = user.submit("--begin", "now+1hour")
    with user.program(CLIENT, f"job-{job}", "100") as client:
        assert line_of(client).startswith(f"job {job}: pending")
        user.run("scancel", job)
        said = rest_of(client)
    assert said[-1].startswith(f"OSError job {job} was cancelled, and there is no cluster of it; its output cannot be")


@slurm
def test_a_job_that_takes_longer_stays_in_the_queue(user: User) -> None:
    job = user.submit("--begin", "now+1hour")
    with user.program(CLIENT, f"job-{job}", "0.1") as client:
        said = rest_of(client)
    assert said[-1].startswith(f"TimeoutError job {job}: pending")
    assert said[-1].endswith(f"(cluster_id='job-{job}', timeout=600) waits longer, `scancel {job}` takes the job back")
    with user.program(CLIENT, f"job-{job}", "100") as client:
        line_of(client)
        client.send_signal(signal.SIGINT)
        assert rest_of(client)[-1] == "KeyboardInterrupt"
    assert "JobState=PENDING" in user.run("scontrol", "show", "job", job)
    user.run("scancel", job)


@slurm
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("set -e; module load nothing-of-this-name", "module: "),
        ("pxcluster start --foreground -n 1 --cluster-id job-$SLURM_JOB_ID --python /none/python", "/none/python"),
    ],
    ids=["module", "python"],
)
def test_a_job_that_fails_is_told_of_with_its_output(user: User, line: str, why: str) -> None:
    job = user.run("sbatch", "--parsable", "-n2", "--output=my output-%j", "--wrap", line).strip()
    with user.program(CLIENT, f"job-{job}", "100") as client:
        said = "\n".join(rest_of(client))
    assert f"OSError job {job} has failed with exit code " in said
    assert f"and there is no cluster of it; the end of its log {user.base}/my output-{job}:\n  " in said
    assert why in said


@slurm
def test_a_job_that_slurm_does_not_know_is_not_waited_for(user: User) -> None:
    with user.program(CLIENT, "job-999999", "100") as client:
        assert rest_of(client) == [
            "OSError Slurm does not know job 999999: it has ended, or there was none; `squeue --me` shows your jobs"
        ]


@slurm
@pytest.mark.slow
def test_the_time_limit_is_told_to_calls_that_wait_and_to_later_clients(user: User) -> None:
    job = user.submit("-t", "1")
    with user.program(IN_USE, f"job-{job}") as client:
        while (line := line_of(client)) != "in use\n":
            assert line.startswith(f"job {job}: ")
        user.run("scontrol", "update", f"JobId={job}", "EndTime=now")
        said = "\n".join(rest_of(client))
    over = f"job {job} has reached its time limit"
    assert re.search(rf"^cluster .* has stopped: .*SIG.*; {over}$", said, re.MULTILINE), said
    later = said.partition(f"{over}, and there is no cluster of it; the end of its log ")[2]
    assert "DUE TO TIME LIMIT" in later
    user.wait_until_ended(job)


def shown_by(user: User, code: str, release: Callable[[str], None]) -> list[tuple[str, Any]]:
    """The outputs of a cell; `release` is given the text of each."""
    shown: list[tuple[str, Any]] = []

    def keep(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] in ("status", "execute_input"):
            return
        shown.append((message["msg_type"], content))
        release(str(content))

    with running_kernel(user.env) as (_, client):
        reply = client.execute_interactive(code, timeout=100, output_hook=keep, allow_stdin=False)
        assert reply["content"]["status"] == "ok", shown
        client.execute_interactive("rc.shutdown(hub=True)", timeout=100, allow_stdin=False)
    return shown


@slurm
def test_a_notebook_that_waits_shows_one_line(user: User) -> None:
    job = user.submit("--hold")
    released: list[str] = []

    def release(text: str) -> None:
        if "JobHeldUser" in text and not released:
            released.append(user.run("scontrol", "release", job))

    shown = shown_by(
        user, f"import pxcluster as ipp\nrc = ipp.Client(cluster_id='job-{job}', timeout=100)\nrc.ids", release
    )
    kinds = [kind for kind, _ in shown]
    assert (kinds[0], kinds[-1]) == ("display_data", "execute_result")
    assert set(kinds[1:-1]) == {"update_display_data"}
    texts = [content["data"]["text/plain"] for _, content in shown]
    assert texts[0].startswith(f"job {job}: pending (JobHeldUser")
    assert texts[-1] == "[0]"
    assert len({content["transient"]["display_id"] for _, content in shown[:-1]}) == 1
    user.wait_until_ended(job)


@slurm
def test_a_notebook_that_starts_a_job_shows_its_state_in_the_bar(user: User) -> None:
    released: list[str] = []

    def release(text: str) -> None:
        if "JobHeldUser" in text and not released:
            job = user.run("squeue", "--noheader", "--name=held", "--format=%i").strip()
            released.append(job)
            user.run("scontrol", "release", job)

    code = (
        "import pxcluster as ipp\n"
        "cluster = ipp.Cluster(engines='slurm', n=1, options={'hold': True, 'job-name': 'held'})\n"
        "rc = cluster.start_and_connect_sync()"
    )
    shown = shown_by(user, code, release)
    streams = "".join(content["text"] for kind, content in shown if kind == "stream")
    assert "pending" not in re.sub(r"\r[^\n]*", "", streams)  # a bar without widgets begins each line with a return
    assert released
    user.wait_until_ended(released[0])


def test_a_start_under_way_is_waited_for(site: Site) -> None:
    cluster = Cluster(site, 1, cluster_id="mine")
    cluster.launch()
    done = site.run("python", "-W", "error", "-c", CLIENT, "mine", "100", timeout=100)
    assert done.stdout.splitlines()[-1] == "[1]", done.stdout + done.stderr
    cluster.stop()


def test_a_start_that_fails_is_not_waited_for(site: Site) -> None:
    gate = site.base / "gate"
    python = site.base / "python"
    python.write_text(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.05; done\nexit 1\n")
    python.chmod(0o755)
    cluster = Cluster(site, 1, "--python", str(python), cluster_id="mine")
    cluster.launch()
    command = [sys.executable, "-W", "error", "-c", CLIENT, "mine", "1000"]
    with subprocess.Popen(command, env=site.env, stdout=subprocess.PIPE, text=True) as client:
        assert line_of(client) == "cluster 'mine': its engines are starting, 00:00\n"
        gate.touch()
        said = rest_of(client)
    cluster.wait_ended()
    assert said == [
        "OSError cluster 'mine' has ended before a client could connect; whatever started it has printed why"
    ]


def test_a_wrong_name_is_told_with_those_that_there_are(cluster: Cluster) -> None:
    code = "import pxcluster as ipp\ntry:\n    ipp.Client(cluster_id='wrong')\nexcept OSError as e:\n    print(e)"
    said = cluster.site.run("python", "-c", code).stdout
    assert (
        "nothing shows that a cluster 'wrong' is being started; clusters that have a connection file: 'default'" in said
    )
    assert "Waiting" not in said
