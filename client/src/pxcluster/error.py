"""Every exception of the client, with ipyparallel's class tree and printed forms.

Errors raised by user code on engines are data here: they arrive as text (name, message, traceback) and are raised as
:class:`RemoteError`, or as one :class:`CompositeError` for a call on several engines.
"""

from __future__ import annotations

import builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeVar

    Info = Mapping[str, Any]
    Entry = tuple[str, str, str | None, Info]
    Results = TypeVar("Results", bound=Iterable[Any])

TimeoutError = builtins.TimeoutError

_NO_TRACEBACK = "No traceback available"


class IPythonError(Exception):
    """Base of all exceptions of this package."""


class KernelError(IPythonError):
    """Base of what the cluster reports."""


class EngineError(KernelError):
    """An engine is gone, or never was there."""


class ConnectionLost(EngineError, ConnectionError):
    """The connection to the cluster is gone; every call that needs it raises this."""


class VersionMismatch(KernelError):
    """Client and engines cannot understand each other's pickles or messages."""


class NoEnginesRegistered(KernelError):
    """A call needs engines and there are none."""

    def __str__(self) -> str:
        hint = "This operation requires engines. Try client.wait_for_engines(n) to wait for engines to register."
        return str(self.args[0]) if self.args else hint


class TaskAborted(KernelError):
    """The task was aborted before it started."""


class ClusterEnding(TaskAborted):
    """The cluster is about to end, of which it was told (time limit, SIGTERM), and starts nothing new."""


class TaskTimeout(KernelError):
    """The task did not find an engine in time."""


class TaskRejectError(KernelError):
    """Raise it in a task that should run on another engine."""


class UnmetDependency(KernelError):
    """Something the task needs is missing on this engine."""


class ImpossibleDependency(UnmetDependency):
    """Something the task needs can never be there."""


class DependencyTimeout(ImpossibleDependency):
    """Something the task needs was not there in time."""


class InvalidDependency(ImpossibleDependency):
    """The dependency makes no sense."""


class RemoteError(KernelError):
    """An exception of user code on an engine.

    `ename`, `evalue`, `traceback`: class name, message and rendered traceback, all text. `engine_info`: mapping with
    ``engine_id``, ``engine_uuid`` and ``method`` (``apply`` or ``execute``), empty when no engine is involved.
    """

    ename: str
    evalue: str
    traceback: str | None
    engine_info: Info

    def __init__(self, ename: str, evalue: str, traceback: str | None, engine_info: Info | None = None) -> None:
        Exception.__init__(self, ename, evalue)
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback
        self.engine_info = engine_info or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.ename, self.evalue, self.traceback, dict(self.engine_info))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}[{self.engine_info.get('engine_id', ' ')}]:{self.ename}({self.evalue})>"

    def __str__(self) -> str:
        return f"{engine_label(self.engine_info)} {self.ename}: {self.evalue}"

    def render_traceback(self) -> list[str]:
        """The remote traceback as lines, the first says which engine."""
        return [engine_label(self.engine_info), *(self.traceback or _NO_TRACEBACK).splitlines()]

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: shows this instead of the local traceback."""
        return self.render_traceback()

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the remote traceback to standard output."""
        print("\n".join(self.render_traceback()))


class RemoteEngineError(RemoteError, EngineError):
    """The engine died while it ran the call. Caught as EngineError and as RemoteError."""


class RemoteTaskAborted(RemoteError, TaskAborted):
    """The call was aborted before it started. Caught as TaskAborted and as RemoteError."""


class RemoteClusterEnding(RemoteTaskAborted, ClusterEnding):
    """The task had not started when the cluster was told that it ends. Caught as ClusterEnding and as RemoteError."""


class RemoteTaskTimeout(RemoteError, TaskTimeout):
    """The task did not start in time. Caught as TaskTimeout and as RemoteError."""


class RemoteTaskRejectError(RemoteError, TaskRejectError):
    """User code raised TaskRejectError. Caught as that and as RemoteError."""


class RemoteUnmetDependency(RemoteError, UnmetDependency):
    """The engine lacks something that the call needs. Caught as UnmetDependency and as RemoteError."""


class RemoteImpossibleDependency(RemoteError, ImpossibleDependency):
    """What the task needs can never be there. Caught as ImpossibleDependency and as RemoteError."""


class RemoteDependencyTimeout(RemoteError, DependencyTimeout):
    """What the task needs was not there in time. Caught as DependencyTimeout and as RemoteError."""


class RemoteInvalidDependency(RemoteError, InvalidDependency):
    """The task's dependency makes no sense. Caught as InvalidDependency and as RemoteError."""


class CompositeError(RemoteError):
    """One or more errors of a call on several engines.

    `elist`: a tuple (ename, evalue, traceback, engine_info) per error, in the order of the call's targets or tasks.
    At most `tb_limit` of them are printed.
    """

    tb_limit = 4

    def __init__(self, message: str, elist: Iterable[Entry]) -> None:
        self.msg = message
        self.elist: list[Entry] = list(elist)
        super().__init__("CompositeError", message, None)
        self.args = tuple(entry[0] for entry in self.elist)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.msg, self.elist)

    def __str__(self) -> str:
        lines = [self.msg]
        lines += [f"{engine_label(info)}{ename}: {evalue}" for ename, evalue, _, info in self.elist[: self.tb_limit]]
        if len(self.elist) > self.tb_limit:
            lines.append(f".... {len(self.elist) - self.tb_limit} more exceptions ...")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CompositeError({len(self.elist)})"

    def _entry(self, excid: int) -> Entry:
        try:
            return self.elist[excid]
        except IndexError:
            raise IndexError(f"an exception with index {excid} does not exist") from None

    def render_traceback(self, excid: int | None = None) -> list[str]:
        """The remote tracebacks as lines: all up to `tb_limit`, or the one with index `excid` (IndexError: none)."""
        if excid is not None:
            _, _, traceback, info = self._entry(excid)
            return [engine_label(info) + ":", *(traceback or _NO_TRACEBACK).splitlines()]
        lines: list[str] = []
        for index in range(min(len(self.elist), self.tb_limit)):
            lines += [*self.render_traceback(index), ""]
        if len(self.elist) > self.tb_limit:
            lines.append(f"... {len(self.elist) - self.tb_limit} more exceptions ...")
        return lines

    def print_traceback(self, excid: int | None = None) -> None:
        """Print all remote tracebacks, or the one with index `excid`, to standard output."""
        print("\n".join(self.render_traceback(excid)))

    def raise_exception(self, excid: int = 0) -> None:
        """Raise the error with index `excid` as a RemoteError of its own (IndexError: none)."""
        raise RemoteError(*self._entry(excid))


