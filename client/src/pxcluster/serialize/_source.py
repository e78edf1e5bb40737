"""The source text that travels with interactively defined functions, so that remote tracebacks can show it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

#: A text longer than this many characters travels with blank lines in place of what lies outside the function.
WHOLE_TEXT = 65536

# File name of a cell -> how tracebacks name it, ("Cell", "In[5]"). Only cells that came from another process.
_labels: dict[str, tuple[str, str]] = {}


def received_label(filename: str) -> tuple[str, str] | None:
    """The label with which the cell compiled as `filename` came from another process; None: it did not."""
    return _labels.get(filename)


def cell_label(filename: str) -> tuple[str, str] | None:
    """How a traceback names the cell that was compiled as `filename`, for example ``("Cell", "In[5]")``.

    None: `filename` is no cell that this process knows.
    """
    label = received_label(filename)
    if label is None and "IPython" in sys.modules:
        get_ipython = getattr(sys.modules["IPython"], "get_ipython", None)  # missing: its import is still under way
        shell = None if get_ipython is None else get_ipython()
        if shell is not None:
            label = shell.compile.format_code_name(filename)
    return label


class Source:
    """One file's text and label on its way to another process; pickled once however many functions share it."""

    __slots__ = ("filename", "label", "text")

    def __init__(self, filename: str, text: str, label: tuple[str, str] | None) -> None:
        self.filename = filename
        self.text = text
        self.label = label

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, str, tuple[str, str] | None]]:
        return load_source, (self.filename, self.text, self.label)


def load_source(filename: str, text: str, label: tuple[str, str] | None) -> None:
    """Make the lines of `filename` known to linecache and its label to :func:`cell_label`.

    A file whose lines are known already keeps them; blank ones are filled from `text`.
    """
    import linecache

    if label is not None:
        _labels.setdefault(filename, label)
    known = linecache.cache.get(filename)
    if known is not None and (len(known) == 1 or known[1] is not None):
        return  # a real file, which linecache reads by itself
    lines = text.splitlines(keepends=True)
    if known is not None:
        older: list[str] = known[2]
        if older == lines:
            return
        if len(older) == len(lines):
            lines = [new if new.strip() else old for old, new in zip(older, lines, strict=True)]
    linecache.cache[filename] = (len(text), None, lines, filename)


def sources_of(code: CodeType, cache: dict[str, Source | None]) -> tuple[Source, ...]:
    """The sources of `code` and of the code nested in it; `cache` holds those of the pickle being written."""
    found: dict[str, Source] = {}
    for part in _nested(code):
        name = part.co_filename
        if name in found:
            continue
        if name not in cache:
            cache[name] = _read(part)
        source = cache[name]
        if source is not None:
            found[name] = source
    return tuple(found.values())


def _read(code: CodeType) -> Source | None:
    import linecache

    name = code.co_filename
    lines = linecache.getlines(name)
    if not lines:
        return None
    if sum(map(len, lines)) > WHOLE_TEXT:
        parts = [part for part in _nested(code) if part.co_filename == name]
        numbers = [line for part in parts for _, _, line in part.co_lines() if line]
        first, last = min(numbers, default=1), max(numbers, default=0)
        lines = [line if first <= number <= last else "\n" for number, line in enumerate(lines, 1)]
    return Source(name, "".join(lines), cell_label(name))


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if type(constant) is type(code):
            yield from _nested(constant)
