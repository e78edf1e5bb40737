"""Errors as data: the payload of a failed request, with the traceback as IPython shows it and none of our frames.

Whatever an exception does while it is looked at, the payload comes out.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

from . import shell
from .state import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_OUR_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def payload(error: BaseException, method: str, *, full: bool = True, execution_count: int | None = None) -> bytes:
    """The JSON of a failure: ename, evalue, traceback, engine_id, engine_uuid, method (apply or execute).

    full: render the whole traceback (milliseconds); otherwise one line and the place of the error (microseconds).
    """
    import json

    fields: dict[str, object] = {
        "ename": type(error).__name__,
        "evalue": text_of(error),
        "traceback": render(error) if full else short(error),
        "engine_id": state.host.engine_id,
        "engine_uuid": state.host.uuid,
        "method": method,
    }
    if execution_count is not None:
        fields["execution_count"] = execution_count
    return json.dumps(fields).encode("ascii")


def text_of(error: BaseException) -> str:
    """str(error), or a remark where that raises."""
    try:
        return str(error)
    except Exception as inner:
        return f"<str() of this {type(error).__name__} raised {type(inner).__name__}>"


def render(error: BaseException) -> str:
    """The traceback of `error` and of the errors behind it: by IPython, else by the standard library, else a line."""
    try:
        for each in _chain(error):
            each.__traceback__ = _stripped(each.__traceback__)
    except Exception:
        return _line(error)
    for renderer in (_by_ipython, _by_library):
        try:
            text = renderer(error)
        except Exception:
            continue
        if text:
            return text
    return _line(error)


def short(error: BaseException) -> str:
    """One line, and where the error was raised."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_OUR_FOLDER):
            place = f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n'
        trace = trace.tb_next
    return place + _line(error)


def _line(error: BaseException) -> str:
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and every one that its rendering shows."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _stripped(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this package, and without those of IPython above the user's cell."""
    ipython = sys.modules.get("IPython")
    above = () if ipython is None else (os.path.dirname(ipython.__file__ or "") + os.sep, _ASYNCIO)
    kept: list[TracebackType] = []
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith(_OUR_FOLDER) and (kept or not name.startswith(above)):
            kept.append(trace)
        trace = trace.tb_next
    result: TracebackType | None = None
    for each in reversed(kept):
        result = TracebackType(result, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return result


# Top-level await runs the cell inside these frames.
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio") + os.sep


def _by_ipython(error: BaseException) -> str | None:
    if any(isinstance(each, BaseExceptionGroup) for each in _chain(error)):
        return None  # IPython shows groups without their members
    if type(error).__name__ == "UsageError" and type(error).__module__.startswith("IPython."):
        return _line(error)
    engine_shell = shell.get()
    own = getattr(error, "_render_traceback_", None)
    if own is not None:
        lines = own()
    elif isinstance(error, SyntaxError) and error.__traceback__ is None:
        syntax_renderer: Any = engine_shell.SyntaxTB
        lines = syntax_renderer.structured_traceback(type(error), error, [])
    else:
        lines = engine_shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__, tb_offset=0)
    text: str = engine_shell.InteractiveTB.stb2text(lines)
    return text


def _by_library(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip("\n")
