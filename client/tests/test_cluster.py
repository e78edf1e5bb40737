"""Cluster and ClusterManager beside a ``pxcluster`` that only claims to start something."""

from __future__ import annotations

import inspect
import json
import logging
import os
import subprocess
import sys

import pxcluster as ipp
import pytest
from fake_controller import FakeController
from pxcluster import lifecycle, program
from support import info_of

# What the program does: its arguments are written down; `start` publishes what $INFO holds, `stop` takes it away.
PXCLUSTER = """#!/bin/sh
echo "$@" >> "$PXCLUSTER_DIR/../calls"
file="$PXCLUSTER_DIR/$3/connection.json"
case $1 in
start)
    mkdir -p "$PXCLUSTER_DIR/$3" && umask 077
    echo "log of $3" > "$PXCLUSTER_DIR/$3/log"
    [ -z "$FAILS" ] || { echo "pxcluster: $FAILS" >&2; exit 1; }
    echo "$INFO" > "$file" ;;
stop) rm "$file" ;;
esac
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory of clusters and a program that fills it; the cluster is a fake controller with four engines."""
    fake = FakeController(tmp_path / "s")
    (tmp_path / "px").mkdir()
    (tmp_path / "pxcluster").write_text(PXCLUSTER)
    (tmp_path / "pxcluster").chmod(0o755)
    monkeypatch.setenv("PXCLUSTER_DIR", str(tmp_path / "px"))
    monkeypatch.setenv("INFO", json.dumps(info_of(tmp_path / "s", cluster_id="a", started=4000001234.5)))
    monkeypatch.delenv("PXCLUSTER_PYTHON", raising=False)
    monkeypatch.setattr(lifecycle, "locate", lambda: str(tmp_path / "pxcluster"))
    yield tmp_path
    fake.close()
    assert fake.errors == []


def calls(place):
    return (place / "calls").read_text().splitlines()


def publish(place, name, mode=0o600, **changes):
    path = place / "px" / name / "connection.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(info_of(place / "s", cluster_id=name, **changes)))
    path.chmod(mode)
    return path


def test_it_runs_the_program(place):
    with ipp.Cluster(n=4, cluster_id="a", engine_timeout=7, controller_args=["--port", "80"]) as rc:
        assert rc.ids == [0, 1, 2, 3]
        assert rc.cluster.to_dict()["engines"]["sets"] == {
            "4000001234": {
                "state": "running",
                "pid": os.getpid(),
                "host": os.uname().nodename,
                "connection_file": str(place / "px" / "a" / "connection.json"),
                "n": 4,
                "engine_set_id": "4000001234",
            }
        }
    python = sys.executable
    assert calls(place) == [
        f"start --cluster-id a -n 4 --timeout 7 --python {python} --port 80",
        "stop --cluster-id a",
    ]
    assert (place / "px" / "a" / "log").exists()


def test_a_python_of_the_environment_wins(place, monkeypatch):
    monkeypatch.setenv("PXCLUSTER_PYTHON", "/bin/other")
    with ipp.Cluster(cluster_id="a"):
        assert calls(place) == ["start --cluster-id a --timeout 60"]


def test_a_cluster_without_a_name_leaves_no_directory(place):
    with ipp.Cluster(n=1) as rc:
        engines = rc.cluster.engine_set
        name = rc.cluster.cluster_id
        assert os.listdir(place / "px") == [name]
        assert engines.get_output() == f"log of {name}\n"
    assert os.listdir(place / "px") == []
    assert engines.get_output() == f"log of {name}\n"


def test_a_start_that_fails_leaves_the_log_that_it_names(place, monkeypatch):
    monkeypatch.setenv("FAILS", "it broke")
    cluster = ipp.Cluster(n=1)
    with pytest.raises(RuntimeError, match=r"^it broke$"):
        cluster.start_cluster_sync()
    assert (place / "px" / cluster.cluster_id / "log").exists()
    assert (cluster.controller, cluster.engines) == (None, {})


def test_a_cluster_that_nobody_can_connect_to_is_stopped(place, monkeypatch):
    monkeypatch.setenv("INFO", json.dumps(info_of(place / "nowhere", cluster_id="a")))
    cluster = ipp.Cluster(cluster_id="a")
    with pytest.raises(ConnectionRefusedError, match="no controller answers"), cluster:
        pass
    assert calls(place)[-1] == "stop --cluster-id a"
    assert cluster.controller is None


