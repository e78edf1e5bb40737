"""``%px``, ``%%px``, ``%autopx``, ``%pxresult`` and ``%pxconfig``."""

from __future__ import annotations

import ast
import sys
import warnings
from contextlib import nullcontext
from typing import Any

from IPython.core import magic_arguments
from IPython.core.error import UsageError
from IPython.core.magic import Magics, no_var_expand

from .error import AlreadyDisplayedError, CompositeError
from .interrupt import guard
from .outputs import shell
from .progress import noninteractive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .asyncresult import AsyncResult
    from .client import Client
    from .direct import DirectView

_NO_RESULT = "%pxresult recalls last %px result, which has not yet been used."


def activate(view: DirectView, suffix: str = "") -> None:
    """Register the magics of `view` with the running IPython; outside IPython only warn."""
    ip = shell()
    if ip is None:
        warnings.warn("The IPython parallel magics (%px, etc.) only work within IPython.", stacklevel=3)
        return
    ip.magics_manager.register(ParallelMagics(ip, view, suffix))


def activate_first(client: Client) -> None:
    """Register ``%px`` for all engines of `client`, unless a client that is still open has it."""
    ip = shell()
    if ip is None:
        return
    current = ip.magics_manager.magics["line"].get("px")
    owner = getattr(current, "__self__", None)
    if current is None or (isinstance(owner, ParallelMagics) and owner.view.client._session.lost is not None):
        client.activate()


def _flag(*names: str, dest: str, const: Any, text: str) -> Any:
    return magic_arguments.argument(*names, action="store_const", const=const, dest=dest, help=text)


def _execution_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        _flag("-b", "--block", dest="block", const=True, text="wait for the engines"),
        _flag("-a", "--noblock", dest="block", const=False, text="do not wait for the engines"),
        _flag("--stream", dest="stream", const=True, text="show output as it comes (when waiting)"),
        _flag("--no-stream", dest="stream", const=False, text="show output at the end"),
        magic_arguments.argument("-t", "--targets", type=str, help="engines: all, an id, a list of ids, or a slice"),
        _flag("--verbose", dest="set_verbose", const=True, text="say where code runs"),
        _flag("--no-verbose", dest="set_verbose", const=False, text="do not say where code runs"),
        magic_arguments.argument(
            "--progress-after",
            dest="progress_after",
            type=float,
            help="seconds until a progress bar is shown; -1: never, 0: at once",
        ),
        magic_arguments.argument(
            "--signal-on-interrupt",
            dest="signal_on_interrupt",
            type=str,
            help="signal for the engines on Ctrl-C (when waiting): SIGINT, 2, SIGKILL, 9, 0 (none), …",
        ),
    ):
        function = decorate(function)
    return function


def _output_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        _flag("-r", dest="groupby", const="order", text="as --group-outputs=order"),
        _flag("-e", dest="groupby", const="engine", text="as --group-outputs=engine"),
        magic_arguments.argument(
            "--group-outputs",
            dest="groupby",
            type=str,
            choices=["engine", "order", "type"],
            default="type",
            help="type: all stdout, then all stderr, …; engine: one engine after the other; order: as type, but the "
            "first display of every engine, then the second, …",
        ),
        magic_arguments.argument("-o", "--out", dest="save_name", type=str, help="bind the AsyncResult to this name"),
    ):
        function = decorate(function)
    return function


