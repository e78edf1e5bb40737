"""Defects that ipyparallel 9.2.0 was seen to have, one test each: here it is right."""

from __future__ import annotations

import linecache
import operator
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pxcluster as ipp
import pytest
from harness.cluster import Cluster, Site
from harness.gates import Gate, pass_gate
from harness.memory import MEGA, private_bytes
from harness.processes import is_alive
from harness.waiting import wait_for
from harness.work import SLEEP, keep_busy
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from pxcluster import Client, interactive
from traitlets.config import Config


def plain(text: str) -> str:
    """Without the colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.fixture
def cell(main: types.ModuleType) -> Any:
    """Runs a cell in the client's ``__main__``, with its source, and gives its namespace."""

    def run(text: str) -> dict[str, Any]:
        name = "<ipython-input-7>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec", dont_inherit=True), vars(main))
        return vars(main)

    return run


@pytest.fixture
def shell(rc: Client, capsys: pytest.CaptureFixture[str]) -> Iterator[InteractiveShell]:
    """A shell without colours in which `rc` has registered its magics."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    rc.activate()
    yield shell
    InteractiveShell.clear_instance()


# "`dv.clear()` not ordered with later shell work"
@pytest.mark.parametrize("targets", ["all", 1])
def test_clear_is_in_order_with_what_follows(rc: Client, targets: Any) -> None:
    view = rc.direct_view(targets)
    pulls = []
    for number in range(50):
        view.push({"old": number}, block=False)
        view.clear()
        view.push({"new": number}, block=False)
        pulls.append(view.pull(["'old' in globals()", "new"], block=False))
    each = [[False, number] for number in range(50)]
    wanted = each if targets == 1 else [[pair] * 4 for pair in each]
    assert [pull.get(timeout=60) for pull in pulls] == wanted


# "top-level `await` in execute/%px never replies"
def test_top_level_await_is_answered(rc: Client) -> None:
    result = rc[:].execute("import asyncio\nslept = await asyncio.sleep(0, 'yes')\nslept", silent=False, block=False)
    assert [reply.data["text/plain"] for reply in result.get(timeout=60)] == ["'yes'"] * 4
    failing = rc[0].execute("await asyncio.sleep(0)\nraise KeyError('awaited')", block=False)
    with pytest.raises(ipp.RemoteError, match="KeyError: 'awaited'"):
        failing.get(timeout=60)


# "result whose class is unknown to the client: exception in the IO thread, AsyncResult never completes"
def test_a_result_of_an_unknown_class_raises_and_the_client_goes_on(rc: Client) -> None:
    rc[:].execute("import sys, types\nhidden = sys.modules['hidden_module'] = types.ModuleType('hidden_module')").get()
    rc[:].execute("exec('class Thing: pass', vars(hidden)); hidden.Thing.__module__ = 'hidden_module'").get()
    make = interactive(lambda n=0: hidden.Thing() if n % 2 == 0 else n)  # noqa: F821
    with pytest.raises(ipp.SerializationError, match=r"result of engine 1 cannot be loaded here: .*hidden_module"):
        rc[1].apply_async(make).get(timeout=60)
    results = rc.load_balanced_view().map_async(make, range(6)).get(timeout=60, return_exceptions=True)
    assert results[1::2] == [1, 3, 5]
    assert {type(result) for result in results[::2]} == {ipp.SerializationError}
    assert rc[:].apply_async(make, 1).get(timeout=60) == [1] * 4


# "cluster stopped / hub gone: pending, new and `queue_status()` calls hang, `rc.ids` still full"
def test_calls_on_a_stopped_cluster_raise_at_once(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(2)
    client = cluster.client()
    view, balanced = client[:], client.load_balanced_view()
    pending = [
        keep_busy(client, SLEEP, tmp_path / "marks"),
        view.apply_async(abs, -1),
        balanced.map_async(abs, [1] * 9),
    ]
    assert cluster.command("stop").returncode == 0
    cluster.wait_ended()
    sentence = "cluster 'default' has stopped"
    for result in pending:
        with pytest.raises(ipp.ConnectionLost, match=sentence):
            result.get(timeout=60)
    calls: list[Callable[[], Any]] = [
        lambda: view.apply_async(abs, 1),
        lambda: view["x"],
        lambda: balanced.map_sync(abs, [1]),
        client.queue_status,
        client.hub_history,
        lambda: client.send_signal("SIGINT", block=True),
        lambda: client.abort(),
        lambda: client.wait_for_engines(2, timeout=60),
        lambda: client[:],
    ]
    for call in calls:
        with pytest.raises((ipp.ConnectionLost, ipp.NoEnginesRegistered), match=sentence):
            call()
    assert len(client.history) == 13  # what this client knows by itself it goes on knowing
    assert client.ids == []


# "MPI engine death kills all, queued LB tasks hang"
def test_the_death_of_an_engine_costs_its_own_work_only(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(3)
    client = cluster.client()
    pids = client[:].apply_sync(os.getpid)
    with Gate(tmp_path / "gate") as gate:
        running = client.load_balanced_view().map_async(pass_gate, range(60), [gate.folder] * 60)
        gate.wait_for_marks(3)
        os.kill(pids[1], signal.SIGKILL)
        wait_for(lambda: client.ids == [0, 2], "engine 1 is seen to be dead")
    assert set(running.get(timeout=60)) == {pids[0], pids[2]}
    assert client[:].apply_sync(os.getpid) == [pids[0], pids[2]]


# "coalesced broadcast order wrong for > 2 engines"
@pytest.mark.parametrize("targets", ["all", [3, 0, 2], [1, 2, 3], [2, 1, 0, 3]])
def test_results_of_a_broadcast_are_in_the_order_of_its_targets(rc: Client, targets: Any) -> None:
    rc[:].scatter("number", range(4), flatten=True).get()
    wanted = [0, 1, 2, 3] if targets == "all" else targets
    for coalescing in (True, False):
        view = rc.broadcast_view(targets, is_coalescing=coalescing)
        for _ in range(20):
            assert view.apply_sync(interactive(lambda: number)) == wanted  # noqa: F821
        assert view["number"] == wanted
        assert view.apply_async(abs, -1).engine_id == wanted


# "instance of a `__main__` class as argument: AttributeError; lambda two levels deep: PicklingError"
def test_instances_of_notebook_classes_and_deep_lambdas_travel(rc: Client, cell: Any) -> None:
    space = cell("class Foo:\n    def __init__(self, x): self.x = x\n    def more(self): return Foo(self.x + 1)")
    made, view, balanced = space["Foo"](3), rc[:], rc.load_balanced_view()
    get = operator.attrgetter("x")
    assert view.apply_sync(get, made) == [3] * 4
    assert balanced.map_sync(get, [made, space["Foo"](4)]) == [3, 4]
    view["pushed"] = {"deep": [made]}
    assert view.pull("pushed['deep'][0].x", block=True) == [3] * 4
    assert type(rc[0]["pushed"]["deep"][0]) is space["Foo"]
    view["Foo"] = space["Foo"]  # a method of it looks for that name
    assert [foo.x for foo in view.apply_sync(operator.methodcaller("more"), made)] == [4] * 4
    deep = {"a": [({"f": interactive(lambda x: x * 5)},)]}
    assert view.apply_sync(interactive(lambda d, x: d["a"][0][0]["f"](x)), deep, 2) == [10] * 4


# "`set_flags(timeout=-1)` raises but keeps -1: every later call fails"
def test_a_flag_that_is_refused_is_not_kept(rc: Client) -> None:
    view = rc.load_balanced_view()
    for flags in ({"timeout": -1}, {"retries": 3, "timeout": -1}, {"label": "x", "nonsense": 1}):
        with pytest.raises((ValueError, KeyError), match=r"-1|nonsense"):
            view.set_flags(**flags)
        assert (view.timeout, view.retries, view.label) == (0, 0, None)
        with pytest.raises((ValueError, KeyError)), view.temp_flags(**flags):
            pytest.fail("a flag was accepted")
    assert view.apply_sync(abs, -1) == 1


# "stale `rc[:]` after an engine left: bare `KeyError: 3`"
def test_a_view_of_an_engine_that_left_says_so(new_cluster: Callable[..., Cluster]) -> None:
    client = new_cluster(2).client()
    view, one = client[:], client[1]
    client.kill_engines(1, block=True)
    for call in (
        lambda: view.apply_async(abs, 1),
        lambda: view["x"],
        lambda: one.push({"x": 1}),
        lambda: one.execute(""),
    ):
        with pytest.raises(ipp.EngineError, match=r"Engine 1 is gone: .*make the view again \(rc\[:\]\)"):
            call()
    assert client[:].apply_sync(abs, -1) == [1]
    assert client.direct_view().apply_sync(abs, -1) == [1]


# "remote tracebacks lack the user's source lines and show ipyparallel internals"
def test_remote_tracebacks_show_the_users_lines_and_nothing_of_ours(rc: Client, cell: Any) -> None:
    space = cell("def inner(n):\n    return 10 / n\n\ndef outer(n):\n    return inner(n)\n")
    rc[:].push({"inner": space["inner"]}, block=True)
    tracebacks = []
    with pytest.raises(ipp.RemoteError) as direct:
        rc[0].apply_sync(space["outer"], 0)
    tracebacks.append(direct.value.traceback)
    with pytest.raises(ipp.CompositeError) as mapped:
        rc.load_balanced_view().map_sync(space["outer"], [5, 0])
    tracebacks += [traceback for _, _, traceback, _ in mapped.value.elist]
    with pytest.raises(ipp.CompositeError) as parts:
        rc[:].map_sync(space["outer"], [0] * 4)
    tracebacks += [traceback for _, _, traceback, _ in parts.value.elist]
    assert len(tracebacks) == 6
    for traceback in map(plain, tracebacks):
        assert re.search(r"-+> *2 +return 10 / n", traceback), traceback
        assert re.search(r"-+> *5 +return inner\(n\)", traceback), traceback
        assert "Could not get source" not in traceback
        assert not re.search(r"pxcluster|serialize|_engine|<string>|IPython/core", traceback), traceback
    with pytest.raises(ipp.RemoteError) as executed:
        rc[0].execute("def f():\n    return 1 / 0\nf()", block=True)
    assert re.search(r"-+> *2 +return 1 / 0", plain(executed.value.traceback))
    assert not re.search(r"pxcluster|_engine|IPython/core", executed.value.traceback)


# "single-target streaming error printed twice; engine output order arbitrary; Out metadata bloats the notebook JSON"
def test_an_error_is_shown_once_and_results_are_in_order_and_lean(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("%%px --targets 0\n1/0")
    shown = capsys.readouterr()
    assert plain(shown.out + shown.err).count("ZeroDivisionError: division by zero") == 1
    for _ in range(10):
        shell.run_cell("%%px\n__import__('time').sleep(0.02 / (1 + __import__('os').getpid() % 7))\n'result'")
        assert re.findall(r"^Out\[(\d):", capsys.readouterr().out, re.MULTILINE) == ["0", "1", "2", "3"]
    publisher, shell.display_pub = shell.display_pub, CapturingDisplayPublisher()
    try:
        shell.run_cell("%px 6 * 7")
        published = shell.display_pub.outputs
    finally:
        shell.display_pub = publisher
    assert [output["metadata"] for output in published] == [{"engine": engine} for engine in range(4)]
    assert [output["data"]["text/plain"].endswith("]: 42") for output in published] == [True] * 4


# "`rc.ids` empty / `rc[:]` partial right after start; nothing printed when an engine dies"
def test_all_engines_are_there_when_the_start_returns_and_a_death_is_told(site: Site) -> None:
    started = site.run("pxcluster", "start", "-n", "4")
    assert started.returncode == 0, started.stderr
    with Client(str(site.directory / "default" / "connection.json")) as client:
        assert client.ids == [0, 1, 2, 3]
        assert len(set(client[:].apply_sync(os.getpid))) == 4
        client.kill_engines(2, block=True)
        log = site.directory / "default" / "log"
        wait_for(lambda: "pxcluster: engine 2 (" in log.read_text(), "the log tells of the death")
        assert "SIGKILL" in log.read_text()
    assert site.run("pxcluster", "stop").returncode == 0
    site.wait_until_nothing_remains()


# "hub keeps up to 1 GiB of task buffers by default, purge does not return it"
def test_what_tasks_had_is_freed_when_they_are_done(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2)
    client = cluster.client()
    view, balanced = client[:], client.load_balanced_view()
    controller = cluster.connection()["pid"]
    view.apply_sync(abs, 1)
    before = private_bytes(controller)
    small, large = numpy.ones(50_000), numpy.ones(500_000)
    for _ in range(20):
        assert balanced.map_sync(numpy.negative, [small + n for n in range(20)])[3][0] == -4  # 8 MB there and back
        assert (view.apply_sync(numpy.negative, large)[1] == -1).all()  # 4 MB, and 8 MB back
    # The most recent answers, 16 MiB of them, are kept for other clients that ask for them.
    wait_for(lambda: sum(client.memory()["used"].values()) <= 16 * MEGA, lambda: f"little is kept: {client.memory()}")
    grown = private_bytes(controller) - before
    assert grown < 64 * MEGA, f"the controller has grown by {grown} bytes"
    client.purge_everything()
    assert client.hub_history() == []


# "SIGTERM on the client script leaves all processes running"
def test_a_client_script_that_is_terminated_leaves_nothing_of_its_own(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(2)
    mark = tmp_path / "mark"
    script = f"""
        import pxcluster
        rc = pxcluster.Client({str(cluster.connection_file)!r})
        tasks = rc.load_balanced_view().map_async(abs, range(100_000))
        rc[0].execute("import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(1000)", block=True)
    """
    command = [sys.executable, "-c", re.sub(r"^ {8}", "", script, flags=re.MULTILINE)]
    child = subprocess.Popen(command, env=cluster.site.env, stderr=subprocess.PIPE, text=True)
    wait_for(mark.exists, "the script waits for what runs on engine 0")
    child.terminate()
    _, complaints = child.communicate(timeout=60)
    assert (child.returncode, complaints) == (-signal.SIGTERM, "")
    assert not is_alive(child.pid)
    client = cluster.client()  # the cluster is nobody's child, and goes on until it is stopped
    client.send_signal("SIGINT", targets=[0], block=True)
    assert client[:].apply_async(abs, -1).get(timeout=60) == [1, 1]
    cluster.stop()
    cluster.site.wait_until_nothing_remains()


# "`ipcluster stop` logs ERROR/CRITICAL and tracebacks on a clean stop"
def test_a_clean_stop_logs_no_errors(site: Site, new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster(2, site=site)
    with cluster.client() as client:
        client.load_balanced_view().map_sync(abs, range(100))
    stopped = cluster.command("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "pxcluster: cluster 'default' is stopped\n")
    assert stopped.stderr == ""
    assert cluster.wait_ended() == 0
    assert not re.search(r"error|critical|traceback|abort|warn|panic", cluster.log(), re.IGNORECASE), cluster.log()


# "Behaviours to keep", those that no other test has
def test_behaviours_that_were_right_are_kept(rc: Client) -> None:
    echo = rc[0].execute("!echo hi", silent=False, block=True)
    assert echo.stdout.splitlines() == ["hi"]
    with pytest.raises(ipp.RemoteError, match="StdinNotImplementedError"):
        rc[0].apply_sync(input)
    lines = rc[0].apply_async(interactive(lambda: [print(number) for number in range(20_000)] and None))
    assert lines.get(timeout=60) is None
    assert lines.stdout.split() == [str(number) for number in range(20_000)]
    assert rc[0].pull(["[1, 2][1]", "len('abc') + 1"], block=True) == [2, 4]
