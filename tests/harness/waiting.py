"""Waiting for a condition instead of for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds; far more than anything here takes, so that a slow machine does not fail.
PATIENCE = 60.0


def wait_for(
    condition: Callable[[], T], what: str | Callable[[], str], seconds: float = PATIENCE, pause: float = 0.01
) -> T:
    """The first true value of `condition`; AssertionError saying `what` did not come true in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} seconds: {what if isinstance(what, str) else what()}")
        time.sleep(pause)
    return value
