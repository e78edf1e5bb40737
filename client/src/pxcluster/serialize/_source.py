"""The source text that travels with interactively defined functions, so that remote tracebacks can show it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

#: Of a text longer than this many characters only the lines of the function travel: it goes with every request.
WHOLE_TEXT = 2048

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
    """Lines of one file and its label on their way to another process; pickled once however many functions share them.

    `first`: number of the first line of `text` in its file.
    """

    __slots__ = ("filename", "first", "label", "text")

    def __init__(self, filename: str, text: str, label: tuple[str, str] | None, first: int) -> None:
        self.filename = filename
        self.text = text
        self.label = label
        self.first = first

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, str, tuple[str, str] | None, int]]:
        return load_source, (self.filename, self.text, self.label, self.first)


def load_source(filename: str, text: str, label: tuple[str, str] | None, first: int = 1) -> None:
    """Make lines of `filename` known to linecache and its label to :func:`cell_label`.

    A real file keeps the lines that linecache reads by itself; of others the lines that come are added.
    """
    import linecache

    if label is not None:
        _labels.setdefault(filename, label)
    known = linecache.cache.get(filename)
    if known is not None and (len(known) == 1 or known[1] is not None):
        return
    lines = text.splitlines(keepends=True)
    if known is not None and known[2][first - 1 : first - 1 + len(lines)] == lines:
        return
    merged = list(known[2]) if known is not None else []
    merged += ["\n"] * (first - 1 + len(lines) - len(merged))
    merged[first - 1 : first - 1 + len(lines)] = lines
    linecache.cache[filename] = (sum(map(len, merged)), None, merged, filename)


def sources_of(code: CodeType, cache: dict[str, Source | None]) -> tuple[Source, ...]:
    """The sources of `code` and of the code nested in it; `cache` holds those of the pickle being written."""
    found: dict[str, Source] = {}
    for part in _nested(code):
        name = part.co_filename
        if name in found:
            continue
        source = cache.get(name)
        if source is None and name not in cache:
            source, shared = _read(part)
            if shared:
                cache[name] = source
        if source is not None:
            found[name] = source
    return tuple(found.values())


def _read(code: CodeType) -> tuple[Source | None, bool]:
    """The source that goes with `code`, and whether it serves every function of that file."""
    import linecache

    name = code.co_filename
    lines = linecache.getlines(name)
    if not lines:
        return None, True
    known = linecache.cache.get(name)
    length = known[0] if known is not None and len(known) > 1 else sum(map(len, lines))
    if length <= WHOLE_TEXT:
        return Source(name, "".join(lines), cell_label(name), 1), True
    parts = [part for part in _nested(code) if part.co_filename == name]
    numbers = [line for part in parts for _, _, line in part.co_lines() if line]
    first, last = min(numbers, default=1), max(numbers, default=0)
    return Source(name, "".join(lines[first - 1 : last]), cell_label(name), first), False


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if type(constant) is type(code):
            yield from _nested(constant)
