"""A cluster that runs, as its connection file says, and what a Cluster holds of it: the controller and the engines."""

from __future__ import annotations

import os
import time

from . import connection, stale
from .controlrequest import signum_of
from .error import VersionMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Of a log so many bytes are read, those at its end.
_LOG_BYTES = 1 << 20


class Run:
    """One run of a cluster, from the moment at which its connection file was there."""

    def __init__(self, path: str, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self._ended = False
        self._output: str | None = None

    @classmethod
    def find(cls, path: str) -> Run | None:
        """The run whose connection file is at `path`; None if there is none. OSError, ValueError, VersionMismatch."""
        try:
            run = cls(path, connection.read(path))
        except FileNotFoundError:
            return None
        return run if run.is_alive() else None

    @property
    def started(self) -> int:
        """When it was ready, Unix seconds."""
        return int(self.info.get("started", 0))

    def is_published(self) -> bool:
        """Whether its connection file is there, and is not that of a later run."""
        try:
            return bool(connection.read(self.path)["key"] == self.info["key"])
        except (FileNotFoundError, ValueError, VersionMismatch):
            return False
        except OSError:
            return True  # the file system cannot tell at the moment

    def is_alive(self) -> bool:
        """Whether it runs, as far as that can be seen from here without asking the controller."""
        if not self._ended:
            self._ended = stale.gone_here(self.info) is not None or not self.is_published()
        return not self._ended

    def output(self) -> str:
        """What mpirun and the ranks have printed, if ``pxcluster start`` has started them: the last MiB of the log."""
        if self._output is not None:
            return self._output
        try:
            with open(os.path.join(os.path.dirname(self.path), "log"), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def remove_log(self) -> None:
        """Keep the log's text and remove the file, and the directory if nothing else is there."""
        self._output = self.output()
        remove_log(os.path.dirname(self.path), patience=2)

    def signal(self, sig: int | str) -> None:
        """Send a signal to the user code of all engines; it has arrived when this returns. OSError, ValueError."""
        from .session import Session

        shown = connection.shorten(self.path)
        session = Session(lambda timeout: connection.connect(self.info, shown, timeout), self.info["key"], 10)
        try:
            session.request({"type": "signal", "id": 0, "signum": signum_of(sig), "targets": None})
        finally:
            session.close()


def remove_log(directory: str, patience: float = 0) -> None:
    """Remove the log of a cluster that has ended, and the cluster's directory unless somebody else has files there.

    `patience`: seconds that rank 0 may take to remove its own, after mpirun has ended.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            os.remove(os.path.join(directory, "log"))
        except FileNotFoundError:
            pass
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= deadline:
                return
            time.sleep(0.02)


class _Part:
    """Controller or engines: two views of one MPI program."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def state(self) -> str:
        """``"running"`` or ``"after"``."""
        return "running" if self._run.is_alive() else "after"

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._run.is_alive()

    def get_output(self, remove: bool = False) -> str:
        """What mpirun and all ranks have printed, if ``pxcluster start`` or a Cluster has started them: at most 1 MiB.

        Python's own output comes to the clients instead. `remove` has no effect.
        """
        return self._run.output()

    def to_dict(self) -> dict[str, Any]:
        """What can be written down of it; nothing secret."""
        info = self._run.info
        return {"state": self.state, "pid": info["pid"], "host": info["host"], "connection_file": self._run.path}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of cluster {self._run.info['cluster_id']!r}: {self.state}>"


class MPIControllerLauncher(_Part):
    """The controller: rank 0."""

    @property
    def pid(self) -> int:
        """Its process id on :attr:`host`."""
        return int(self._run.info["pid"])

    @property
    def host(self) -> str:
        """The name of its host."""
        return str(self._run.info["host"])

    def get_connection_info(self) -> dict[str, Any]:
        """``{"client": …}``: what Client takes. It has the key: whoever knows it can run code as you."""
        return {"client": dict(self._run.info)}


class MPIEngineSetLauncher(_Part):
    """The engines: the ranks from 1."""

    @property
    def n(self) -> int:
        """How many engines there were at the start."""
        return int(self._run.info.get("engines", 0))

    @property
    def engine_set_id(self) -> str:
        """The moment at which they were ready, Unix seconds."""
        return str(self._run.started)

    def signal(self, sig: int | str) -> None:
        """Send a signal, by number or name, to the engines' user code; SIGINT interrupts it."""
        self._run.signal(sig)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "n": self.n, "engine_set_id": self.engine_set_id}
