"""How a cluster of ipyparallel is started with MPI engines, found and stopped; all settings are its defaults."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from measure import command_line
from processes import interrupt


class IPyParallel:
    """ipyparallel with `ipcluster`."""

    name = "ipyparallel"
    module = "ipyparallel"

    def environment(self, directory: Path) -> dict[str, str]:
        """Profiles in the temporary directory."""
        return {"IPYTHONDIR": str(directory / "ipython")}

    def command(self, engines: int) -> list[str]:
        """Its engines are ranks of an mpirun of their own."""
        return ["ipcluster", "start", "-n", str(engines), "--engines=mpi"]

    def connection_file(self, directory: Path) -> Path:
        """Written when the controller listens, before engines register."""
        return directory / "ipython" / "profile_default" / "security" / "ipcontroller-client.json"

    def stop(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        """What a user does in the terminal."""
        interrupt(process)

    def controller(self, processes: Sequence[int]) -> list[int]:
        """The hub and its schedulers."""
        return [pid for pid in processes if command_line(pid).endswith("-m ipyparallel.controller")]

    def engines(self, processes: Sequence[int]) -> list[int]:
        """The engines without their nannies and their mpirun."""
        lines = {pid: command_line(pid) for pid in processes}
        return [
            pid for pid, line in lines.items() if line.endswith("-m ipyparallel.engine --mpi") and "-n " not in line
        ]
