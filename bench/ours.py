"""How a pxcluster is started, found and stopped."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import command_line, parent


class PxCluster:
    """The system that this repository is about."""

    name = "pxcluster"
    module = "pxcluster"

    def environment(self, directory: Path) -> dict[str, str]:
        """Connection file and sockets in the temporary directory."""
        return {"PXCLUSTER_DIR": str(directory / "pxcluster")}

    def command(self, engines: int) -> list[str]:
        """One rank more than engines: rank 0 is the controller."""
        return ["mpirun", "-n", str(engines + 1), "pxcluster"]

    def connection_file(self, directory: Path) -> Path:
        """Written when every engine is ready."""
        return directory / "pxcluster" / "default" / "connection.json"

    def stop(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        """The command of the launcher, or SIGTERM where the cluster does not hear it."""
        environment = {**os.environ, **self.environment(directory)}
        try:
            subprocess.run(["pxcluster", "stop", "--timeout", "5"], env=environment, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            process.terminate()

    def controller(self, processes: Sequence[int]) -> list[int]:
        """Both processes of rank 0: the controller and the one that waits for its end."""
        controller = int(self._status()["pid"])
        both = [controller, parent(controller)]
        line = command_line(controller)
        return [pid for pid in both if pid in processes and command_line(pid) == line]

    def engines(self, processes: Sequence[int]) -> list[int]:
        """The processes with the interpreters, without the ones that watch over them."""
        status = self._status()
        return [pid for pid in [int(engine["pid"]) for engine in status["engines"]] if pid in processes]

    def _status(self) -> dict[str, Any]:
        command = ["pxcluster", "status", "--json"]
        status: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return status
