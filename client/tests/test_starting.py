from __future__ import annotations

import fcntl
import os
import subprocess

import pytest
from pxcluster import starting

HOME = {"HOME": "/home/me"}
MINE = "/home/me/.pxcluster"


@pytest.mark.parametrize(
    ("line", "environment", "found"),
    [
        ("mpirun -n 5 pxcluster", HOME, (MINE, "default")),
        ("/opt/bin/mpirun -n 5 /v/bin/pxcluster --cluster-id a", HOME, (MINE, "a")),
        ("pxcluster start -n 4 --cluster-id=a", HOME, (MINE, "a")),
        ("srun --mpi=pmix pxcluster", {**HOME, "PXCLUSTER_CLUSTER_ID": "b"}, (MINE, "b")),
        ("pxcluster run --cluster-id a -- s.py --cluster-id b", HOME, (MINE, "a")),
        ("/v/bin/pxcluster-rank --cluster-id c", {"PXCLUSTER_DIR": "/d"}, ("/d", "c")),
        ("python /v/bin/pxcluster start", HOME, (MINE, "default")),
        ("pxcluster list", HOME, None),
        ("pxcluster submit --wait -n 4", HOME, None),
        ("vim pxcluster", HOME, None),
        ("python s.py", HOME, None),
    ],
)
def test_command_lines_that_start_a_cluster(line, environment, found):
    assert starting.started_by(line.split(" "), environment) == found


def test_a_lock_a_log_in_use_and_a_process_are_signs(tmp_path):
    directory = tmp_path / "some-cluster"
    assert not starting.is_started(str(directory))
    directory.mkdir()
    (directory / "lock").touch()
    assert starting.is_started(str(directory))
    (directory / "lock").unlink()
    with (directory / "log").open("w") as log:
        assert not starting.is_started(str(directory))
        fcntl.flock(log, fcntl.LOCK_EX)
        assert starting.is_started(str(directory))
    assert not starting.is_started(str(directory))
    program = tmp_path / "pxcluster"
    program.write_text("#!/bin/sh\necho begun\nread -r line\n")
    program.chmod(0o755)
    environment = {**os.environ, "PXCLUSTER_DIR": str(tmp_path)}
    running = subprocess.Popen(
        ["mpirun", program, "start", "--cluster-id", "some-cluster"],
        executable="/bin/sh",
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with running:
        assert running.stdout.readline() == b"begun\n"
        assert starting.is_started(str(directory))
        assert not starting.is_started(str(tmp_path / "another"))
        running.stdin.close()
        running.wait(60)
    assert not starting.is_started(str(directory))


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert starting.tail(str(log), "L") == "its log L is not there"
    log.write_text("\n")
    assert starting.tail(str(log), "L") == "its log L is empty"
    log.write_text("".join(f"{number}\n\n" for number in range(30)))
    assert starting.tail(str(log), "L") == "the end of its log L:\n  " + "\n  ".join(map(str, range(10, 30)))
    log.write_text("x" * 100_000)
    assert len(starting.tail(str(log), "L")) < 10_000
