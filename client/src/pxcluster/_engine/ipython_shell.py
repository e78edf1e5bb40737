"""IPython's InteractiveShell for an engine: no terminal, no history file, no profile folder."""

from __future__ import annotations

import os
import sys
import warnings
import zlib
from typing import Any

from IPython.core.compilerop import CachingCompiler
from IPython.core.interactiveshell import InteractiveShell
from IPython.paths import get_ipython_dir
from traitlets import Type
from traitlets.config import Config

from ..serialize import received_label
from . import tracebacks
from .display import EngineDisplayHook, EngineDisplayPublisher


class EngineCompiler(CachingCompiler):
    """Knows the cells of the client besides those of the engine, for tracebacks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.reset_compiler_flags()  # nobody will complete the input: say what is wrong with it

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        """A name like that of a file, as Jupyter kernels give their cells: tracebacks then look the same."""
        return f"/tmp/pxcluster_{os.getpid()}/{number}_{zlib.crc32(raw_code.encode(errors='replace')):08x}.py"

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        """("Cell", "In[5]") for the file name of a cell, None for other names."""
        own: tuple[str, str] | None = super().format_code_name(name)
        return received_label(name) if own is None else own


class EngineShell(InteractiveShell):
    """Runs cells in ``__main__``; results, displays and errors are returned or handed to the runtime, not printed."""

    compiler_class = Type(EngineCompiler)
    displayhook_class = Type(EngineDisplayHook)
    display_pub_class = Type(EngineDisplayPublisher)

    displayhook: Any
    history_manager: Any
    _depth = 0
    _memory: dict[str, Any]

    def run_request(self, code: str, silent: bool) -> dict[str, Any] | None:
        """Run one cell; its displayed value as {"data", "metadata"}, or None. Raises what the cell raised.

        The execution count grows by one whatever happens.
        """
        count = self.execution_count
        self.displayhook.outcome = None
        try:
            result = self.run_cell(code, store_history=not silent, silent=silent)
        finally:
            self.execution_count = count + 1
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise error
        outcome: dict[str, Any] | None = self.displayhook.outcome
        self.displayhook.outcome = None
        return outcome

    def renew(self) -> None:
        """Put IPython's own names (In, Out, get_ipython, _ …) into the namespace."""
        self.user_ns.update({"_": "", "__": "", "___": ""})
        self.init_user_ns()  # type: ignore[no-untyped-call, unused-ignore]

    def forget(self) -> None:
        """Let go of cached outputs, of In and of what ``from __future__ import`` set."""
        self.displayhook.flush()
        self.history_manager.reset(new_session=False)
        self.last_execution_result = None
        self.user_ns_hidden.clear()
        self.compile.reset_compiler_flags()

    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        """As IPython's; counts how deep cells run inside cells."""
        self._depth += 1
        try:
            return super().run_cell(*args, **kwargs)  # type: ignore[no-untyped-call, unused-ignore]
        finally:
            self._depth -= 1

    def showtraceback(self, exc_tuple: Any = None, *_args: Any, **_options: Any) -> None:
        """Show an error that something inside the cell caught; the cell's own error belongs to the reply."""
        self._show(sys.exc_info()[1] if exc_tuple is None else exc_tuple[1])

    def showsyntaxerror(self, *_args: Any, **_options: Any) -> None:
        """As showtraceback."""
        self._show(sys.exc_info()[1])

    def show_usage_error(self, exc: BaseException) -> None:
        """As showtraceback."""
        self._show(exc)

    def _show(self, error: BaseException | None) -> None:
        result = self.displayhook.exec_result
        of_the_cell = result is None or result.error_in_exec is error
        if error is not None and not (of_the_cell and self._depth <= 1):
            print(tracebacks.render(error), file=sys.stderr)

    def _format_exception_for_storage(self, exception: BaseException, *_args: Any, **_options: Any) -> dict[str, Any]:
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    def init_ipython_dir(self, ipython_dir: str | None) -> None:
        """Use the user's folder where there is one; make none."""
        folder = ipython_dir or os.environ.get("IPYTHONDIR") or os.path.expanduser("~/.ipython")
        if os.path.isdir(folder):
            self.ipython_dir = get_ipython_dir()

    def init_profile_dir(self, profile_dir: Any) -> None:
        """None: profiles belong to people at terminals."""

    def init_virtualenv(self) -> None:
        """The engine's interpreter is the environment."""

    def enable_gui(self, gui: Any = None) -> None:
        """Accepted and ignored: there is no event loop of a window system here."""

    def ask_exit(self) -> None:
        """exit() and quit() in a cell: as sys.exit()."""
        raise SystemExit

    @property
    def db(self) -> dict[str, Any]:
        """What magics remember, for the life of the engine."""
        if "_memory" not in self.__dict__:
            self._memory = {}
        return self._memory

    @db.setter
    def db(self, value: dict[str, Any]) -> None:
        self._memory = value


def make_shell() -> EngineShell:
    """The one shell of this process, with ``__main__`` as its namespace."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    warnings.filterwarnings("ignore", message="To exit: use", category=UserWarning)
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor" if os.environ.get("NO_COLOR") else "neutral"
    shell: EngineShell = EngineShell.instance(config=config, user_module=sys.modules["__main__"])
    shell.renew()
    return shell
