"""Widgets of code on engines, in a real kernel: they are shown in the client's notebook, and clicks go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
from harness.cluster import Cluster
from harness.notebooks import running_kernel
from jupyter_client.blocking.client import BlockingKernelClient
from nbclient import NotebookClient

pytestmark = pytest.mark.timeout(300)

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
START = "import pxcluster as ipp\nrc = ipp.Client()\ndv = rc[:]\ndv.scatter('rank', rc.ids, flatten=True, block=True)"
PROGRESS = """%%px
import ipywidgets
from IPython.display import display
bar = ipywidgets.IntProgress(max=3, description=f"rank {rank}")
seen = []
bar.observe(lambda change: seen.append(change.new), "value")
display(bar)
for _ in range(3):
    bar.value += 1
bar.bar_style = "success"
"""
BUTTON = """%%px --targets 1
import ipywidgets
from IPython.display import display
button, count = ipywidgets.Button(description="step"), ipywidgets.IntText(description="count")
pixel = ipywidgets.Image(value=bytes([1, 2, 255]))

def step(_):
    count.value += 1
    pixel.value = bytes(reversed(pixel.value))

button.on_click(step)
display(ipywidgets.HBox([button, count, pixel]))
"""


@pytest.fixture
def cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, on which kernels leave nothing."""
    yield cluster
    cluster.client()[:].clear(block=True)


def test_each_engine_has_a_progress_bar_in_the_notebook(cluster: Cluster) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in (START, PROGRESS, "dv['seen']")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(
        env=dict(cluster.site.env), cwd=str(cluster.site.base)
    )
    shown = [output["data"][VIEW]["model_id"] for output in notebook.cells[1]["outputs"] if VIEW in output["data"]]
    models = notebook["metadata"]["widgets"][STATE]["state"]
    bars = [models[model]["state"] for model in shown]
    assert sorted(bar["description"] for bar in bars) == [f"rank {engine}" for engine in range(4)]
    assert {(models[model]["model_name"], models[model]["model_module"]) for model in shown} == {
        ("IntProgressModel", "@jupyter-widgets/controls")
    }
    assert [(bar["value"], bar["max"], bar["bar_style"]) for bar in bars] == [(3, 3, "success")] * 4
    assert notebook.cells[2]["outputs"][0]["data"]["text/plain"] == str([[1, 2, 3]] * 4)


class Frontend:
    """What a notebook in a browser would see and do."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.seen: list[dict[str, Any]] = []

    def run(self, code: str) -> None:
        reply = self.client.execute_interactive(code, timeout=120, output_hook=self.seen.append, allow_stdin=False)
        assert reply["content"]["status"] == "ok", reply["content"]

    def wait_for(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message, seen already or to come, that is so."""
        deadline = time.monotonic() + 120
        while True:
            for message in self.seen:
                if found(message):
                    return message
            self.seen = [self.client.get_iopub_msg(timeout=deadline - time.monotonic())]

    def model(self, name: str) -> str:
        """The comm of the widget that was opened with this name of its model."""
        opened = self.wait_for(
            lambda message: (
                message["msg_type"] == "comm_open" and message["content"]["data"]["state"].get("_model_name") == name
            )
        )
        return str(opened["content"]["comm_id"])

    def send(self, comm: str, data: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        content = {"comm_id": comm, "data": data}
        message = self.client.session.msg("comm_msg", content)
        message["buffers"] = buffers or []
        self.client.shell_channel.send(message)

    def wait_for_update(self, comm: str, **state: Any) -> dict[str, Any]:
        """The update of a widget's state to these values."""
        return self.wait_for(
            lambda message: (
                message["msg_type"] == "comm_msg"
                and message["content"]["comm_id"] == comm
                and message["content"]["data"].get("state", {}).items() >= state.items()
            )
        )


def test_a_button_of_an_engine_is_clicked_in_the_notebook(cluster: Cluster) -> None:
    with running_kernel(cluster.site.env) as (_, client):
        frontend = Frontend(client)
        frontend.run(START)
        frontend.run(BUTTON)
        seen = list(frontend.seen)
        button, count, pixel = (frontend.model(f"{name}Model") for name in ("Button", "IntText", "Image"))
        frontend.send(button, {"method": "custom", "content": {"event": "click"}})
        frontend.wait_for_update(count, value=1)
        frontend.seen = seen
        frontend.send(count, {"method": "update", "state": {"value": 41}, "buffer_paths": []})
        frontend.send(button, {"method": "custom", "content": {"event": "click"}})
        frontend.wait_for_update(count, value=42)
        frontend.send(pixel, {"method": "update", "state": {}, "buffer_paths": [["value"]]}, [bytes([7, 8])])
        frontend.run("assert rc[1]['(count.value, pixel.value)'] == (42, bytes([7, 8]))")
        frontend.run("assert rc.hub_history()[-5:] == rc.history[-5:]")  # clicks are no calls of the user
        frontend.run("%%px --targets 1\nbutton.close()")
        frontend.wait_for(
            lambda message: message["msg_type"] == "comm_close" and message["content"]["comm_id"] == button
        )
        frontend.run(f"assert {button!r} not in get_ipython().kernel.comm_manager.comms")


def test_without_a_notebook_a_widget_is_nobodys(cluster: Cluster) -> None:
    view = cluster.client()[:]
    view.execute("import ipywidgets; quiet = ipywidgets.IntProgress(); quiet.value = 4", block=True).get()
    assert view["quiet.value"] == [4] * 4
