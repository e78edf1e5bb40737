"""The view that leaves it to the cluster which engine runs a task."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

from .dependency import dependency_of, needs
from .maprequest import MapRequest
from .packing import FunctionPacker, KeywordCall, Repeated, pack
from .shared import Mentions
from .view import View, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from array import array
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from .checkpoint import Checkpoint
    from .mapresult import AsyncMapResult


class Options(NamedTuple):
    """What a view's flags add to the headers of its maps, and the msg_ids that its tasks wait for."""

    header: dict[str, Any]
    after: list[str]
    follow: list[str]


class LoadBalancedView(View):
    """Tasks for whichever engine is free, `targets` (None: any engine) permitting.

    Flags beside those of every view hold for what is submitted while they are set: `retries`, how often a task that
    raised is tried again; `after`, results that must be there before a task starts (an AsyncResult, a msg_id, a list
    of those, or a Dependency, which can also wait for failures); `follow`, the same, and the task runs where they
    have been made; `timeout`, seconds after which a task that no engine was given fails with TaskTimeout (0: never).
    """

    _flag_names = (*View._flag_names, "follow", "after", "timeout", "retries")

    def __init__(self, client: Any, targets: Any = None, **flags: Any) -> None:
        self.follow: Any = None
        self.after: Any = None
        self.timeout: float = 0.0
        self.retries: int = 0
        super().__init__(client, targets, **flags)

    def _check_flag(self, name: str, value: Any) -> None:
        super()._check_flag(name, value)
        if name == "timeout" and value is not None and value < 0:
            raise ValueError(f"Invalid timeout: {value}")
        if name == "retries" and not isinstance(value, int):
            raise TypeError(f"retries must be int, not {type(value)!r}")
        if name in ("follow", "after"):
            dependency_of(value)

    # -- the one way to the engines ------------------------------------------------------------------------------

    def _options(self) -> Options:
        """The flags as they are now."""
        targets = None if self.targets is None else self.client._resolve(self.targets)
        header: dict[str, Any] = {"targets": targets, "label": self.label, "retries": self.retries}
        named: dict[str, list[str]] = {"after": [], "follow": []}
        for name in named:
            dependency = dependency_of(getattr(self, name))
            if dependency is not None:
                named[name] = sorted(dependency)
                if (wanted := needs(dependency, self.client)) is not None:
                    header[name] = wanted
        if self.timeout:
            header["timeout"] = float(self.timeout)
        return Options(header, **named)

    def _packer(self, mentions: Mentions) -> FunctionPacker:
        return FunctionPacker(self.client._keeper, lambda: self.client._resolve(self.targets), mentions)

    def _submit(
        self,
        request: MapRequest,
        function: bytes,
        offsets: array[int],
        items: Any,
        mentions: Mentions,
        options: Options | None = None,
    ) -> None:
        """Send a map of tasks that are packed already; `options` None: as the flags are now."""
        self.client._some_engines()
        mentions.hold_for(request)
        options = options or self._options()
        header: dict[str, Any] = {"type": "map", "id": 0, "tasks": len(offsets) - 1, **options.header}
        request.label = header["label"] = header["label"] if request.label is None else request.label
        request.after, request.follow = options.after, options.follow
        self.client._session.submit(request, header, [function, memoryview(offsets).cast("B"), items])
        self._record(request)
        self.client._calls.keep(request, header, [function, offsets, items], mentions)

    def _apply(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], block: bool) -> Any:
        name = name_of(f)
        request = MapRequest(name, 1)
        with Mentions() as mentions:
            function = self._packer(mentions).pack(KeywordCall(f, kwargs) if kwargs else f, name, request, star=True)
            offsets, items = pack([args])
        if block:
            self._submit(request, function, offsets, items, mentions)
            self.client._session.wait(lambda: request.done)
            succeeded, value = request.outcome(0)
            if not succeeded:
                raise value.with_traceback(None)
            return value
        from .asyncresult import AsyncResult

        result = AsyncResult(self.client, [request], fname=name, single=True)._watch()
        result.owner = True
        self._submit(request, function, offsets, items, mentions)
        return result

    # -- maps ----------------------------------------------------------------------------------------------------

    def map(
        self,
        f: Callable[..., Any],
        *sequences: Any,
        block: bool | None = None,
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        same_code: bool = True,
    ) -> Any:
        """As the builtin map, each `chunksize` items being one task. An AsyncMapResult unless it blocks.

        With ``ordered=False`` iterating yields results as they arrive. Unequal sequences stop at the shortest;
        generators are made lists; the result for empty ones is an empty list.

        `checkpoint`: a file that keeps results as they come, and from which a later call with the same function and
        items takes them, so that only the rest is run. ValueError: it is of another map, or no such file at all;
        BlockingIOError: another map writes it; OSError: it cannot be written. `same_code` False: results of the
        function as it was before its code was changed count, too.
        """
        if not sequences:
            raise TypeError("must have some sequences to map onto!")
        star = len(sequences) > 1
        items: Iterable[Any] = zip(*sequences, strict=False) if star else sequences[0]
        chunksize = chunksize or 1
        kept: AbstractContextManager[Checkpoint | None] = nullcontext()
        if checkpoint is not None and chunksize > 0 and (items := list(items)):
            from .checkpoint import Checkpoint

            kept = Checkpoint(checkpoint, same_code, f, items, star, chunksize)
        with kept as journal:
            result = self._map_items(f, items, star, chunksize, ordered, return_exceptions, label, checkpoint=journal)
        if isinstance(result, list) or not (self.block if block is None else block):
            return result
        return result.get()

    def _map_items(
        self,
        f: Callable[..., Any],
        items: Iterable[Any],
        star: bool,
        chunksize: int,
        ordered: bool,
        return_exceptions: bool,
        label: str | None,
        join: Callable[[Sequence[Any]], Any] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> AsyncMapResult | list[Any]:
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        from .mapresult import AsyncMapResult

        sizes: list[int] | None = None
        name = name_of(f)
        client = self.client
        repeated = Repeated(lambda value: client._keeper.put(value, client._resolve(self.targets), private=True))
        with Mentions() as mentions:
            if chunksize != 1:
                known = repeated.replaced(list(items))
                chunks = [known[start : start + chunksize] for start in range(0, len(known), chunksize)]
                sizes = [len(chunk) for chunk in chunks]
                offsets, packed = pack(chunks if checkpoint is None else checkpoint.missing_of(chunks))
            else:
                offsets, packed = pack(items if checkpoint is None else checkpoint.missing_of(items), repeated)
            count = len(offsets) - 1
            if count == 0 and checkpoint is None:
                return []
            request = MapRequest(name, count, label) if checkpoint is None else checkpoint.request(name, label)
            task = request if count == 1 else None
            function = b""
            if count:
                function = self._packer(mentions).pack(f, name, task, star=star, chunked=sizes is not None)
        result = AsyncMapResult(
            self.client,
            [request],
            fname=name,
            ordered=ordered,
            return_exceptions=return_exceptions,
            sizes=sizes,
            join=join,
            order=None if checkpoint is None else checkpoint.order,
        )._watch()
        if checkpoint is None or checkpoint.begin(client, self, request):
            self._submit(request, function, offsets, packed, mentions)
        return result

    def imap(
        self,
        f: Callable[..., Any],
        *sequences: Any,
        ordered: bool = True,
        max_outstanding: int | str = "auto",
        return_exceptions: bool = False,
        checkpoint: None = None,
    ) -> Iterator[Any]:
        """As the builtin map for inputs of any length, even endless ones: a LazyMapIterator over the results.

        Inputs are taken only as fast as results are asked for: at most `max_outstanding` tasks (0: no limit of one's
        own; ``'auto'``: as many as keep the engines busy), and at most 64 MiB of pickled inputs, have been sent without
        that. Its ``cancel()`` takes no more inputs.
        """
        from .imap import LazyMapIterator

        if checkpoint is not None:
            raise NotImplementedError(
                "imap() keeps no checkpoint, because it does not know all of its items: map_async(…, checkpoint=…) "
                "does, and with ordered=False gives results as they come"
            )
        if not sequences:
            raise TypeError("must have some sequences to map onto!")
        limit = None if max_outstanding == "auto" else int(max_outstanding)
        if limit is not None and limit < 0:
            raise ValueError(f"max_outstanding must be 'auto', 0 or more, not {max_outstanding}")
        return LazyMapIterator(self, f, sequences, ordered, limit, return_exceptions)

    def register_joblib_backend(self, name: str = "ipyparallel", make_default: bool = False) -> None:
        """Let joblib use this view, as ``parallel_config(name)``; the default name also means ``"pxcluster"``.

        ImportError: joblib is not installed.
        """
        from .joblib import register

        register(name, make_default, self)
