"""What engines display, in a real kernel: figures, tables and errors of every engine, where ipyparallel shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from harness.cluster import Cluster
from nbclient import NotebookClient

pytestmark = pytest.mark.timeout(300)

CELLS = {
    "start": "import pxcluster as ipp\nrc = ipp.Client()",
    "figure": "%%px\n%matplotlib inline\nfrom matplotlib import pyplot\n_ = pyplot.plot([1, 2])",
    "table": "%%px\nimport pandas\npandas.DataFrame({'engine': [1, 2]})",
    "error": "%%px\ndef fails(n):\n    return 1 / n\nfails(0)",
    "awaited": "await rc[:].apply_async(abs, -1)",
}


@pytest.fixture(scope="module")
def shown(shared_cluster: Any) -> Iterator[dict[str, list[Any]]]:
    """The outputs of each cell."""
    cluster: Cluster = shared_cluster.get()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    kernel = NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True)
    kernel.execute(env=dict(cluster.site.env), cwd=str(cluster.site.base))
    yield {name: cell["outputs"] for name, cell in zip(CELLS, notebook.cells, strict=True)}
    cluster.client()[:].clear(block=True)
    cluster.close_clients()


def engines_of(outputs: list[Any], mime: str) -> list[int]:
    """Engines whose displays have this type, in the order in which they are shown."""
    return [output["metadata"]["engine"] for output in outputs if mime in output.get("data", {})]


def test_every_engine_shows_its_figure(shown: dict[str, list[Any]]) -> None:
    assert sorted(engines_of(shown["figure"], "image/png")) == [0, 1, 2, 3]


def test_every_engine_shows_its_table_in_order(shown: dict[str, list[Any]]) -> None:
    assert engines_of(shown["table"], "text/html") == [0, 1, 2, 3]
    tables = [output["data"] for output in shown["table"] if "text/html" in output.get("data", {})]
    assert all("<table" in table["text/html"] and "Out[" in table["text/plain"] for table in tables)


def test_every_engine_shows_its_error_once_with_the_cell_it_comes_from(shown: dict[str, list[Any]]) -> None:
    *displays, last = shown["error"]
    text = re.sub(r"\x1b\[[\d;]*m", "", "".join(output.get("text", "") for output in displays))
    for engine in range(4):
        assert text.count(f"[{engine}:execute]") == 1
    assert text.count("ZeroDivisionError: division by zero") == 4
    assert len(re.findall(r"^Cell In\[\d+\], line 2, in fails\(n\)$", text, re.MULTILINE)) == 4
    assert "pxcluster" not in text
    assert (last["output_type"], last["ename"], last["evalue"]) == ("error", "AlreadyDisplayedError", "4 errors")


def test_results_are_awaited_in_a_cell(shown: dict[str, list[Any]]) -> None:
    assert [output["data"]["text/plain"] for output in shown["awaited"]] == ["[1, 1, 1, 1]"]
