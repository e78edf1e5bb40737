"""What a map sends: its function and its items, pickled; what is large and needed by many tasks is sent beforehand."""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import accumulate, chain, islice
from typing import Any

from . import serialize
from .frames import Pieces
from .serialize import ALIGNED
from .shared import size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .frames import Bytes
    from .maprequest import MapRequest
    from .shared import Keeper, Lease, Mentions

#: Functions of so many bytes, with what they carry, are sent to each engine once.
LARGE_FUNCTION = 1 << 20
#: So are arguments of so many bytes that several items of a map share.
LARGE_ARGUMENT = 64 << 10
#: Items that are looked at together, when they are packed.
_BLOCK = 1024
#: Types of large arguments whose size is their length; others say ``nbytes``.
_SIZED = {str, bytes, bytearray, array}
_all_sized = _SIZED.issuperset
_NESTED = {tuple, list}
_all_nested = _NESTED.issuperset


class KeywordCall:
    """A function and its keyword arguments, to be called with the positional ones."""

    def __init__(self, function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        self.function = function
        self.kwargs = kwargs

    def __call__(self, *args: Any) -> Any:
        return self.function(*args, **self.kwargs)


class FunctionPacker:
    """Pickles functions of maps. `resolve` gives the engines that may run them, when it matters."""

    def __init__(self, keeper: Keeper, resolve: Callable[[], Sequence[int]], mentions: Mentions) -> None:
        self.keeper = keeper
        self.resolve = resolve
        self.mentions = mentions

    def pack(
        self, f: Any, name: str, task: MapRequest | None = None, star: bool = False, chunked: bool = False
    ) -> bytes:
        """The first buffer of a map; of that of one task if `task` is given. Raises SerializationError."""
        body = {"function": f, "star": star, "chunked": chunked, "name": name}
        buffers = serialize.dumps(body)
        if size_of(buffers) >= LARGE_FUNCTION:
            what, engines = f"function {name}", self.resolve()
            lease: Lease | None
            if task is None:
                lease = self.keeper.put_packed(what, buffers, engines, self.mentions)
            else:
                lease = self.keeper.function_of_task(what, buffers, engines, self.mentions, task)
            if lease is not None:
                return serialize.dumps_task(lease)
        return bytes(buffers[0]) if len(buffers) == 1 else serialize.dumps_task(body)


class Repeated:
    """Finds large objects that are members of several items, or items several times, and puts `put(object)` there."""

    def __init__(self, put: Callable[[object], Lease]) -> None:
        self._put = put
        #: By id; the object is held, so that no other one has its id.
        self._leases: dict[int, tuple[object, Lease]] = {}

    def replaced(self, items: list[Any]) -> list[Any]:
        """The items of a map, or some of them, with leases in place of large objects that occur more than once."""
        kinds = set(map(type, items))
        nested = kinds & _NESTED
        flat: Iterable[Any] = items
        if nested:
            if _all_nested(kinds):
                kinds = set(map(type, chain.from_iterable(items)))
            else:
                kinds.update(map(type, chain.from_iterable(item for item in items if type(item) in _NESTED)))
        large = {kind for kind in kinds - serialize.NUMBERS if kind in _SIZED or hasattr(kind, "nbytes")}
        if not large or (not nested and _all_sized(kinds) and max(map(len, items)) < LARGE_ARGUMENT):
            return items
        if nested:
            flat = chain.from_iterable(item if type(item) in _NESTED else (item,) for item in items)
        found = [member for member in flat if type(member) in large and _size(member) >= LARGE_ARGUMENT]
        if not found:
            return items
        for number, times in Counter(map(id, found)).items():
            if times > 1 and number not in self._leases:
                value = next(member for member in found if id(member) == number)
                self._leases[number] = value, self._put(value)
        return [self._replaced(item) for item in items] if self._leases else items

    def _replaced(self, item: Any) -> Any:
        leases = self._leases
        kind = type(item)
        if kind is tuple or kind is list:
            if any(id(member) in leases for member in item):
                return kind(leases[id(member)][1] if id(member) in leases else member for member in item)
            return item
        return leases[id(item)][1] if id(item) in leases else item


def _size(value: Any) -> int:
    if type(value) in _SIZED:
        return len(value) * getattr(value, "itemsize", 1)  # an array.array has one
    size = value.nbytes
    return size if type(size) is int else 0


def pack(items: Iterable[Any], repeated: Repeated | None = None) -> tuple[array[int], bytearray | Pieces]:
    """Pickle each item: the offsets (u64[n + 1], bytes) and the items back to back. Raises SerializationError.

    Large arrays stay where they are: send the items before the arrays change.
    """
    packed = bytearray()
    pieces: list[Bytes] = []
    before = 0
    offsets = array("Q", (0,))
    source = iter(items)
    while block := list(islice(source, _BLOCK)):
        if pickles := serialize.dumps_numbers(block):
            offsets.extend(islice(accumulate(map(len, pickles), initial=before + len(packed)), 1, None))
            packed += b"".join(pickles)
        else:  # they may be large: none is held twice
            for item in block if repeated is None else repeated.replaced(block):
                parts = serialize.task_pieces(item)
                if len(parts) > 1:  # its arrays are aligned where the item is; what is behind a pickle does not count
                    packed += bytes(-(before + len(packed)) % ALIGNED)
                    offsets[-1] = before + len(packed)
                for piece in parts:
                    if type(piece) is memoryview:
                        pieces += (packed, piece)
                        before += len(packed) + piece.nbytes
                        packed = bytearray()
                    else:
                        packed += piece
                offsets.append(before + len(packed))
    return offsets, Pieces([*pieces, packed], before + len(packed)) if pieces else packed
