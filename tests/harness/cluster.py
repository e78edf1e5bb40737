"""A real cluster: mpirun, the controller, the engines, all of its files in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pxcluster import Client

from .processes import SHARED_MEMORY, Process, abandoned_shared_memory, processes_with, shared_memory
from .waiting import wait_for

PREFIX = Path(sys.prefix)

#: Open MPI refuses root and more ranks than cores unless told; other MPIs do not read these.
_OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


def program(name: str) -> str:
    """A program of the active environment, else of PATH."""
    own = PREFIX / "bin" / name
    path = str(own) if own.exists() else shutil.which(name)
    assert path, f"there is no {name} in {PREFIX / 'bin'} or on PATH: run the tests with scripts/test"
    return path


class Site:
    """A place for clusters: the directory of the connection files, the one of the sockets, the environment."""

    def __init__(self, env: Mapping[str, str | None] | None = None, folder: Path | None = None) -> None:
        # Not pytest's directory: the path of a Unix socket may have 107 bytes only.
        self.base = Path(tempfile.mkdtemp(prefix="px-test-", dir=folder))
        self.directory = self.base / "clusters"
        self.runtime = self.base / "run"
        for path in (self.directory, self.runtime):
            path.mkdir(mode=0o700)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PXCLUSTER_")}
        self.env |= {name: self.env.get(name, value) for name, value in _OPEN_MPI.items()}
        self.env["PATH"] = f"{PREFIX / 'bin'}{os.pathsep}{self.env.get('PATH', os.defpath)}"
        if sys.prefix != sys.base_prefix:
            self.env["VIRTUAL_ENV"] = sys.prefix
        self.env |= {"PXCLUSTER_DIR": str(self.directory), "XDG_RUNTIME_DIR": str(self.runtime)}
        self.env |= {"IPYTHONDIR": str(self.base / "ipython"), "JUPYTER_RUNTIME_DIR": str(self.base / "jupyter")}
        for name, value in (env or {}).items():
            self.env.pop(name, None)
            if value is not None:
                self.env[name] = value
        self._memory = shared_memory()

    def run(self, *command: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment to its end; never raises for its exit code."""
        arguments = [program(command[0]), *command[1:]]
        options = {"stdin": subprocess.DEVNULL, "env": self.env, "cwd": self.base} | options
        return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False, **options)

    def processes(self) -> list[Process]:
        """Everything that was started here and still runs."""
        return processes_with("PXCLUSTER_DIR", str(self.directory))

    def files(self) -> list[str]:
        """What clusters have on disk here; the log of `pxcluster start` stays for its reader."""
        paths = (path for top in (self.directory, self.runtime) for path in top.rglob("*") if not path.is_dir())
        return sorted(str(path.relative_to(self.base)) for path in paths if path.name != "log")

    def wait_until_nothing_remains(self) -> None:
        """No process, no socket, no connection file, no shared memory."""

        def remains() -> list[str]:
            memory = sorted(f"/dev/shm/{name}" for name in abandoned_shared_memory(self._memory))
            return [*map(str, self.processes()), *self.files(), *memory]

        wait_for(lambda: not remains(), lambda: f"these should be gone: {remains()}", 30)

    def remove_shared_memory_of_open_mpi(self) -> None:
        """What Open MPI's own mpirun would have removed, had it not been killed."""
        wait_for(lambda: not self.processes(), lambda: f"these end: {self.processes()}")
        for name in abandoned_shared_memory(self._memory):
            if name.startswith(("vader_segment.", "sm_segment.")):
                (SHARED_MEMORY / name).unlink()

    def remove(self) -> None:
        """Kills what still runs and removes the directory."""

        def killed() -> bool:
            left = self.processes()
            for process in left:
                process.kill()
            return not left

        wait_for(killed, "processes end that were killed")
        shutil.rmtree(self.base)


class Cluster:
    """`mpirun -n N+1 pxcluster` at a site, or another launcher with options of its own, which takes ``-n``."""

    def __init__(
        self,
        site: Site,
        engines: int = 4,
        *flags: str,
        cluster_id: str = "default",
        launcher: Sequence[str] = ("mpirun",),
    ) -> None:
        self.site = site
        self._launcher = launcher
        self.engines = engines
        self.cluster_id = cluster_id
        self.connection_file = site.directory / cluster_id / "connection.json"
        self.mpirun: subprocess.Popen[bytes] | None = None
        self._flags = [*flags, *([] if cluster_id == "default" else ["--cluster-id", cluster_id])]
        self._clients: list[Client] = []
        descriptor, name = tempfile.mkstemp(prefix=f"{cluster_id}-", suffix=".txt", dir=site.base)
        os.close(descriptor)
        self._log = Path(name)
        self._stale = b""

    def launch(self) -> Cluster:
        """Starts mpirun and does not wait."""
        self._stale = self._published()
        launcher, *options = self._launcher
        command = [program(launcher), *options, "-n", str(self.engines + 1), program("pxcluster"), *self._flags]
        with self._log.open("wb") as log:
            self.mpirun = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.site.env,
                cwd=self.site.base,
                start_new_session=True,
            )
        return self

    def start(self) -> Cluster:
        """Starts mpirun and waits until every engine is ready."""
        self.launch()
        wait_for(
            lambda: self._published() not in (b"", self._stale) or not self.is_running(),
            lambda: f"the cluster is ready; it printed: {self.log()}",
            120,
        )
        assert self.is_running(), f"the cluster did not start: {self.log()}"
        return self

    def _published(self) -> bytes:
        return self.connection_file.read_bytes() if self.connection_file.exists() else b""

    def is_running(self) -> bool:
        """Whether mpirun runs."""
        return self.mpirun is not None and self.mpirun.poll() is None

    def log(self) -> str:
        """What mpirun and the ranks have printed."""
        return self._log.read_text(errors="replace")

    def connection(self) -> dict[str, Any]:
        """The connection file."""
        content: dict[str, Any] = json.loads(self.connection_file.read_text())
        return content

    def client(self, **options: Any) -> Client:
        """A client that is closed with the cluster; by default on the connection file of this cluster."""
        client = Client(**({"connection_info": str(self.connection_file), "timeout": 30} | options))
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Closes every client made here."""
        while self._clients:
            with suppress(OSError):
                self._clients.pop().close()

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pxcluster NAME` for this cluster."""
        return self.site.run("pxcluster", name, "--cluster-id", self.cluster_id, *arguments)

    def signal(self, signum: signal.Signals) -> None:
        """A signal to mpirun alone."""
        assert self.mpirun is not None
        self.mpirun.send_signal(signum)

    def wait_ended(self) -> int:
        """Waits for the end of mpirun; its exit code."""
        assert self.mpirun is not None
        return self.mpirun.wait(60)

    def stop(self) -> None:
        """The ordinary end."""
        self.close_clients()
        if self.is_running():
            stopped = self.command("stop")
            assert stopped.returncode == 0, stopped.stderr
            self.wait_ended()

    def kill(self) -> None:
        """The end of a cluster that a test has left in whatever state."""
        if self.mpirun is not None:
            if self.is_running():
                os.killpg(self.mpirun.pid, signal.SIGKILL)
            self.mpirun.wait(60)
        with suppress(AssertionError):
            self.close_clients()


@contextmanager
def running_alone(engines: int, *flags: str) -> Iterator[Cluster]:
    """A cluster in a place of its own, which must be clean at the end."""
    site = Site()
    cluster = Cluster(site, engines, *flags)
    try:
        yield cluster.start()
        cluster.stop()
        site.wait_until_nothing_remains()
    finally:
        cluster.kill()
        site.remove()
