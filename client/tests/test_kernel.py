"""What the magics display in a Jupyter kernel: a real one, beside a fake controller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_controller import FakeController
from support import info_of

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

pytestmark = pytest.mark.filterwarnings("default")  # of Jupyter's own making

RED, NORMAL = "\x1b[0;31m", "\x1b[0m"

CELLS = [
    "import pxcluster as ipp\nrc = ipp.Client({info!r})\nrc.ids",
    "%px 0.55",
    "%%px\nprint(0)\nprint(1)",
    "%%px --no-stream\nprint('out'); print('err', file='stderr'); 'result'",
    "%%px\n1/0",
    "%%px --targets 0\n1/0",
    "%autopx",
    "b = 3\nb",
    "%autopx",
    "e = rc[0].execute('1+1', silent=False, block=True); e, e.get()",
    "with rc[:].sync_imports():\n    from os.path import join\n"
    "rc.load_balanced_view().map(lambda x: x, range(3)).get()",
    "%%px\ndisplay('x')",
    "rc.close()",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of every cell, as (type, content)."""
    directory = tmp_path_factory.mktemp("kernel")
    fake = FakeController(directory / "s")
    info = info_of(directory / "s")
    here = Path(__file__).parent
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c.replace("{info!r}", repr(info))) for c in CELLS]
    )
    environment = {**os.environ, "PYTHONPATH": f"{here.parent / 'src'}:{here}", "IPYTHONDIR": str(directory)}
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True)
    client.execute(env=environment)
    fake.close()
    found = []
    for cell in notebook.cells:
        shown = []
        for output in cell.outputs:
            if output.output_type == "stream":
                shown.append((output.name, output.text))
            elif output.output_type == "error":
                shown.append((output.ename, output.evalue))
            else:
                shown.append((output.output_type, output.data["text/plain"]))
        found.append(shown)
    return found


def test_results(outputs):
    assert outputs[0] == [("execute_result", "[0, 1, 2, 3]")]
    assert outputs[1] == [("display_data", f"{RED}Out[{n}:1]: {NORMAL}0.55") for n in range(4)]
    assert outputs[9] == [("execute_result", f"(<AsyncResult(execute): finished>, {RED}Out[0:7]: {NORMAL}2)")]


def test_streams_are_one_display_each(outputs):
    assert outputs[2] == [("display_data", f"[stdout:{n}] 0\n1\n") for n in range(4)]


def test_output_at_the_end(outputs):
    assert outputs[3][0] == ("stdout", "".join(f"[stdout:{n}] \nout\n" for n in range(4)))
    assert outputs[3][1] == ("stderr", "".join(f"[stderr:{n}] \nerr\n" for n in range(4)))
    assert outputs[3][2:] == [("display_data", f"{RED}Out[{n}:3]: {NORMAL}'result'") for n in range(4)]


def test_errors(outputs):
    (kind, text), error = outputs[4]
    assert kind == "stderr"
    assert [line for line in text.splitlines() if line.startswith("[")] == [f"[{n}:execute]" for n in range(4)]
    assert error == ("AlreadyDisplayedError", "4 errors")
    assert outputs[5] == [("RemoteError", "[0:execute] ZeroDivisionError: division by zero")]


def test_autopx(outputs):
    assert outputs[6] == [("stdout", "%autopx enabled\n")]
    assert [text.partition("]: ")[2] for _, text in outputs[7]] == [f"{NORMAL}3"] * 4
    assert outputs[8] == [("stdout", "%autopx disabled\n")]


def test_imports_and_maps(outputs):
    assert outputs[10] == [
        ("stdout", "importing join from os.path on engine(s)\n"),
        ("execute_result", "[0, 1, 2]"),
    ]


def test_displays(outputs):
    assert outputs[11] == [("display_data", text) for n in range(4) for text in (f"[output:{n}]", "x")]
