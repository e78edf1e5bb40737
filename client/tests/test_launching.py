from __future__ import annotations

import re

import pytest
from pxcluster import launching
from pxcluster.controlrequest import signum_of


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("mpi", "mpi"),
        ("MPI", "mpi"),
        ("Local", "local"),
        ("slurm", "slurm"),
        ("ipyparallel.cluster.launcher.MPIEngineSetLauncher", "mpi"),
        ("SlurmControllerLauncher", "slurm"),
        ("LocalEngineSetLauncher", "local"),
        (None, "mpi"),
    ],
)
def test_kinds(given, kind):
    assert launching.parse_kind("engines", given) == kind
    assert launching.parse_kind("engines", None, given) == kind


class PBSEngineSetLauncher:
    pass


@pytest.mark.parametrize("given", ["ssh", "pbs", "PBSEngineSetLauncher", PBSEngineSetLauncher, "mpi2", "a b", 7])
def test_other_kinds_are_refused_with_what_to_do(given):
    with pytest.raises(ValueError, match=f"engines={re.escape(repr(given))} is not there.*pxcluster start") as raised:
        launching.parse_kind("engines", given)
    assert "\n" not in str(raised.value)


def test_a_kind_is_given_once():
    with pytest.raises(TypeError, match="one of 'engines' or 'engine_launcher_class'"):
        launching.parse_kind("engines", "mpi", "mpi")
    with pytest.raises(TypeError, match="one of 'controller' or 'controller_launcher_class'"):
        launching.parse_kind("controller", "mpi", "mpi")


def test_a_cluster_of_slurms_is_a_job_of_its_own_outside_an_allocation_or_with_options():
    inside, outside = {"SLURM_JOB_ID": "7"}, {"SLURM_CONF": "/etc/slurm.conf"}
    submitted = [launching.is_submitted("slurm", *how) for how in ((None, inside), ({}, inside), (None, outside))]
    assert submitted == [False, True, True]
    assert not launching.is_submitted("mpi", None, outside)


def test_options_are_flags_of_sbatch():
    options = {"partition": "compute", "time": "1:00:00", "p": 3, "exclusive": True, "mem_per_cpu": "4G", "--x": "y"}
    flags = ["--partition=compute", "--time=1:00:00", "-p", "3", "--exclusive", "--mem-per-cpu=4G", "--x=y"]
    assert launching.sbatch_flags({**options, "requeue": False, "account": None}) == flags
    assert launching.check_options("slurm", options) == options
    assert launching.check_options("mpi", None) is None
    with pytest.raises(ValueError, match="for engines='slurm', not for engines='mpi'"):
        launching.check_options("mpi", {})
    with pytest.raises(TypeError, match="options is a dict of sbatch's flags"):
        launching.check_options("slurm", ["-p", "x"])
    command = launching.submit_command("px", "a", 4, 60, "/bin/python", ["--port", "80"], {"time": 5})
    assert " ".join(command) == (
        "px submit --wait --cluster-id a -n 4 --timeout 60 --python /bin/python --port 80 --time=5"
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 4}, ValueError, r"options\['n'\] is no flag of sbatch: Cluster\(n=…\) says how many"),
        ({"--port": 4}, ValueError, r"options\['--port'\] is no flag of sbatch: .* for controller_args"),
        ({"array": "0-3"}, ValueError, r"options\['array'\] does not go with a cluster"),
        ({"a b": 1}, ValueError, "options has 'a b', which is no flag of sbatch"),
        ({4: 1}, ValueError, "options has 4, which is no flag of sbatch"),
        ({"comment": "a\nrm -r x"}, ValueError, r"options\['comment'\] is one line"),
        ({"nodes": [1, 2]}, TypeError, r"options\['nodes'\] is a text or a number"),
    ],
)
def test_options_that_can_be_no_flags(options, error, message):
    with pytest.raises(error, match=message) as raised:
        launching.check_options("slurm", options)
    assert "\n" not in str(raised.value)


