"""Connection files that are not there, beside a Slurm that only claims things."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import threading
import time

import pxcluster as ipp
import pytest
from fake_controller import FakeController
from fake_slurm import UNKNOWN, FakeSlurm, job, publish
from pxcluster import outputs, progress, rendezvous
from support import info_of

SILENT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PXCLUSTER_DIR", str(tmp_path / "px"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PXCLUSTER_CLUSTER_ID", raising=False)
    monkeypatch.setattr(rendezvous, "_ASK_FIRST", 0.01)
    monkeypatch.setattr(rendezvous, "_LOOK_FOR_SIGNS", 0.01)
    (tmp_path / "px").mkdir()
    return tmp_path / "px"


@pytest.fixture
def slurm(directory, tmp_path, monkeypatch):
    return FakeSlurm(tmp_path, monkeypatch)


@pytest.fixture
def no_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def ready(directory, tmp_path):
    """Publishes a cluster that answers."""
    fake = FakeController(tmp_path / "s")
    yield lambda name, **changes: publish(
        directory / name / "connection.json", info_of(tmp_path / "s", cluster_id=name, **changes)
    )
    fake.close()
    assert fake.errors == []


def refusal(**options):
    """What a Client says that cannot be made, without the time that it has waited."""
    with pytest.raises(OSError) as raised:
        ipp.Client(**options)
    return raised.value


def when(condition, act):
    """Do something as soon as a condition is true."""

    def watch():
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


# -- no job -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_slurm")
def test_a_wrong_name_is_told_at_once_with_those_that_there_are(directory, tmp_path, capsys):
    for name in ("b", "a"):
        publish(directory / name / "connection.json", info_of(tmp_path))
    for name in ("wrong", "job-77"):
        problem = refusal(cluster_id=name)
        assert isinstance(problem, FileNotFoundError)
        assert str(problem).startswith(f"Connection file '~/px/{name}/connection.json' not found.\n")
        assert f"a cluster '{name}' is being started; clusters that have a connection file: 'a', 'b'." in str(problem)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_slurm")
def test_who_gives_a_time_waits_for_what_comes_from_elsewhere(directory, ready, capsys):
    told = threading.Event()
    write = when(told.is_set, lambda: ready("a"))
    line = progress.StatusLine.show

    def show(self, text):
        line(self, text)
        told.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.StatusLine, "show", show)
        with ipp.Client(cluster_id="a", timeout=-1) as rc:
            assert rc.ids == [0, 1, 2, 3]
    write.join()
    assert capsys.readouterr().out == "Waiting for connection file: ~/px/a/connection.json, 00:00\n"


@pytest.mark.usefixtures("no_slurm")
def test_a_start_under_way_is_waited_for(directory, ready, capsys, monkeypatch):
    (directory / "a").mkdir()
    (directory / "a" / "lock").touch()
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.1)
    problem = refusal(cluster_id="a")
    assert isinstance(problem, TimeoutError)
    assert str(problem) == (
        "cluster 'a': its engines are starting: not ready within 0 seconds; ipp.Client(cluster_id='a', timeout=600) "
        "waits longer; if nobody starts it, remove ~/px/a/lock"
    )
    assert capsys.readouterr().out == "cluster 'a': its engines are starting, 00:00\n"
    monkeypatch.setattr(rendezvous, "PATIENCE", 60)
    looked = []
    monkeypatch.setattr(progress.StatusLine, "show", lambda self, text: looked.append(text))
    write = when(lambda: looked, lambda: ready("a"))
    with ipp.Client(cluster_id="a") as rc:
        assert len(rc) == 4
    write.join()


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize("log", ["", "mpirun: it broke\n"])
def test_a_start_that_fails_is_told_of_at_once(directory, monkeypatch, log):
    (directory / "a").mkdir()
    lock = directory / "a" / "lock"
    lock.touch()
    if log:
        (directory / "a" / "log").write_text(log)
    monkeypatch.setattr(progress.StatusLine, "show", lambda self, text: lock.unlink(missing_ok=True))
    why = f"the end of its log ~/px/a/log:\n  {log.strip()}" if log else "whatever started it has printed why"
    assert str(refusal(cluster_id="a", timeout=600)) == (f"cluster 'a' has ended before a client could connect; {why}")


# -- a job ------------------------------------------------------------------------------------------------------------


def test_a_pending_job_is_waited_for_with_its_reason(slurm, ready, capsys):
    slurm.says(
        "scontrol",
        job(7, "PENDING", "Resources"),
        (1, SILENT),
        job(7, "PENDING", "Priority"),
        job(7, "RUNNING", nodes="n[1-2]"),
    )
    write = when(lambda: len(slurm.calls()) >= 5, lambda: ready("job-7"))
    with ipp.Client(cluster_id="job-7", timeout=60) as rc:
        assert len(rc) == 4
    write.join()
    said = [line.rpartition(", ")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "job 7: pending (Resources)",
        f"job 7: Slurm does not answer ({SILENT})",
        "job 7: pending (Priority)",
        "job 7: running on n[1-2]",
    ]


def test_a_job_that_takes_longer_says_how_to_go_on(slurm, monkeypatch):
    slurm.says("scontrol", job(7, "PENDING", "PartitionTimeLimit"))
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.1)
    problem = refusal(cluster_id="job-7")
    assert isinstance(problem, TimeoutError)
    assert str(problem) == (
        "job 7: pending (PartitionTimeLimit: its partition allows less time: ask for less): not ready within 0 "
        "seconds; ipp.Client(cluster_id='job-7', timeout=600) waits longer, `scancel 7` takes the job back"
    )


@pytest.mark.parametrize(
    ("state", "how"),
    [
        ("CANCELLED", "was cancelled"),
        ("TIMEOUT", "has reached its time limit"),
        ("FAILED", "has failed with exit code 3"),
        ("COMPLETED", "has ended"),
    ],
)
@pytest.mark.parametrize("waited", [True, False])
def test_a_job_that_has_ended_is_told_of_with_its_log(slurm, tmp_path, state, how, waited):
    log = tmp_path / "slurm-7.out"
    log.write_text("module: command not found\n")
    before = [job(7, "PENDING", "Resources", log=log), job(7, "RUNNING", log=log)] if waited else []
    slurm.says("scontrol", *before, job(7, state, log=log, code=3))
    assert str(refusal(cluster_id="job-7", timeout=600)) == (
        f"job 7 {how}, and there is no cluster of it; the end of its log ~/slurm-7.out:\n  module: command not found"
    )


def test_a_job_that_slurm_forgets_is_told_of(slurm, directory, tmp_path):
    slurm.says("scontrol", job(7, "RUNNING", log=tmp_path / "nothing"), (1, UNKNOWN))
    assert str(refusal(cluster_id="job-7", timeout=600)) == (
        "job 7 has ended and is not known to Slurm any more, and there is no cluster of it; its output cannot be read "
        "here: `scontrol show job 7` says where it is"
    )
    publish(directory / "a" / "connection.json", info_of(tmp_path))
    slurm.says("scontrol", (1, UNKNOWN))
    assert str(refusal(cluster_id="job-8", timeout=600)) == (
        "Slurm does not know job 8: it has ended, or there was none; `squeue --me` shows your jobs; clusters that "
        "have a connection file: 'a'"
    )
    slurm.says("sacct", "NODE_FAIL|0:0|n1\n")
    assert str(refusal(cluster_id="job-8")).startswith("job 8 has lost a node, and there is no cluster of it")


def test_the_job_of_a_cluster_with_a_name_is_found_by_its_log(slurm, directory, ready):
    (directory / "mine").mkdir()
    log = directory / "mine" / "log"
    slurm.says("squeue", f"5|{log}|\n6|{log}|\n9|/another|\n")
    slurm.says("scontrol", job(6, "CANCELLED", log=log))
    assert str(refusal(cluster_id="mine")).startswith("job 6 was cancelled, and there is no cluster of it")
    assert "Slurm" not in str(refusal(cluster_id="wrong"))
    slurm.says("scontrol", job(6, "PENDING", "BeginTime", log=log))
    before = len(slurm.calls())
    write = when(lambda: len(slurm.calls()) > before + 1, lambda: ready("mine"))
    with ipp.Client(cluster_id="mine") as rc:
        assert len(rc) == 4
    write.join()


# -- connection files of clusters that are gone -----------------------------------------------------------------------


def test_a_file_of_a_job_that_is_over_is_stale(slurm, directory):
    path = directory / "job-7" / "connection.json"
    gone = subprocess.Popen(["true"])
    gone.wait()
    for place in ({"host": "elsewhere", "addresses": ["127.0.0.1:1"]}, {"pid": gone.pid}):
        publish(path, info_of(directory, slurm_job_id="7", **place))
        slurm.says("scontrol", job(7, "TIMEOUT", "TimeLimit"))
        assert str(refusal(cluster_id="job-7")) == (
            "connection file ~/px/job-7/connection.json is stale: job 7, which had the cluster, has reached its time "
            "limit; submit a job again, and remove ~/px/job-7/connection.json if its cluster has the same name"
        )
        slurm.says("scontrol", (1, UNKNOWN))
        assert "job 7, which had the cluster, is not known to Slurm any more" in str(refusal(cluster_id="job-7"))
    slurm.says("scontrol", (1, SILENT))
    assert "is stale: its controller (process" in str(refusal(cluster_id="job-7"))


def test_a_job_that_was_put_back_is_waited_for(slurm, directory, ready):
    path = directory / "job-7" / "connection.json"
    publish(path, info_of("", slurm_job_id="7", host="elsewhere", addresses=["127.0.0.1:1"], key="0" * 64))
    slurm.says("scontrol", job(7, "PENDING", "BeginTime"))
    assert str(refusal(cluster_id="job-7", timeout=0)) == (
        "connection file ~/px/job-7/connection.json is stale: job 7 was put back into the queue and is pending "
        "(BeginTime); its clients can connect when it runs"
    )
    before = len(slurm.calls())
    write = when(lambda: len(slurm.calls()) > before + 2, lambda: ready("job-7", slurm_job_id="7"))
    with ipp.Client(cluster_id="job-7") as rc:
        assert len(rc) == 4
    write.join()


@pytest.mark.usefixtures("no_slurm")
def test_a_process_that_is_another_program_by_now_is_not_the_controller(directory):
    publish(directory / "a" / "connection.json", info_of("", started=1.0))
    assert str(refusal(cluster_id="a")) == (
        "connection file ~/px/a/connection.json is stale: its controller is gone (process "
        f"{os.getpid()} on {socket.gethostname()} is another program by now); start a cluster again"
    )
    publish(directory / "a" / "connection.json", info_of("", started=1.0, host="elsewhere", addresses=["127.0.0.1:1"]))
    assert "it is stale, as nobody listens there any more: remove it, and start" in str(refusal(cluster_id="a"))


def test_the_end_of_a_job_is_told_to_calls_that_wait(slurm, directory, tmp_path):
    slurm.says("scontrol", job(7, "COMPLETING", "TimeLimit"))
    fake = FakeController(tmp_path / "s")
    with ipp.Client(info_of(tmp_path / "s", slurm_job_id="7")) as rc:
        fake.hold.set()
        waiting = rc[0].apply_async(abs, -1)
        fake.send({"type": "closing", "reason": "the cluster was stopped: the controller received SIGTERM"})
        with pytest.raises(ipp.error.ConnectionLost, match=r"received SIGTERM; job 7 has reached its time limit$"):
            waiting.get(timeout=60)
    fake.close()


# -- the line -------------------------------------------------------------------------------------------------------


def test_the_line_is_rewritten_where_somebody_looks(monkeypatch):
    clock = iter([0.0, 1.0, 1.1, 2.0, 75.0, 76.0])
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with progress.StatusLine() as line:
        for text in ("pending (Resources)", "pending (Resources)", "running", "running", 9 * "long "):
            line.show(text)
    shown = [
        "pending (Resources), 00:01",
        "running, 00:02".ljust(26),
        "running, 01:15",
        "long long long long long long l…, 01:16",
    ]
    assert terminal.getvalue() == "\r" + "\r".join(shown) + "\n"


def test_in_a_notebook_one_output_is_updated(monkeypatch):
    shown = []
    monkeypatch.setattr(outputs, "in_kernel", lambda: True)
    monkeypatch.setattr(outputs, "publish", lambda data, display_id, update: shown.append((data, display_id, update)))
    with progress.StatusLine() as line:
        line.show("a")
        line.show("b")
    assert [(data["text/plain"], update) for data, _, update in shown] == [("a, 00:00", False), ("b, 00:00", True)]
    assert shown[0][1] == shown[1][1]
