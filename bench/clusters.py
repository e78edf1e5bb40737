"""What a system with an `ipyparallel.Client` must say about itself to be measured."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Cluster(Protocol):
    """How one system is started, found and stopped. `directory` is a temporary directory of one run."""

    #: What the table calls it.
    name: str
    #: What a client imports.
    module: str

    def environment(self, directory: Path) -> dict[str, str]:
        """Variables for the cluster and its clients that keep it apart from the user's own clusters."""

    def command(self, engines: int) -> list[str]:
        """The command that a user types."""

    def connection_file(self, directory: Path) -> Path:
        """What appears when clients may try to connect."""

    def stop(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        """Asks the cluster to end."""

    def controller(self, processes: Sequence[int]) -> list[int]:
        """Those of its processes that are the controller."""

    def engines(self, processes: Sequence[int]) -> list[int]:
        """Those of its processes that run the user's code."""
