"""Ctrl-C on the client's side, and signals to engines."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty

import pxcluster as ipp
import pytest
from harness.cluster import Cluster
from harness.notebooks import run_cell, running_kernel
from harness.waiting import wait_for
from harness.work import SLEEP, SPIN, keep_busy
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from pxcluster import Client, interactive

pytestmark = pytest.mark.smoke

SCRIPT = """
import pathlib, sys, time
import pxcluster as ipp
rc = ipp.Client()
view = rc[:]
waiting = {
    "get": lambda ar: ar.get(),
    "wait": lambda ar: ar.wait(),
    "iterate": lambda ar: list(ar),
    "wait_interactive": lambda ar: ar.wait_interactive(),
    "client": lambda ar: rc.wait([ar]),
}[sys.argv[1]]
def sleep(marks):
    import os, pathlib, time
    pathlib.Path(marks, str(os.getpid())).touch()
    time.sleep(1000)
result = view.apply_async(sleep, sys.argv[2])
try:
    print("waits", flush=True)
    waiting(result)
except KeyboardInterrupt:
    print("interrupted", flush=True)
rc.send_signal("SIGINT", block=True)
print([error.ename for error in result.get(timeout=30, return_exceptions=True)], flush=True)
print(view.apply_sync(abs, -1), flush=True)
"""


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    directory = tmp_path / "marks"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("how", ["get", "wait", "iterate", "wait_interactive", "client"])
def test_ctrl_c_in_a_script_that_waits(cluster: Cluster, marks: Path, how: str) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how, str(marks)],
        env=cluster.site.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(list(marks.iterdir())) == 4 or script.poll() is not None, "all engines begin")
        assert script.stdout is not None
        script.stdout.readline()
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=60)
    finally:
        script.kill()
        script.wait()
    lines = out.splitlines()
    assert lines[-3:] == ["interrupted", str(["KeyboardInterrupt"] * 4), "[1, 1, 1, 1]"], (out, err)


@pytest.fixture
def kernel(cluster: Cluster) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    with running_kernel(cluster.site.env) as kernel:
        yield kernel


def test_ctrl_c_in_a_notebook_interrupts_the_engines(
    kernel: tuple[KernelManager, BlockingKernelClient], marks: Path
) -> None:
    manager, client = kernel
    assert run_cell(client, "import pxcluster as ipp; rc = ipp.Client(); rc.ids") == (
        "ok",
        "{'text/plain': '[0, 1, 2, 3]'}",
    )
    mark = f"import os, pathlib; pathlib.Path({str(marks)!r}, str(os.getpid())).touch()"
    number = client.execute(f"%%px\n{mark}\n{SLEEP}")
    wait_for(lambda: len(list(marks.iterdir())) == 4, "all engines begin")
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=60)
    assert reply["parent_header"]["msg_id"] == number
    shown = ""
    while True:
        try:
            content = client.get_iopub_msg(timeout=0.1)["content"]
        except Empty:
            break
        shown += str(content.get("text", ""))
    assert "Received Keyboard Interrupt. Sending signal SIGINT to engines..." in shown
    status, text = run_cell(client, "rc[:].apply_sync(abs, -1)")
    assert (status, text) == ("ok", "{'text/plain': '[1, 1, 1, 1]'}")


@pytest.mark.parametrize("sent", ["SIGINT", signal.SIGINT, int(signal.SIGINT)])
@pytest.mark.parametrize("code", [SLEEP, SPIN])
def test_engines_are_interrupted_in_user_code(rc: Client, marks: Path, code: str, sent: object) -> None:
    busy = keep_busy(rc, code, marks)
    rc.send_signal(sent, block=True)
    errors = busy.get(timeout=30, return_exceptions=True)
    assert [(error.ename, error.engine_info["method"]) for error in errors] == [("KeyboardInterrupt", "execute")] * 4
    assert rc[:].apply_sync(abs, -1) == [1] * 4


def test_only_the_targets_are_interrupted(rc: Client, marks: Path) -> None:
    busy = [keep_busy(rc, SLEEP, marks / str(engine), engine) for engine in rc.ids]
    rc.send_signal("SIGINT", targets=1, block=True)
    with pytest.raises(ipp.RemoteError, match=r"\[1:execute\] KeyboardInterrupt"):
        busy[1].get(timeout=30)
    assert [result.ready() for result in busy] == [False, True, False, False]
    rc.send_signal("SIGINT", targets=[0, 2, 3], block=True)
    rc.wait(busy, timeout=30)
    assert all(result.ready() for result in busy)


def test_an_idle_engine_ignores_interrupts(rc: Client) -> None:
    for _ in range(20):
        rc.send_signal("SIGINT", block=True)
        assert rc[:].apply_sync(abs, -1) == [1] * 4


def test_a_task_is_interrupted_and_the_map_goes_on(rc: Client, marks: Path) -> None:
    @interactive
    def one_sleeps(n: int, directory: str) -> int:
        import pathlib
        import time

        if n == 5:
            pathlib.Path(directory, "sleeps").touch()
            time.sleep(1000)
        return n

    numbers = range(40)
    result = rc.load_balanced_view().map_async(one_sleeps, numbers, [str(marks)] * len(numbers))
    wait_for(lambda: (marks / "sleeps").exists(), "the task sleeps")
    rc.wait([result], timeout=0.5)
    rc.send_signal("SIGINT", block=True)
    came = result.get(timeout=60, return_exceptions=True)
    assert [error.ename for error in came if isinstance(error, ipp.RemoteError)].count("KeyboardInterrupt") >= 1
    assert came[5].ename == "KeyboardInterrupt"
    assert sum(value == n for n, value in enumerate(came)) >= len(numbers) - 4


def test_other_signals_reach_their_handlers(rc: Client) -> None:
    rc[:].execute("import signal\ngot = []\nsignal.signal(signal.SIGUSR1, lambda *_: got.append(1))", block=True).get()
    rc.send_signal("SIGUSR1", block=True)

    def all_got_it() -> bool:
        return bool(rc[:]["got"] == [[1]] * 4)

    wait_for(all_got_it, "every handler has run")


def test_interrupts_at_any_moment_lose_no_result(rc: Client) -> None:
    sleep: Callable[..., None] = interactive(lambda: __import__("time").sleep(0.002))
    results = [rc[:].apply_async(sleep) for _ in range(200)]
    while not all(result.ready() for result in results):
        rc.send_signal("SIGINT", block=True)
    for result in results:
        values = result.get(timeout=30, return_exceptions=True)
        assert all(value is None or value.ename == "KeyboardInterrupt" for value in values), values
    assert rc[:].apply_sync(abs, -1) == [1] * 4
