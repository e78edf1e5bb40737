"""Data that code on engines shows while it runs: ``AsyncResult.data`` of the call it belongs to."""

from __future__ import annotations

from typing import Any

from . import serialize

__all__ = ["publish_data"]


def publish_data(data: dict[str, Any]) -> None:
    """Send `data`, values by name, to who waits for the call or task in hand; later values replace earlier ones.

    For what is looked at while it changes: large arrays belong into results, or are pulled. Raises RuntimeError
    anywhere but in code that runs on an engine, TypeError without a dictionary, and SerializationError if a value
    cannot travel.
    """
    from ._engine.state import state

    if not isinstance(data, dict):
        raise TypeError(f"publish_data() takes a dict of values by name, not {type(data).__name__}")
    if state.runtime is None or state.token is None:
        raise RuntimeError("publish_data() is for code that runs on an engine: apply, execute or %px it there")
    state.host.output(state.token, state.task, "data", serialize.dumps_task(data))
