"""The calls by which ipyparallel's views reach its sockets, for programs that use them directly."""

from __future__ import annotations

from typing import Any

from .serialize import PrePickled, Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .asyncresult import AsyncResult
    from .client import Client


def send_apply_request(
    client: Client,
    f: Any,
    args: Any,
    kwargs: Any,
    metadata: Any,
    ident: int | None,
    hook: Callable[[AsyncResult], object] | None,
) -> AsyncResult:
    """See Client.send_apply_request."""
    args, kwargs = () if args is None else args, {} if kwargs is None else kwargs
    if not callable(f) and not isinstance(f, Reference | PrePickled):
        raise TypeError(f"f must be callable, not {type(f)}")
    if not isinstance(args, tuple | list):
        raise TypeError(f"args must be tuple or list, not {type(args)}")
    if not isinstance(kwargs, dict):
        raise TypeError(f"kwargs must be dict, not {type(kwargs)}")
    label = _label(metadata)
    view = client.load_balanced_view() if ident is None else client.direct_view(_engine(ident))
    result = view.set_flags(label=label).apply_async(f, *args, **kwargs)
    if hook is not None:
        hook(result)
    return result


def send_execute_request(
    client: Client,
    code: str,
    silent: bool,
    metadata: Any,
    ident: int | None,
    hook: Callable[[AsyncResult], object] | None,
) -> AsyncResult:
    """See Client.send_execute_request."""
    if not isinstance(code, str):
        raise TypeError(f"code must be text, not {type(code)}")
    label = _label(metadata)
    if ident is None:
        raise TypeError("code is executed on an engine: give its id as ident")
    result = client.direct_view(_engine(ident)).execute(code, silent=silent, block=False, label=label)
    if hook is not None:
        hook(result)
    return result


def _engine(ident: Any) -> int:
    if not isinstance(ident, int):
        raise TypeError(
            f"ident must be the id of an engine, an int, not {type(ident)}: there are no routing identities"
        )
    return ident


def _label(metadata: Any) -> str | None:
    if metadata is not None and not isinstance(metadata, dict):
        raise TypeError(f"metadata must be dict, not {type(metadata)}")
    label: str | None = (metadata or {}).get("label")
    return label
