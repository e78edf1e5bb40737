"""``pxcluster run script.py``: a cluster for one program, from a shell and as an MPI job."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.cluster import Site
from harness.processes import is_alive
from harness.waiting import wait_for

pytestmark = pytest.mark.timeout(300)

SQUARES = """
import os, sys
import pxcluster as ipp
rc = ipp.Client()
print(len(rc), rc.load_balanced_view().map_sync(lambda n: n * n, range(4)), sys.argv[1:], sys.stdin.read())
print("rank", [name for name in os.environ if name.startswith(("OMPI_COMM_", "PMI_RANK", "PMIX_RANK"))])
sys.exit(7)
"""
WAITS = """
import os, signal, sys
import pxcluster as ipp
rc = ipp.Client()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
open("ready", "w").write(" ".join(map(str, [os.getpid(), rc._info["pid"], *rc[:].apply_sync(os.getpid)])))
while True:
    signal.pause()
"""


def command(site: Site, way: str, engines: int, *arguments: str) -> list[str]:
    if way == "shell":
        return ["pxcluster", "run", "-n", str(engines), *arguments]
    return ["mpirun", "-n", str(engines + 1), "pxcluster", "run", *arguments]


@pytest.mark.smoke
@pytest.mark.parametrize("way", ["shell", "mpi"])
def test_a_script_has_a_cluster_and_its_code_is_the_commands(site: Site, way: str) -> None:
    script = site.base / "squares.py"
    script.write_text(SQUARES)
    done = subprocess.run(
        command(site, way, 3, str(script), "-a", "--b"),
        env=site.env,
        cwd=site.base,
        input="words",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "3 [0, 1, 4, 9] ['-a', '--b'] words\nrank []\n", done.stderr
    assert done.returncode == 7
    assert list(Path(site.env["PXCLUSTER_DIR"]).glob("run-*")) == []


@pytest.mark.parametrize("way", ["shell", "mpi"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_all_is_gone_when_the_command_is_told_to_end(site: Site, way: str, sent: signal.Signals) -> None:
    script = site.base / "waits.py"
    script.write_text(WAITS)
    ready = site.base / "ready"
    ready.unlink(missing_ok=True)
    running = subprocess.Popen(
        command(site, way, 2, str(script)),
        env=site.env,
        cwd=site.base,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: ready.exists() and len(ready.read_text().split()) == 4, lambda: "the script has a cluster", 100)
    pids = [int(pid) for pid in ready.read_text().split()]
    os.kill(running.pid, sent)
    wait_for(lambda: not any(map(is_alive, pids)), lambda: f"{[pid for pid in pids if is_alive(pid)]} end", 100)
    code = running.wait(100)
    if way == "shell":
        assert code == (9 if sent == signal.SIGTERM else -signal.SIGKILL)
    wait_for(
        lambda: list(Path(site.env["PXCLUSTER_DIR"]).glob("run-*/connection.json")) == [], lambda: "no file is left", 60
    )


def test_a_cluster_that_ends_first_is_told_of(site: Site) -> None:
    script = site.base / "kills.py"
    script.write_text(
        "import os, pxcluster as ipp; rc = ipp.Client(); os.kill(rc._info['pid'], 9)\nrc.wait_for_engines(99)"
    )
    done = subprocess.run(
        command(site, "shell", 1, str(script)), env=site.env, cwd=site.base, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1
    assert "ConnectionLost" in done.stderr
    assert "pxcluster: the cluster ended before the script did; the end of its log" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing.py"], "nothing.py does not exist; name a script"),
        (["--python", "/none/python", "--", "-c", "1"], "/none/python"),
        (["--dry-run", "--", "-c", "1"], "use it with `pxcluster start`"),
    ],
)
def test_bad_input_is_one_sentence(site: Site, arguments: Sequence[str], sentence: str) -> None:
    done = subprocess.run(
        ["pxcluster", "run", "-n", "1", *arguments], env=site.env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "panicked" not in done.stderr


def test_the_list_and_the_log(site: Site) -> None:
    subprocess.run(["pxcluster", "start", "-n", "1"], env=site.env, check=True, capture_output=True, timeout=100)
    try:
        listed = subprocess.run(
            ["pxcluster", "list"], env=site.env, check=True, capture_output=True, text=True, timeout=60
        )
        assert listed.stdout.splitlines()[1].split()[:2] == ["default", "running"]
        follower = subprocess.Popen(["pxcluster", "logs", "-f"], env=site.env, stdout=subprocess.PIPE, text=True)
    finally:
        subprocess.run(["pxcluster", "stop"], env=site.env, check=True, capture_output=True, timeout=100)
    assert "pxcluster: cluster 'default' is ready: 1 engine" in follower.communicate(timeout=60)[0]
