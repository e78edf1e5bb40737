"""What programs import from ipyparallel's module of this name."""

from __future__ import annotations

from .serialize import interactive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never

    from traitlets.config.configurable import MultipleInstanceError

__all__ = ["MultipleInstanceError", "bind_kernel", "interactive"]


def bind_kernel(**kwargs: Any) -> Never:
    """Attach a console to an engine: NotImplementedError, engines are no kernels."""
    raise NotImplementedError(
        "engines are no Jupyter kernels and no console can be attached to them: view.activate('0') registers %px0 and "
        "%autopx0 for a view, and with %autopx0 every cell runs on its engines"
    )


def __getattr__(name: str) -> Any:
    if name == "MultipleInstanceError":  # importing traitlets takes its time
        from traitlets.config.configurable import MultipleInstanceError

        return MultipleInstanceError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
