"""Displayed values: the last expression of a cell goes into its reply, everything else to the runtime at once."""

from __future__ import annotations

import base64
import json
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher

from .state import state


def encoded(bundle: dict[str, Any]) -> dict[str, Any]:
    """A mime bundle in which bytes, such as images, have become base64 text."""
    return {
        mime: base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for mime, value in bundle.items()
    }


def publish(
    data: dict[str, Any], metadata: dict[str, Any] | None, transient: dict[str, Any] | None = None, update: bool = False
) -> None:
    """Hand a display to the runtime for the request in hand; without any request it goes nowhere."""
    if state.token is None:
        return
    message = {"data": encoded(data), "metadata": metadata or {}, "transient": transient or {}, "update": update}
    text = json.dumps(message, default=repr, skipkeys=True)
    state.host.output(state.token, state.task, "display", text.encode("ascii"))


class EngineDisplayHook(DisplayHook):
    """Keeps the displayed value of a cell in `outcome`, as {"data", "metadata"}."""

    outcome: dict[str, Any] | None = None

    def write_output_prompt(self) -> None:
        """The client writes the prompt."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Keep the value; one that was kept before, of the same cell, becomes a display."""
        if self.outcome is not None:
            publish(self.outcome["data"], self.outcome["metadata"])
        self.outcome = {"data": encoded(format_dict), "metadata": md_dict or {}}

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Not kept a second time."""

    def finish_displayhook(self) -> None:
        """Nothing was written that would need an end."""
        self._is_active = False


class EngineDisplayPublisher(DisplayPublisher):
    """display(): every mime type of the object, sent while the code runs."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_options: Any,
    ) -> None:
        """Hand the display over; `transient` holds its display_id, `update`: it replaces the one with the same id."""
        publish(data, metadata, transient, update)

    def clear_output(self, wait: bool = False) -> None:
        """Not possible: the client has shown what was sent."""
