"""Comms of Jupyter, such as those of ipywidgets, in code on an engine: they reach the notebook of the client.

The package ``comm`` has a place for this: its ``create_comm`` and ``get_comm_manager`` are for whoever runs the code.
"""

from __future__ import annotations

import sys

from ..serialize import dumps_task
from .import_hooks import after_import
from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Literal

_manager: Any = None


def install() -> None:
    """Watch for ``import comm`` from now on, and for who takes its place."""
    after_import("comm", _replace)
    after_import("ipykernel.ipkernel", lambda _: _replace(sys.modules["comm"]))


def _replace(comm: ModuleType) -> None:
    global _manager
    import json

    from comm.base_comm import BaseComm, CommManager

    class EngineComm(BaseComm):
        """One end of a comm; the other one is in the frontend of the client's kernel."""

        def publish_msg(
            self,
            msg_type: str,
            data: dict[str, Any] | None = None,
            metadata: dict[str, Any] | None = None,
            buffers: list[Any] | None = None,
            **keys: Any,
        ) -> None:
            """Send a message to the other end; without any request it goes nowhere."""
            if state.token is None:
                return
            content = json.dumps({"comm_id": self.comm_id, "data": data or {}, **keys}, default=str)
            copies = [bytes(buffer) for buffer in buffers or ()]
            message = (msg_type, content, json.dumps(metadata or {}, default=str), copies)
            state.host.output(state.token, state.task, "comm", dumps_task(message))

    manager = _manager = _manager or CommManager()
    comm.create_comm = EngineComm  # type: ignore[attr-defined]
    comm.get_comm_manager = lambda: manager  # type: ignore[attr-defined]


def deliver(
    msg_type: Literal["comm_msg", "comm_close"],
    content: dict[str, Any],
    metadata: dict[str, Any],
    buffers: list[bytes],
) -> None:
    """A message has come from the other end: the callbacks of its comm run here."""
    header = {"msg_type": msg_type}
    message = {"header": header, **header, "content": content, "metadata": metadata, "buffers": buffers}
    getattr(_manager, msg_type)(None, "", {**message, "parent_header": {}})