def test_messages(place, caplog):
    caplog.set_level(logging.INFO)
    cluster = ipp.Cluster(n=4, cluster_id="a").start_cluster_sync()
    cluster.signal_engines_sync("SIGINT")
    cluster.stop_cluster_sync()
    assert [record.message for record in caplog.records] == [
        "Starting 4 engines with <class 'pxcluster.running.MPIEngineSetLauncher'>",
        "Sending signal SIGINT to engine(s) 4000001234",
        "Stopping controller",
        "Stopping engine(s): 4000001234",
    ]
    assert {record.name for record in caplog.records} == {"pxcluster.cluster.a"}


def test_names(place, monkeypatch):
    assert ipp.Cluster().cluster_id != ipp.Cluster().cluster_id
    assert ipp.Cluster(cluster_id="").cluster_id == "default"
    monkeypatch.setenv("PXCLUSTER_CLUSTER_ID", "b")
    assert ipp.Cluster(cluster_id="").cluster_file == str(place / "px" / "b" / "connection.json")
    with pytest.raises(ValueError, match="not usable"):
        ipp.Cluster(cluster_id="../x")


def test_repr(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert repr(ipp.Cluster(cluster_id="a")) == "<Cluster(cluster_id='a', profile='default')>"
    assert repr(ipp.Cluster(cluster_id="a", profile="mpi")) == "<Cluster(cluster_id='a', profile='mpi')>"
    cluster = ipp.Cluster(cluster_id="a", profile_dir=str(place / "p"))
    assert repr(cluster) == "<Cluster(cluster_id='a', profile_dir='~/p')>"
    cluster.start_cluster_sync()
    running = "<Cluster(cluster_id='a', profile_dir='~/p', controller=<running>, engine_sets=['4000001234'])>"
    assert repr(cluster) == running
    cluster.stop_cluster_sync()


def test_every_argument_of_ipyparallel_is_taken():
    cluster = ipp.Cluster(
        n=2, engines="MPI", controller="local", controller_ip="*", controller_location="h", delay=0, load_profile=False,
        log_level=10, send_engines_connection_env=False, config=None, parent=None, profile="p",
    )  # fmt: skip
    assert (cluster.n, cluster.controller_ip, cluster.delay, cluster.log.level) == (2, "*", 0, 10)
    with pytest.raises(TypeError, match="unexpected keyword argument 'engine'"):
        ipp.Cluster(engine="mpi")
    with pytest.raises(TypeError, match="is a list of flags"):
        ipp.Cluster(controller_args="--port 80")


def test_every_coroutine_has_a_twin():
    names = [name for name, member in inspect.getmembers(ipp.Cluster) if inspect.iscoroutinefunction(member)]
    public = [name for name in names if not name.startswith("_")]
    assert len(public) == 13
    for name in public:
        twin = getattr(ipp.Cluster, f"{name}_sync")
        assert twin.__name__ == f"{name}_sync"
        assert not inspect.iscoroutinefunction(twin)


def test_what_mpi_cannot_says_what_to_do_instead(place):
    cluster = ipp.Cluster(cluster_id="a")
    for refused, instead in [
        (lambda: cluster.start_controller_sync(), r"start_cluster\(n\)"),
        (lambda: cluster.start_engines_sync(1, engine_set_id="x"), "do not give one"),
        (lambda: cluster.stop_engine_sync(3), r"rc.kill_engines\(3\)"),
        (lambda: cluster.restart_engine_sync(3), r"restart_engines\(\)"),
        (lambda: cluster.signal_engine_sync("SIGINT", 3), r"rc.send_signal\('SIGINT', 3\)"),
    ]:
        with pytest.raises(NotImplementedError, match=instead):
            refused()
    for refused in (cluster.connect_client_sync, cluster.restart_engines_sync, lambda: cluster.signal_engines_sync(2)):
        with pytest.raises(RuntimeError, match=r"not running: start_cluster\(n\) starts it"):
            refused()
    for wrong in (cluster.stop_engines_sync, cluster.restart_engines_sync):
        with pytest.raises(KeyError):
            wrong("nonsense")
    assert not (place / "calls").exists()


def test_files(place):
    published = publish(place, "b", engines=4, started=4e9)
    for cluster in (ipp.Cluster.from_file(cluster_id="b"), ipp.Cluster.from_file(published, log_level=10)):
        assert (cluster.cluster_id, list(cluster.engines), cluster.engine_set.n) == ("b", ["4000000000"], 4)
        assert cluster.cluster_file == str(published)
    cluster.write_cluster_file()
    cluster.update_cluster_file()
    assert json.loads(published.read_text())["started"] == 4e9
    with pytest.raises(RuntimeError, match="connection file"):
        cluster.remove_cluster_file()
    published.unlink()
    cluster.remove_cluster_file()
    assert (cluster.controller.state, cluster.engine_set.running) == ("after", False)
    with pytest.raises(FileNotFoundError, match="no cluster 'b' is running"):
        ipp.Cluster.from_file(cluster_id="b")


def test_no_file(place):
    cluster = ipp.Cluster(cluster_id="a", cluster_file="")
    cluster.start_cluster_sync()
    cluster.write_cluster_file()
    cluster.stop_cluster_sync()


def test_a_file_elsewhere_is_enough_to_find_a_cluster(place, monkeypatch):
    file = place / "written.json"
    cluster = ipp.Cluster(cluster_id="a", cluster_file=file, n=4)
    cluster.start_cluster_sync()
    monkeypatch.setenv("PXCLUSTER_DIR", str(place / "nowhere"))
    again = ipp.Cluster.from_file(file)
    assert (again.n, again.controller.state) == (4, "running")
    again.stop_cluster_sync()
    assert cluster.controller.state == "after"
    assert not file.exists()
    cluster.stop_cluster_sync()


def test_a_manager_skips_what_does_not_run_and_names_what_it_cannot_read(place, caplog):
    gone = subprocess.Popen(["true"])
    gone.wait()
    publish(place, "stale", pid=gone.pid)
    publish(place, "exposed", mode=0o640)
    publish(place, "later-version", protocol_version=9)
    publish(place, "good")
    publish(place, "elsewhere", host="another-host")
    manager = ipp.ClusterManager()
    assert list(manager.load_clusters(profile="any")) == ["default:elsewhere", "default:good"]
    assert [record.message.split(": ")[0].rpartition("/px/")[2] for record in caplog.records] == [
        "exposed/connection.json",
        "later-version/connection.json",
    ]
    found = manager.get_cluster("default:good")
    assert manager.load_clusters()["default:good"] is found
    (place / "px" / "good" / "connection.json").unlink()
    assert list(manager.load_clusters()) == ["default:elsewhere"]


def test_a_manager_keeps_what_it_makes(place):
    manager = ipp.ClusterManager()
    assert list(manager.load_clusters(init_default_clusters=True)) == ["default:default"]
    key, cluster = manager.new_cluster(cluster_id="a", n=2)
    assert key == "default:a"
    assert manager.get_cluster(key) is cluster
    with pytest.raises(KeyError, match="already exists"):
        manager.new_cluster(cluster_id="a")
    assert list(manager.load_clusters()) == ["default:default", "default:a"]
    manager.remove_cluster(key)
    for missing in (manager.get_cluster, manager.remove_cluster):
        with pytest.raises(KeyError):
            missing(key)


def test_the_program_is_found_beside_python_and_then_on_path(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "pxcluster").write_text("#!/bin/sh\n")
        (folder / "pxcluster").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setattr(program.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(other))
    assert program.locate() == str(own / "pxcluster")
    (own / "pxcluster").unlink()
    assert program.locate() == str(other / "pxcluster")
    (other / "pxcluster").unlink()
    with pytest.raises(FileNotFoundError, match=f"no program pxcluster in {own} or on PATH.*pip install"):
        program.locate()


@pytest.mark.parametrize(
    ("there", "ending", "acts"),
    [
        ("/run/mine.sock", "dies", True),
        ("/run/another.sock", "dies", False),
        (None, "dies", False),
        ("/run/mine.sock", "releases it", False),
    ],
)
def test_a_guard_stops_its_own_cluster_when_its_process_dies(tmp_path, there, ending, acts):
    if there is not None:
        (tmp_path / "connection.json").write_text(f'{{"socket": "{there}"}}')
    command = ["/bin/sh", "-c", 'touch "$PXCLUSTER_DIR/stopped"']
    guard = program.Guard(command, str(tmp_path), str(tmp_path / "connection.json"), '"/run/mine.sock"')
    if ending == "dies":
        guard._process.stdin.close()  # as the system does
        guard._process.wait(60)
    guard.release()
    guard.release()
    assert (tmp_path / "stopped").exists() == acts