class AlreadyDisplayedError(RemoteError):
    """Stands for errors whose tracebacks have been shown while the call ran."""

    def __init__(self, original_error: CompositeError) -> None:
        self.original_error = original_error
        self.n = len(original_error.elist)
        super().__init__("AlreadyDisplayedError", f"{self.n} errors", None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.original_error,)

    def __repr__(self) -> str:
        return f"<AlreadyDisplayedError({self.n} errors)>"

    def __str__(self) -> str:
        return f"{self.n} errors"

    def render_traceback(self) -> list[str]:
        """Only the number of errors."""
        return [str(self)]


def engine_label(info: Info) -> str:
    """``[3:apply]``, or ``[Engine Exception]`` when no engine is known."""
    if not info:
        return "[Engine Exception]"
    return f"[{info.get('engine_id')}:{info.get('method')}]"


_CLASSES: dict[str, type[RemoteError]] = {
    "EngineError": RemoteEngineError,
    "TaskAborted": RemoteTaskAborted,
    "ClusterEnding": RemoteClusterEnding,
    "TaskTimeout": RemoteTaskTimeout,
    "TaskRejectError": RemoteTaskRejectError,
    "UnmetDependency": RemoteUnmetDependency,
    "ImpossibleDependency": RemoteImpossibleDependency,
    "DependencyTimeout": RemoteDependencyTimeout,
    "InvalidDependency": RemoteInvalidDependency,
}
#: User code raises these on purpose; with others of those names it only happens to share the name.
_RAISED = frozenset({"TaskRejectError", "UnmetDependency"})
_WHOLE: dict[str, type[Exception]] = {
    "NoEnginesRegistered": NoEnginesRegistered,
    "TaskTimeout": TaskTimeout,
    "ImpossibleDependency": ImpossibleDependency,
    "DependencyTimeout": DependencyTimeout,
    "InvalidDependency": InvalidDependency,
    "IndexError": IndexError,
    "KeyError": KeyError,
    "ValueError": ValueError,
}


def from_payload(payload: Mapping[str, Any]) -> RemoteError:
    """The exception for an error payload of an engine or of the controller."""
    ename = str(payload.get("ename", "UnknownError"))
    engine = payload.get("engine_id")
    raised = bool(payload.get("traceback"))
    own = ename in _CLASSES and (not raised or ename in _RAISED)
    info: dict[str, Any] = {}
    if engine is not None and (raised or not own):
        info = {
            "engine_id": engine,
            "engine_uuid": payload.get("engine_uuid"),
            "method": payload.get("method", "apply"),
        }
    kind = _CLASSES[ename] if own else RemoteError
    return kind(ename, str(payload.get("evalue", "")), payload.get("traceback"), info)


def from_failure(ename: str, message: str) -> Exception:
    """The exception for a request that the controller refused or lost."""
    if ename in _WHOLE:
        return _WHOLE[ename](message)
    return _CLASSES.get(ename, RemoteError)(ename, message, None)


def entry_of(error: BaseException, engine: int | None) -> Iterable[Entry]:
    """`error` as entries of a CompositeError; composite ones are flattened."""
    if isinstance(error, CompositeError):
        return error.elist
    if isinstance(error, RemoteError):
        return [(error.ename, error.evalue, error.traceback, error.engine_info)]
    info: Info = {} if engine is None else {"engine_id": engine, "engine_uuid": None, "method": "apply"}
    return [(type(error).__name__, str(error), None, info)]


# -- errors as dicts ---------------------------------------------------------------------------------------------


def wrap_exception(engine_info: Info | None = None) -> dict[str, Any]:
    """The exception that is being handled as a dict: ename, evalue, traceback (a list of str), engine_info, status."""
    import sys
    import traceback

    kind, value, _ = sys.exc_info()
    if kind is None:
        raise RuntimeError("wrap_exception() is called where an exception is handled, in an except clause")
    return {
        "status": "error",
        "traceback": traceback.format_exception(value),
        "ename": kind.__name__,
        "evalue": str(value),
        "engine_info": engine_info or {},
    }


def unwrap_exception(content: Mapping[str, Any]) -> RemoteError:
    """The RemoteError of what :func:`wrap_exception` made."""
    trace = "\n".join(content["traceback"])
    return RemoteError(content["ename"], content["evalue"], trace, content.get("engine_info", {}))


def collect_exceptions(rdict_or_list: Results, method: str = "unspecified") -> Results:
    """Results, a list or a dict of them, as they are, unless RemoteErrors are among them: a CompositeError of those."""
    results = rdict_or_list.values() if isinstance(rdict_or_list, dict) else rdict_or_list
    entries = [entry for error in results if isinstance(error, RemoteError) for entry in entry_of(error, None)]
    if entries:
        raise CompositeError(f"one or more exceptions raised in: {method}", entries)
    return rdict_or_list
