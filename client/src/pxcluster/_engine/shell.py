"""The engine's IPython shell, made when it is first needed; this module itself imports nothing of IPython."""

from __future__ import annotations

import sys

from .import_hooks import after_import
from .interrupts import deferred_interrupts
from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from .ipython_shell import EngineShell

_shell: EngineShell | None = None
_creating = False


def get() -> EngineShell:
    """The shell; the first call imports IPython and makes it. ImportError: this Python has no IPython."""
    global _shell, _creating
    if _shell is None:
        _creating = True
        python = sys.executable
        try:
            with deferred_interrupts():
                from .ipython_shell import make_shell

                _shell = make_shell()
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in ("IPython", "traitlets"):
                raise
            raise ImportError(
                f"engine {state.host.engine_id} cannot execute code, because its Python ({python}) has no IPython: "
                "pip install ipython there",
                name="IPython",
            ) from None
        finally:
            _creating = False
    return _shell


def execution_count() -> int:
    """The number of the last execute, which its reply carries; 0 before the first."""
    return 0 if _shell is None else _shell.execution_count - 1


def execute(code: str, silent: bool) -> dict[str, Any]:
    """Run a cell and return the body of the reply; raises what the cell raises."""
    shell = get()
    count = shell.execution_count
    return {"execution_count": count, "execute_result": shell.run_request(code, silent)}


def forget_names() -> None:
    """Before the user's names are removed: let go of cached outputs and histories."""
    if _shell is not None:
        _shell.forget()


def renew_names() -> None:
    """After the user's names were removed: put IPython's own back."""
    if _shell is not None:
        _shell.renew()


def watch_imports() -> None:
    """Make the shell when user code imports IPython by itself, so that display() and get_ipython() work there."""
    after_import("IPython", _on_import)


def _on_import(_module: ModuleType) -> None:
    if not _creating:
        get()
