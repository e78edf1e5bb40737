"""Runs a notebook in a real kernel and tells its outputs in a form that can be compared."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

_PROGRESS = re.compile(r"\r?[^\r\n]*%\|[^\r\n]*(tasks|engine)[^\r\n]*[\r\n]?")


@dataclass(frozen=True)
class Output:
    """One output of a cell: `kind` is result, display, stdout, stderr or error; errors have "ename | evalue"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Cell:
    """A code cell that has run."""

    source: str
    outputs: list[Output]


@contextmanager
def running_kernel(env: Mapping[str, str]) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel with these variables, killed at the end."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=dict(env))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run_notebook(name: str, env: Mapping[str, str]) -> list[Cell]:
    """The code cells of examples/`name` with what they show; fails at a cell that must not raise and does."""
    notebook = nbformat.read(EXAMPLES / name, 4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    assert client.create_kernel_manager().kernel_spec.argv[0] in (sys.executable, "python")
    client.execute(env=dict(env), cwd=env["PXCLUSTER_DIR"])
    return [
        Cell(cell["source"], [output for each in cell["outputs"] for output in _output(each)])
        for cell in notebook.cells
        if cell["cell_type"] == "code"
    ]


def _output(output: dict[str, Any]) -> list[Output]:
    """An output; none for a progress bar, which depends on the machine's speed."""
    match output["output_type"]:
        case "stream":
            made = Output(output["name"], _PROGRESS.sub("", output["text"]))
            return [made] if made.text.strip() else []
        case "error":
            return [Output("error", f"{output['ename']} | {output['evalue']}")]
        case "execute_result":
            return [Output("result", output["data"]["text/plain"])]
        case _:
            text = output["data"].get("text/plain", "")
            bar = "application/vnd.jupyter.widget-view+json" in output["data"] or _PROGRESS.fullmatch(text)
            return [] if bar else [Output("display", text)]


def run_cell(client: BlockingKernelClient, code: str) -> tuple[str, str]:
    """The status of a cell and all text that it has shown."""
    shown: list[str] = []

    def keep(message: dict[str, dict[str, object]]) -> None:
        content = message["content"]
        shown.append(str(content.get("text") or content.get("data") or content.get("evalue") or ""))

    reply = client.execute_interactive(code, timeout=60, output_hook=keep, allow_stdin=False)
    return reply["content"]["status"], "".join(shown)
