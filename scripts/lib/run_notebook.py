"""Runs a notebook in a fresh kernel and prints its cells and their outputs as text, each as soon as it is done.

A cell that raises ends the run with exit code 1, unless it is tagged `raises-exception`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import read as read_notebook

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def output_text(output: dict[str, Any]) -> str:
    """What a terminal would show of one output."""
    match output["output_type"]:
        case "stream":
            text = str(output["text"])
        case "error":
            text = "\n".join(output["traceback"])
        case _:
            text = str(output["data"].get("text/plain", f"<{', '.join(output['data'])}>"))
    return text if sys.stdout.isatty() else ESCAPES.sub("", text)


def show(cell: dict[str, Any], **_: object) -> None:
    """Prints a cell that has been executed."""
    if cell["cell_type"] != "code":
        return
    prompt = f"In [{cell['execution_count']}]: "
    indent = "\n" + "...: ".rjust(len(prompt))
    print(prompt + indent.join(cell["source"].splitlines()))
    for output in cell["outputs"]:
        print(output_text(output).rstrip("\n"))
    print(flush=True)


def main(path: Path) -> int:
    """Runs the notebook at `path`."""
    notebook = read_notebook(path, 4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": path.parent}},
        on_cell_executed=show,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{path.name}: a cell failed: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    cells = sum(cell["cell_type"] == "code" for cell in notebook.cells)
    print(f"{path.name}: {cells} cells ran")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
