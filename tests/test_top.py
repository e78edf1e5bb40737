"""`pxcluster top`: a cluster on the screen of a terminal, and as a table where there is none."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from harness.cluster import Cluster, program
from harness.terminal import Terminal
from harness.waiting import wait_for
from pxcluster import Client

pytestmark = pytest.mark.smoke

HOST = socket.gethostname()


@pytest.fixture
def top() -> Iterator[Callable[..., Terminal]]:
    """Watches a cluster: `top(cluster, *flags, interval=…, columns=…, lines=…)`."""
    terminals: list[Terminal] = []

    def watch(cluster: Cluster, *flags: str, interval: float = 0.2, **size: int) -> Terminal:
        command = [program("pxcluster"), "top", "--interval", str(interval), *flags]
        terminals.append(Terminal(command, cluster.site.env, **size))
        return terminals[-1]

    yield watch
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def busy(rc: Client) -> Iterator[None]:
    """A map that goes on for as long as the test."""
    results = rc.load_balanced_view().map_async(time.sleep, [0.02] * 20_000)
    yield
    results.abort()
    results.wait(60)


def rows(lines: list[str]) -> dict[str, list[str]]:
    """The cells of the table by host or engine."""
    found = {}
    for line in lines:
        if match := re.match(rf"[▸▾] (\S+)|({HOST})|  (engine \d+)", line):
            name = next(group for group in match.groups() if group)
            found[name] = line[match.end() :].split()
    return found


def memory(cells: list[str]) -> float:
    """What a row says of memory, in bytes."""
    number, unit = cells[5:7]
    return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


@pytest.mark.usefixtures("busy")
def test_a_cluster_at_work(cluster: Cluster, top: Callable[..., Terminal]) -> None:
    terminal = top(cluster)
    terminal.wait_for("cluster 'default' on", "4 of 4 engines busy", "4/4")

    def rates() -> list[float]:
        cells = rows(terminal.lines())
        engines = [cells[name] for name in sorted(cells) if name.startswith("engine")]
        return [float(row[3]) for row in engines if len(row) == 7]  # no rate is known yet: its cell is empty

    wait_for(lambda: len(rates()) == 4 and all(rates()), lambda: f"every engine finishes tasks: {terminal.text()}")
    shown = rows(terminal.lines())
    assert list(shown) == [HOST, "engine 0", "engine 1", "engine 2", "engine 3"]
    assert [shown[f"engine {engine}"][0] for engine in range(4)] == ["busy"] * 4
    sizes = {name: memory(cells) for name, cells in shown.items()}
    of_host = sizes.pop(HOST)
    assert all(size > 10e6 for size in sizes.values()), terminal.text()
    assert of_host == pytest.approx(sum(sizes.values()), rel=0.1)  # two digits are shown
    waiting = re.search(r"(\d+) tasks waiting, (\d+) on engines, 0 direct requests", terminal.text())
    assert waiting is not None
    assert int(waiting[1]) > 1000
    terminal.press("h")
    wait_for(lambda: list(rows(terminal.lines())) == [HOST], lambda: f"engines are folded: {terminal.text()}")
    terminal.press("\x1b[C")  # right
    terminal.wait_for("engine 3")
    terminal.press("q")
    assert terminal.wait_ended() == 0
    assert terminal.is_restored()
    assert terminal.after() == [""]


@pytest.mark.usefixtures("busy")
def test_a_table_where_there_is_no_terminal(cluster: Cluster, top: Callable[..., Terminal]) -> None:
    printed = cluster.command("top")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "\x1b" not in printed.stdout
    facts, _, table = printed.stdout.partition("\n\n")
    assert facts.startswith(f"cluster 'default' on {HOST}, up ")
    assert re.search(r"4 of 4 engines busy, [\d.]+k? tasks/s, \d+ finished, \d+ stolen", facts), facts
    titles = table.partition("\n")[0]
    assert " ".join(titles.split()) == "host busy to do finished tasks/s stolen memory process"
    cells = rows(table.split("\n"))
    assert list(cells) == [HOST, "engine 0", "engine 1", "engine 2", "engine 3"]
    assert sum(int(cells[f"engine {engine}"][2]) for engine in range(4)) == int(cells[HOST][2]) > 0
    terminal = top(cluster, "--once")
    assert terminal.wait_ended() == 0
    assert not terminal.was_full()
    assert list(rows(terminal.lines())) == list(cells)


def test_the_terminal_changes_its_size(cluster: Cluster, top: Callable[..., Terminal]) -> None:
    terminal = top(cluster, columns=120)
    terminal.wait_for("process", "stolen", "0/4")
    terminal.resize(40, 7)
    titles = ["host", "busy", "tasks/s", "memory"]
    wait_for(lambda: terminal.lines()[2].split() == titles, lambda: f"columns go: {terminal.text()}")
    terminal.press("\x1b[F")  # end
    terminal.wait_for("engine 3")
    assert "engine 0" not in terminal.text()
    terminal.resize(120, 24)
    terminal.wait_for("process", "engine 0", "engine 3")
    terminal.press("\x03")
    assert terminal.wait_ended() == 0
    assert terminal.is_restored()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_properly(cluster: Cluster, top: Callable[..., Terminal], signum: signal.Signals) -> None:
    terminal = top(cluster)
    terminal.wait_for("engine 3")
    terminal.process.send_signal(signum)
    assert terminal.wait_ended() == 128 + signum
    assert terminal.is_restored()


def test_a_session_is_ended_with_it(cluster: Cluster, top: Callable[..., Terminal]) -> None:
    others = [top(cluster) for _ in range(2)]
    for terminal in others:
        terminal.wait_for("1 client")
    others[0].press("\x1b")
    assert others[0].wait_ended() == 0
    others[1].wait_for("0 clients")


def test_a_death_is_shown(new_cluster: Callable[..., Cluster], top: Callable[..., Terminal]) -> None:
    cluster = new_cluster(3)
    terminal = top(cluster)
    terminal.wait_for("engine 0", "engine 1", "engine 2")
    rc = cluster.client()
    pid = rc[1].apply_sync(os.getpid)
    os.kill(pid, signal.SIGKILL)
    shown = terminal.wait_for("0/2", f"1 engine has died; the last: engine 1 (host {HOST}, pid {pid}) was killed")
    assert "  engine 1 " not in shown
    printed = cluster.command("top").stdout
    assert f"1 engine has died; the last: engine 1 (host {HOST}, pid {pid}) was killed by SIGKILL" in printed


def test_the_cluster_ends(new_cluster: Callable[..., Cluster], top: Callable[..., Terminal]) -> None:
    cluster = new_cluster(1)
    terminal = top(cluster, interval=3600)  # it need not ask to hear of the end
    terminal.wait_for("engine 0")
    assert cluster.command("stop").returncode == 0
    assert terminal.wait_ended() == 0
    assert terminal.is_restored()
    sentence = "pxcluster: cluster 'default' has ended: the cluster was stopped: a client asked for it"
    assert terminal.after() == [sentence, ""]
    again = cluster.command("top")
    assert again.returncode == 1
    assert again.stderr.startswith("pxcluster: no cluster 'default' is running")


def test_the_cluster_dies(new_cluster: Callable[..., Cluster], top: Callable[..., Terminal]) -> None:
    cluster = new_cluster(1)
    terminal = top(cluster)
    terminal.wait_for("engine 0")
    os.kill(cluster.connection()["pid"], signal.SIGKILL)
    assert terminal.wait_ended() == 1
    assert terminal.is_restored()
    assert re.fullmatch(
        r"pxcluster: cluster 'default' has ended without a word \(.*\); `pxcluster logs` may say why",
        terminal.after()[0],
    )
    cluster.wait_ended()
    cluster.site.remove_shared_memory_of_open_mpi()


@pytest.mark.slow
def test_the_controller_is_not_heard_any_more(
    new_cluster: Callable[..., Cluster], top: Callable[..., Terminal]
) -> None:
    cluster = new_cluster(1)
    impatient, patient = top(cluster), top(cluster)
    for terminal in (impatient, patient):
        terminal.wait_for("engine 0")
    controller = cluster.connection()["pid"]
    os.kill(controller, signal.SIGSTOP)
    try:
        for terminal in (impatient, patient):
            terminal.wait_for("no answer for")
        impatient.press("q")
        assert impatient.wait_ended() == 0
        assert patient.wait_ended() == 1
    finally:
        os.kill(controller, signal.SIGCONT)
    assert impatient.is_restored()
    assert patient.is_restored()
    assert patient.after() == [
        f"pxcluster: the connection to cluster 'default' on host {HOST} is lost (the controller did not answer within "
        "10 seconds); `pxcluster status` tells whether it still runs",
        "",
    ]


@pytest.mark.usefixtures("needs_hosts")
def test_engines_of_other_hosts_say_how_much_memory_they_have(
    new_hosts: Callable[..., Cluster], top: Callable[..., Terminal]
) -> None:
    cluster = new_hosts(["n1", "n2"], 2)
    terminal = top(cluster, columns=100)
    terminal.wait_for(f"▾ {HOST}", "▾ n1", "▾ n2", "engine 4")

    def memory() -> list[str]:
        return [name for name, cells in rows(terminal.lines()).items() if "MB" not in cells]

    wait_for(lambda: not memory(), lambda: f"memory is known of all: {terminal.text()}")
    cluster.client()[3].apply_sync(exec, "import __main__; __main__.ballast = bytearray(300_000_000)")
    grown = re.compile(r"engine 3 .* 3\d\d MB")
    wait_for(lambda: grown.search(terminal.text()), lambda: f"engine 3 has grown: {terminal.text()}")
