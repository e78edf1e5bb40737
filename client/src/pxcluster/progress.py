"""Progress bars: a widget in a notebook, text elsewhere, nothing when ``IPP_NONINTERACTIVE`` is set."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def noninteractive() -> bool:
    """Whether the user wants no bars and no live output."""
    return os.environ.get("IPP_NONINTERACTIVE", "") not in ("", "0")


def progress(widget: bool | None = None, **kwargs: Any) -> Any:
    """A tqdm bar; `widget` None: a widget if this is a kernel with ipywidgets. `kwargs` are tqdm's."""
    if widget is None:
        widget = _widgets_work()
    if widget:
        from tqdm.notebook import tqdm_notebook

        return tqdm_notebook(**kwargs)
    from tqdm.std import tqdm

    kwargs.setdefault("file", sys.stdout)
    return tqdm(**kwargs)


def _widgets_work() -> bool:
    from importlib.util import find_spec

    from .outputs import in_kernel

    return in_kernel() and find_spec("ipywidgets") is not None
