from __future__ import annotations

import pytest
from fake_slurm import UNKNOWN, FakeSlurm, job
from pxcluster import slurmjobs
from pxcluster.slurmjobs import Job

# As scontrol of Slurm 22.05 prints it, shortened.
ARRAY = """\
JobId=40 ArrayJobId=39 ArrayTaskId=0 JobName=array
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=n[1-2]
   StdOut=/home/me/my out 39_0

JobId=39 ArrayJobId=39 ArrayTaskId=1 JobName=array
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   JobState=PENDING Reason=Resources Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   NodeList=(null)
   StdOut=/home/me/my out 39_1
"""


def test_records_of_jobs_are_understood():
    running = slurmjobs.parse_job("40", ARRAY)
    assert running == Job("40", "RUNNING", "", "n[1-2]", "/home/me/my out 39_0")
    pending = slurmjobs.parse_job("39", ARRAY)
    assert pending == Job("39", "PENDING", "Resources", "", "/home/me/my out 39_1")
    assert slurmjobs.parse_job("4", ARRAY) is None
    failed = slurmjobs.parse_job("7", job(7, "FAILED", "NonZeroExitCode", "n1", "/a", 3))
    assert (failed.state, failed.code, failed.log) == ("FAILED", 3, "/a")
    assert slurmjobs.parse_job("7", "") is None


@pytest.mark.parametrize(
    ("found", "sentence", "goes_on", "is_waiting"),
    [
        (Job("1", "PENDING", "Resources"), "pending (Resources)", True, True),
        (Job("1", "PENDING"), "pending", True, True),
        (Job("1", "PENDING", "JobHeldUser"), "pending (JobHeldUser: `scontrol release 1` lets it go)", True, True),
        (Job("1", "REQUEUE_HOLD", "x"), "requeue hold (x)", True, True),
        (Job("1", "CONFIGURING"), "configuring", True, True),
        (Job("1", "RUNNING", nodes="n[1-4]"), "running on n[1-4]", True, False),
        (Job("1", "SUSPENDED"), "suspended", True, False),
        (Job("1", "COMPLETING", "TimeLimit"), "has reached its time limit", False, False),
        (Job("1", "COMPLETING"), "is ending", False, False),
        (Job("1", "TIMEOUT", "TimeLimit"), "has reached its time limit", False, False),
        (Job("1", "CANCELLED"), "was cancelled", False, False),
        (Job("1", "COMPLETED"), "has ended", False, False),
        (Job("1", "FAILED", code=3), "has failed with exit code 3", False, False),
        (Job("1", "FAILED", signal=9), "was ended by signal 9", False, False),
        (Job("1", "OUT_OF_MEMORY"), "has used more memory than it asked for", False, False),
        (Job("1", "SOMETHING_NEW"), "has ended (something_new)", False, False),
    ],
)
def test_states_in_words(found, sentence, goes_on, is_waiting):
    assert (found.sentence(), found.goes_on, found.is_waiting) == (sentence, goes_on, is_waiting)


def test_records_of_the_accounting_are_understood():
    assert slurmjobs.parse_record("7", "CANCELLED by 1000|0:15|n1\n") == Job("7", "CANCELLED", "", "n1", "", 0, 15)
    twice = slurmjobs.parse_record("7", "NODE_FAIL|0:0|n1\nTIMEOUT|0:0|n[2-3]\n")
    assert (twice.state, twice.nodes) == ("TIMEOUT", "n[2-3]")
    assert slurmjobs.parse_record("7", "") is None
    assert slurmjobs.parse_record("7", "Slurm accounting storage is disabled\n") is None


def test_outputs_of_jobs_are_understood():
    printed = "7|/a/log|\n12|/a/log|\n9|/b/my log|\n10_[1-3]|/c|\nnonsense\n"
    assert slurmjobs.parse_outputs(printed) == {"/a/log": "12", "/b/my log": "9"}


def test_what_slurm_has_forgotten_is_asked_of_the_accounting(tmp_path, monkeypatch):
    slurm = FakeSlurm(tmp_path, monkeypatch)
    slurm.says("scontrol", (1, UNKNOWN))
    assert slurmjobs.ask("7") is None
    slurm.says("sacct", "TIMEOUT|0:0|n1\n")
    assert slurmjobs.ask("7") == Job("7", "TIMEOUT", "", "n1")
    assert slurm.calls()[-1].endswith("--format=State,ExitCode,NodeList --jobs 7")


def test_a_slurm_that_does_not_answer_has_not_forgotten(tmp_path, monkeypatch):
    slurm = FakeSlurm(tmp_path, monkeypatch)
    slurm.says("scontrol", (1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"))
    with pytest.raises(slurmjobs.NoAnswer, match=r"Unable to contact slurm controller \(connect failure\)$"):
        slurmjobs.ask("7")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert not slurmjobs.is_here()
    assert slurmjobs.find("/a/log") is None
    with pytest.raises(slurmjobs.NoAnswer, match="scontrol cannot be run: No such file"):
        slurmjobs.ask("7")
