"""Comms of Jupyter that code on engines opens, such as those of ipywidgets, between them and this kernel's frontend."""

from __future__ import annotations

import json
from functools import partial

from . import serialize
from .error import IPythonError
from .requests import DirectRequest
from .shared import submit_unlisted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .frames import Bytes
    from .session import Session


class Comms:
    """Hands on what engines send, and what the frontend answers. Outside a kernel comms have no other end."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, engine: int, message: Bytes) -> None:
        """An engine has sent a message on a comm. Whatever goes wrong is the kernel's to log."""
        from .outputs import shell

        kernel = getattr(shell(), "kernel", None)
        if kernel is None:
            return
        try:
            msg_type, text, metadata, buffers = serialize.loads_task(message)
            content = json.loads(text)
            if msg_type == "comm_open":
                self._open(kernel, engine, content)
            elif msg_type == "comm_close":
                _forget(kernel, content["comm_id"])
            kernel.session.send(
                kernel.iopub_socket,
                msg_type,
                content,
                metadata=json.loads(metadata),
                parent=kernel.get_parent("shell"),
                ident=f"comm-{content['comm_id']}".encode("ascii"),
                buffers=buffers,
            )
        except Exception:
            kernel.log.exception("pxcluster: a comm of engine %s cannot be relayed", engine)

    def _open(self, kernel: Any, engine: int, content: dict[str, Any]) -> None:
        """Make the kernel know the comm, so that it hands on what the frontend answers."""
        from comm import create_comm

        proxy = create_comm(comm_id=content["comm_id"], primary=False, target_name=content["target_name"])
        proxy.on_msg(partial(self._answer, engine))
        proxy.on_close(partial(self._answer, engine))
        kernel.comm_manager.register_comm(proxy)

    def _answer(self, engine: int, message: dict[str, Any]) -> None:
        """The frontend has sent a message: its turn on the engine comes after what was asked of that before."""
        from ._engine import comms

        buffers = [bytes(buffer) for buffer in message.get("buffers") or ()]
        call = message["header"]["msg_type"], message["content"], message.get("metadata") or {}, buffers
        try:
            submit_unlisted(
                self._session, DirectRequest("comm", "apply", [engine]), serialize.dumps((comms.deliver, call, {}))
            )
        except IPythonError:
            pass  # the engine or the cluster is gone, and with it the other end


def _forget(kernel: Any, comm_id: str) -> None:
    proxy = kernel.comm_manager.comms.get(comm_id)
    if proxy is not None:
        proxy._closed = True  # by the other end: nothing is to be said
        kernel.comm_manager.unregister_comm(proxy)
