"""The namespace in which what is being loaded finds its globals."""

from __future__ import annotations

import sys
from _thread import _local  # the module threading is more than an engine needs to start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Loading(_local):
    namespace: dict[str, Any] | None = None


_loading = _Loading()


def given() -> dict[str, Any] | None:
    """The namespace that a :class:`within` has given in this thread, if any."""
    return _loading.namespace


def home() -> dict[str, Any]:
    """It, otherwise that of ``__main__``."""
    namespace = _loading.namespace
    return sys.modules["__main__"].__dict__ if namespace is None else namespace


class within:
    """What is loaded in the context uses `namespace`; None changes nothing."""

    def __init__(self, namespace: dict[str, Any] | None) -> None:
        self._namespace = namespace

    def __enter__(self) -> None:
        self._before = _loading.namespace
        if self._namespace is not None:
            _loading.namespace = self._namespace

    def __exit__(self, *_exc_info: object) -> None:
        _loading.namespace = self._before