class ParallelMagics(Magics):
    """The magics of one view; several views have magics with different suffixes."""

    registered = True

    def __init__(self, ip: Any, view: DirectView, suffix: str = "") -> None:
        self.view = view
        self.suffix = suffix
        self.last_result: AsyncResult | None = None
        self.verbose = False
        self.stream_output = not noninteractive()
        self.progress_after = 2.0
        self.signal_on_interrupt: int | str = "SIGINT"
        self._autopx = False
        lines: dict[str, Any] = {
            f"px{suffix}": self.px,
            f"pxresult{suffix}": self.result,
            f"pxconfig{suffix}": self.pxconfig,
            f"autopx{suffix}": self.autopx,
        }
        if not suffix:
            lines["result"] = self.result
        self.magics = {"line": lines, "cell": {f"px{suffix}": self.cell_px}}
        self._shell = ip
        super().__init__(shell=ip)

    # -- magics --------------------------------------------------------------------------------------------------

    @magic_arguments.magic_arguments()
    @_execution_arguments
    def pxconfig(self, line: str) -> None:
        """Set defaults of %px."""
        args = magic_arguments.parse_argstring(self.pxconfig, line)
        if args.targets:
            self.view.targets = self._parse_targets(args.targets)
        if args.block is not None:
            self.view.block = args.block
        if args.set_verbose is not None:
            self.verbose = args.set_verbose
        if args.stream is not None:
            self.stream_output = args.stream
        if args.signal_on_interrupt is not None:
            self.signal_on_interrupt = args.signal_on_interrupt
        if args.progress_after is not None:
            self.progress_after = args.progress_after

    @magic_arguments.magic_arguments()
    @_output_arguments
    def result(self, line: str = "") -> None:
        """Show the output of the last %px, when it is ready."""
        args = magic_arguments.parse_argstring(self.result, line)
        if self.last_result is None:
            raise UsageError(_NO_RESULT)
        if args.save_name:
            self._shell.user_ns[args.save_name] = self.last_result
            return
        self.last_result.get()
        self.last_result.display_outputs(groupby=args.groupby)

    @no_var_expand  # type: ignore[untyped-decorator, unused-ignore]
    def px(self, line: str = "") -> Any:
        """Run a line of Python on the engines: ``%px import numpy``."""
        return self.parallel_execute(line)

    @magic_arguments.magic_arguments()
    @_execution_arguments
    @_output_arguments
    @magic_arguments.argument("--local", action="store_const", const=True, dest="local", help="run the cell here, too")
    def cell_px(self, line: str = "", cell: str = "") -> Any:
        """Run a cell on the engines."""
        args = magic_arguments.parse_argstring(self.cell_px, line)
        saved = self.view.targets
        if args.targets:
            self.view.targets = self._parse_targets(args.targets)
        block = self.view.block if args.block is None else args.block
        verbose = self.verbose
        try:
            if args.set_verbose is not None:
                self.verbose = args.set_verbose
            result = self.parallel_execute(
                cell,
                block=block and not args.local,
                groupby=args.groupby,
                save_name=args.save_name,
                stream_output=args.stream,
                progress_after=args.progress_after,
                signal_on_interrupt=args.signal_on_interrupt,
            )
        finally:
            self.view.targets = saved
            self.verbose = verbose
        if args.local:
            self._shell.run_cell(cell)
            if block and self.last_result is not None:
                self.last_result.wait()
                try:
                    self.last_result.get()
                finally:
                    self.last_result.display_outputs(args.groupby)
        return None if block else result

    def autopx(self, line: str = "") -> None:
        """Toggle: from now on every cell runs on the engines."""
        transforms = self._shell.input_transformers_cleanup
        if self._autopx:
            transforms.remove(self._to_engines)
        else:
            transforms.append(self._to_engines)
        self._autopx = not self._autopx
        print(f"%autopx {'enabled' if self._autopx else 'disabled'}")

    def _to_engines(self, lines: list[str]) -> list[str]:
        """Turn a cell into a %%px cell, except the one that ends it."""
        first = next((line.strip() for line in lines if line.strip()), "")
        if not first or first.split()[0] in (f"%autopx{self.suffix}", f"autopx{self.suffix}", f"%%px{self.suffix}"):
            return lines
        return [f"%%px{self.suffix}\n", *lines]

    # -- execution -----------------------------------------------------------------------------------------------

    def parallel_execute(
        self,
        cell: str,
        block: bool | None = None,
        groupby: str = "type",
        save_name: str | None = None,
        stream_output: bool | None = None,
        progress_after: float | None = None,
        signal_on_interrupt: int | str | None = None,
    ) -> AsyncResult | None:
        """Run `cell` on the view's engines; None stands for the configured defaults. The result unless it waits."""
        block = self.view.block if block is None else block
        stream = self.stream_output if stream_output is None else stream_output
        progress_after = self.progress_after if progress_after is None else progress_after
        targets = self.view.targets
        if self.verbose:
            print(f"{'Parallel' if block else 'Async parallel'} execution on engine(s): {_brief(targets)}")
        result: AsyncResult | None = None
        try:
            # An interrupt that comes while the cell leaves is one of the engines that have it.
            was_open = guard.hold() if guard.applies() else None
            try:
                result = self._submit(cell, save_name)
            finally:
                if was_open is not None:
                    guard.release(was_open)
            if not block:
                return result
            with result.stream_output() if stream else nullcontext():
                self._wait(result, progress_after)
            try:
                result.get()
            except CompositeError as problem:
                if stream:
                    raise AlreadyDisplayedError(problem) from None
                raise
        except KeyboardInterrupt:
            if not block:
                raise
            self._interrupt(targets, self.signal_on_interrupt if signal_on_interrupt is None else signal_on_interrupt)
        finally:
            if block and not stream and result is not None and result.done():
                result.display_outputs(groupby)
        return None

    def _submit(self, cell: str, save_name: str | None) -> AsyncResult:
        result = self.view.execute(cell, silent=False, block=False)
        result._fname = "%px"
        self.last_result = result
        if save_name:
            self._shell.user_ns[save_name] = result
        return result

    def _wait(self, result: AsyncResult, progress_after: float) -> None:
        if progress_after < 0:
            result.wait()
        elif progress_after == 0 or not result.wait(progress_after):
            result.wait_interactive()

    def _interrupt(self, targets: Any, sig: int | str) -> None:
        if str(sig) == "0":
            raise KeyboardInterrupt
        print(f"Received Keyboard Interrupt. Sending signal {sig} to engines...", file=sys.stderr)
        self.view.client.send_signal(sig, targets=targets, block=True)

    def _parse_targets(self, text: str) -> Any:
        """``all``, an id, a list of ids, or a slice of the ids. UsageError: something else."""
        text = text.strip()
        if text == "all":
            return "all"
        try:
            if ":" in text:
                bounds = [int(bound) if bound.strip() else None for bound in text.strip("[]").split(":")]
                return self.view.client.ids[slice(*bounds)]
            found = ast.literal_eval(text)
            return list(found) if isinstance(found, tuple) else found
        except (ValueError, SyntaxError, TypeError):
            raise UsageError(f"targets are all, an id, a list of ids, or a slice such as ::2, not {text!r}") from None


def _brief(targets: Any) -> str:
    if isinstance(targets, list) and len(targets) > 10:
        return str(targets[:4])[:-1] + ", ..., " + str(targets[-4:])[1:]
    return str(targets)
