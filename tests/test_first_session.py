"""The first session of a new user, in a real kernel, output by output."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator

import nbformat
import pytest
from harness.cluster import Cluster, Site
from harness.first_session import EXPECTED, Expected, InAnyOrder, normalised
from harness.notebooks import EXAMPLES, Cell, Output, run_notebook

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def session() -> Iterator[list[Cell]]:
    """The notebook's cells, run once on a cluster of its own: execution counts begin at 1."""
    site = Site()
    cluster = Cluster(site)
    try:
        cluster.start()
        yield run_notebook("first_session.ipynb", site.env)
        cluster.stop()
        site.wait_until_nothing_remains()
    finally:
        cluster.kill()
        site.remove()


def cell(session: list[Cell], number: int) -> Cell:
    return session[number - 1]


def seen(outputs: list[Output]) -> list[Output]:
    return [Output(output.kind, normalised(output.text)) for output in outputs]


def in_order(outputs: list[Output], expected: Expected) -> list[Output]:
    """`expected` as a list, with the freely ordered parts in the order in which they came if they did come."""
    wanted: list[Output] = []
    for each in expected:
        if isinstance(each, InAnyOrder):
            came = outputs[len(wanted) : len(wanted) + len(each.outputs)]
            same = sorted(came, key=str) == sorted(each.outputs, key=str)
            wanted += came if same else each.outputs
        else:
            wanted.append(each)
    return wanted


def test_the_notebook_is_saved_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "first_session.ipynb", 4)
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert len(code) == len(EXPECTED)
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.parametrize("number", [number for number in EXPECTED if number not in (12, 18)])
def test_cell(session: list[Cell], number: int) -> None:
    outputs = seen(cell(session, number).outputs)
    assert outputs == in_order(outputs, EXPECTED[number]), cell(session, number).source


def test_cell_12_gives_every_number_in_any_order(session: list[Cell]) -> None:
    first, result = cell(session, 12).outputs
    numbers = sorted(int(number) for number in re.findall(r"\d+", result.text))
    assert [first, Output("result", str(numbers))] == EXPECTED[12]


def test_cell_17_pulls_what_cell_16_printed(session: list[Cell]) -> None:
    printed = {
        match["engine"]: match["value"]
        for output in cell(session, 16).outputs
        if (match := re.fullmatch(r"\[stdout:(?P<engine>\d)\] (?P<value>0\.\S+|\d\S*e-\d+)\n", output.text))
    }
    pulled = re.split(r",\s+", cell(session, 17).outputs[0].text.strip("[]"))
    assert pulled == [printed[str(engine)] for engine in range(4)]


def test_cell_18_raises_on_every_engine_because_clear_came_first(session: list[Cell]) -> None:
    stderr, *rest = cell(session, 18).outputs
    assert seen(rest) == EXPECTED[18]
    assert stderr.kind == "stderr"
    text = re.sub(r"\x1b\[[\d;]*m", "", stderr.text)
    assert re.findall(r"^\[(\d):execute\]", text, re.MULTILINE) == ["0", "1", "2", "3"]
    assert text.count("NameError: name 'my_var' is not defined") == 4
    assert text.count("Cell In[7], line 1\n----> 1 print(my_var)") == 4
    assert "pxcluster" not in text


def test_r_runs_on_every_engine(new_cluster: Callable[..., Cluster]) -> None:
    if importlib.util.find_spec("rpy2") is None or shutil.which("R") is None:
        pytest.skip("R or rpy2 is not installed here")
    cluster = new_cluster(4)
    *_, last = run_notebook("r_on_engines.ipynb", cluster.site.env)
    texts = [output.text for output in last.outputs]
    assert [text for text in texts if text.startswith("[output:")] == [f"[output:{engine}]" for engine in range(4)]
    assert sum("[1] 12.5" in text for text in texts) == 4