def test_tasks_are_counted_once():
    launching.check_tasks(None, {"ntasks": 5})
    launching.check_tasks(4, {"nodes": 5})
    with pytest.raises(ValueError, match="n=4 engines are 5 tasks"):
        launching.check_tasks(4, {"--ntasks": 5})


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("pxcluster: pending (Resources), 00:12", "pending (Resources)"),
        (
            "pxcluster: pending (PartitionTimeLimit), 100:12",
            "pending (PartitionTimeLimit: its partition allows less time: ask for less)",
        ),
        ("pxcluster: pending (JobHeldUser), 00:12", "pending (JobHeldUser: `scontrol release` lets it go)"),
        ("pxcluster: running on n[001-004], 03:40", "running on n[001-004]"),
        ("pxcluster: job 7 ended before its cluster was ready; the end of its log x:", None),
    ],
)
def test_states_of_a_job_that_is_waited_for(line, state):
    assert launching.parse_state(line) == state


def test_command_lines():
    command = launching.start_command("/bin/px", "a", 4, 60, "/bin/python", [])
    assert " ".join(command) == "/bin/px start --cluster-id a -n 4 --timeout 60 --python /bin/python"
    command = launching.start_command("px", "a", None, 0.5, "", ["--port", "80"])
    assert " ".join(command) == "px start --cluster-id a --timeout 0.5 --port 80"
    assert launching.stop_command("px", "a") == ["px", "stop", "--cluster-id", "a"]


@pytest.mark.parametrize("args", [["--python", "p", "--timeout", "1"], ["--timeout=1", "--python=p"]])
def test_flags_of_the_user_win(args):
    command = launching.start_command("px", "a", 1, 60, "other", args)
    assert command == ["px", "start", "--cluster-id", "a", "-n", "1", *args]


def test_numbers_of_engines():
    assert [launching.check_n(n) for n in (None, 1, True)] == [None, 1, 1]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"n={wrong}: a cluster has at least one engine"):
            launching.check_n(wrong)
    for wrong in (1.5, "4"):
        with pytest.raises(TypeError):
            launching.check_n(wrong)


def test_signals():
    assert [signum_of(sig) for sig in ("SIGINT", 2, "15")] == [2, 2, 15]
    with pytest.raises(ValueError, match="no signal has the name 'INT'"):
        signum_of("INT")


def test_names_are_new():
    names = {launching.new_cluster_id(1_700_000_000.9) for _ in range(100)}
    assert len(names) > 90
    assert all(re.fullmatch(r"1700000000-[a-z0-9]{4}", name) for name in names)


CLAP = """error: invalid value '99999' for '--port <N>': 99999 is not in 0..=65535

For more information, try '--help'.
"""


@pytest.mark.parametrize(
    ("code", "said", "error", "message"),
    [
        (1, "pxcluster: there is no mpirun\n", RuntimeError, "there is no mpirun"),
        (1, "pxcluster: it did not start; the end of its log x:\n  a\n  b\n", RuntimeError, "(?s)it did not.*  b"),
        (1, "", RuntimeError, "exit code 1 and said nothing"),
        (2, CLAP, ValueError, r"^invalid value '99999' for '--port <N>': 99999 is not in 0..=65535: controller_args"),
        (1, "pxcluster: pending, 00:00\npxcluster: job 7 ended; its log\n", RuntimeError, "^job 7 ended; its log$"),
        (1, "pxcluster: job 7 runs, but its cluster was not ready after 5 seconds; it goes on", TimeoutError, "^job 7"),
        (-9, "", RuntimeError, "ended by signal 9$"),
        (
            1,
            "pxcluster: the cluster was not ready after 60 seconds and is stopped (--timeout gives it longer); its log",
            TimeoutError,
            r"^the cluster was not ready after 60 seconds and is stopped \(engine_timeout= gives it longer\); its log",
        ),
    ],
)
def test_what_the_program_says_is_raised(code, said, error, message):
    failure = launching.failure_of(code, said)
    assert type(failure) is error
    assert re.search(message, str(failure)), str(failure)
