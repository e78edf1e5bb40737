"""Memoryviews travel as memoryviews, their bytes beside the pickle."""

from __future__ import annotations

from pickle import PickleBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from typing_extensions import Buffer

#: Formats of the struct module to which memory can be cast.
_CASTS = frozenset("cbB?hHiIlLqQnNfd")


def writable(buffers: Iterable[Buffer]) -> list[memoryview | bytearray]:
    """Writable buffers as they are, read-only ones copied: arrays made of them are always writable."""
    views = [memoryview(buffer) for buffer in buffers]
    return [bytearray(view) if view.readonly else view for view in views]


def reduce_view(view: memoryview) -> Any:
    """The pickle reduction of a memoryview; NotImplemented where the form of its items cannot be made again."""
    is_bytes = view.format == "B" and view.ndim == 1
    if not is_bytes and (view.format.removeprefix("@") not in _CASTS or not view.nbytes):
        return NotImplemented
    if not view.c_contiguous:
        return make_view, (view.tobytes(), view.format, view.shape)
    return make_view, (PickleBuffer(view.cast("B")), view.format, view.shape)


def make_view(data: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    """A memoryview of `data` with items of this form."""
    view = memoryview(data)
    return view if (form, shape) == ("B", view.shape) else view.cast("B").cast(form, shape)  # type: ignore[call-overload]
