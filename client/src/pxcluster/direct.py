"""Views that address engines by their ids: the same call on each of them, in the order of submission."""

from __future__ import annotations

from typing import Any

from . import serialize
from .gatherrequest import GatherRequest
from .partition import distribution, only
from .requests import DirectRequest
from .shared import Mentions
from .view import View, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from .asyncresult import AsyncResult
    from .frames import Bytes, Header
    from .mapresult import AsyncMapResult


class DirectView(View):
    """One engine (``rc[0]``) or several (``rc[:]``, ``rc[::2]``, ``rc[0, 3]``).

    A call on one engine has a bare value as its result, a call on a list of engines a list, even of length one.
    ``view["name"]`` and ``view["name"] = value`` reach into the engines' namespaces and always wait.
    """

    # -- the one way to the engines ------------------------------------------------------------------------------

    def _resolve(self, targets: Any) -> tuple[list[int], bool]:
        """The engine ids of `targets` (None: the view's), and whether the result is a bare value."""
        targets = self.targets if targets is None else targets
        if type(targets) is int and targets >= 0:
            session = self.client._session
            if targets not in session.registry.engines:
                self.client._resolve(targets)
            return [targets], True
        return self.client._resolve(targets), isinstance(targets, int)

    def _send(
        self,
        name: str,
        kind: str,
        body: Sequence[Bytes],
        engines: list[int],
        watch: bool = True,
        single: bool = False,
        mentions: Mentions | None = None,
        make: type[DirectRequest] = DirectRequest,
        label: str | None = None,
        code: str | None = None,
    ) -> tuple[DirectRequest, AsyncResult | None]:
        """Submit a direct request; with an AsyncResult, unless nobody will see one."""
        request = make(name, kind, engines, self.label if label is None else label)
        request.code = code
        if mentions is not None:
            mentions.hold_for(request)
        result = None
        if watch:
            from .asyncresult import AsyncResult

            result = AsyncResult(self.client, [request], fname=name, single=single)._watch()
            result.owner = True
        session = self.client._session
        everyone = session.registry.is_everyone(engines)
        header: Header = {"type": "direct", "id": 0, "kind": kind, "targets": None if everyone else engines}
        if request.label is not None:
            header["label"] = request.label
        session.submit(request, header, body)
        self._record(request)
        self.client._calls.keep(request, header, body, mentions)
        return request, result

    def _call(self, name: str, kind: str, content: Any, targets: Any, block: bool | None) -> Any:
        """A request of one body for all targets: its result if `block`, otherwise an AsyncResult."""
        with Mentions() as mentions:
            body = serialize.dumps(content)
        engines, single = self._resolve(targets)
        if not (self.block if block is None else block):
            return self._send(name, kind, body, engines, single=single, mentions=mentions)[1]
        if single:
            request = self._send(name, kind, body, engines, watch=False, mentions=mentions)[0]
            self.client._session.wait(lambda: request.done)
            succeeded, value = request.outcome(0)
            if not succeeded:
                raise value.with_traceback(None)
            return value
        result = self._send(name, kind, body, engines, mentions=mentions)[1]
        assert result is not None
        return result.get()

    def _apply(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], block: bool) -> Any:
        return self._call(name_of(f), "apply", (f, args, kwargs), None, block)

    # -- code ----------------------------------------------------------------------------------------------------

    def execute(
        self, code: str, silent: bool = True, targets: Any = None, block: bool | None = None, label: str | None = None
    ) -> AsyncResult:
        """Run `code` as an IPython cell. Returns an AsyncResult of ExecuteReply objects, finished if it blocks.

        A silent execute shows no result and does not count in the engine's history.
        """
        body = serialize.dumps({"code": code, "silent": bool(silent), "store_history": not silent})
        engines, single = self._resolve(targets)
        shown = None if silent else code
        result = self._send("execute", "execute", body, engines, single=single, label=label, code=shown)[1]
        assert result is not None
        if self.block if block is None else block:
            result.get()
        return result

    def run(
        self, filename: str, targets: Any = None, block: bool | None = None, label: str | None = None
    ) -> AsyncResult:
        """Run the content of a local file; see :meth:`execute`."""
        with open(filename, encoding="utf-8") as file:
            code = file.read() + "\n"
        return self.execute(code, targets=targets, block=block, label=label)

    def sync_imports(self, local: bool = True, quiet: bool = False) -> AbstractContextManager[None]:
        """Imports inside the ``with`` statement happen here and on the engines. ``as`` names are not bound there."""
        from .imports import sync_imports

        return sync_imports(self, local, quiet)

    @property
    def importer(self) -> AbstractContextManager[None]:
        """``with view.importer:`` is ``with view.sync_imports():``."""
        return self.sync_imports(True)

    # -- data ----------------------------------------------------------------------------------------------------

    def push(
        self, ns: dict[str, Any], targets: Any = None, block: bool | None = None, track: bool | None = None
    ) -> Any:
        """Bind the names of `ns` in the engines' namespaces. TypeError: `ns` is no dict."""
        if not isinstance(ns, dict):
            raise TypeError(f"Must be a dict, not {type(ns)}")
        return self._call("_push", "push", ns, targets, block)

    def update(self, ns: dict[str, Any]) -> Any:
        """As :meth:`push`."""
        return self.push(ns)

    def pull(self, names: str | Sequence[str], targets: Any = None, block: bool | None = None) -> Any:
        """The values of expressions on the engines: one, or a list for a list of expressions."""
        if not isinstance(names, str):
            if not isinstance(names, list | tuple | set):
                raise TypeError(f"names must be strs, not {names!r}")
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"keys must be str, not type {type(name)!r}")
            names = list(names)
        return self._call("_pull", "pull", names, targets, block)

    def get(self, key_s: str | Sequence[str]) -> Any:
        """:meth:`pull` that always waits."""
        return self.pull(key_s, block=True)

    def __getitem__(self, key: str | Sequence[str]) -> Any:
        return self.pull(key, block=True)

    def __setitem__(self, key: str, value: Any) -> None:
        self.push({key: value}, block=True)

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Remove the user's names from the engines' namespaces, in order with all other calls."""
        return self._call("clear", "clear", None, targets, block)

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: str = "b",
        flatten: bool = False,
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> AsyncResult | None:
        """Cut `seq` in one part per engine (`dist` ``'b'``: contiguous, ``'r'``: round robin) and bind them as `key`.

        `flatten`: a part of one element is bound as that element. Returns an AsyncResult, None if it blocks.
        """
        from .asyncresult import AsyncResult

        engines = self._resolve(targets)[0]
        cut, length = distribution(dist), len(seq)
        bodies = []
        with Mentions() as mentions:
            for index in range(len(engines)):
                part = cut.part(seq, index, len(engines), length)
                bodies.append(serialize.dumps({key: only(part) if flatten and len(part) == 1 else part}))
        requests = [
            self._send("scatter", "push", body, [engine], watch=False, mentions=mentions)[0]
            for engine, body in zip(engines, bodies, strict=True)
        ]
        result = AsyncResult(self.client, requests, fname="scatter")._watch()
        if self.block if block is None else block:
            result.get()
            return None
        return result

    def gather(self, key: str, dist: str = "b", targets: Any = None, block: bool | None = None) -> Any:
        """The inverse of :meth:`scatter`: the parts joined to a list or an array. Blocks or gives an AsyncMapResult.

        Large arrays are read to where they belong in the result, so that iterating over it gives views of it.
        """
        from .mapresult import AsyncMapResult

        engines, join = self._resolve(targets)[0], distribution(dist).join
        make = GatherRequest if dist == "b" and len(engines) > 1 else DirectRequest
        request = self._send("gather", "pull", serialize.dumps(key), engines, watch=False, make=make)[0]
        result = AsyncMapResult(self.client, [request], fname="gather", join=join)._watch()
        return result.get() if (self.block if block is None else block) else result

    # -- maps ----------------------------------------------------------------------------------------------------

    def map(
        self,
        f: Callable[..., Any],
        *sequences: Any,
        block: bool | None = None,
        track: bool = False,
        return_exceptions: bool = False,
        label: str | None = None,
        checkpoint: None = None,
    ) -> Any:
        """As the builtin map, each engine taking one contiguous part. An AsyncMapResult unless it blocks.

        Unequal sequences stop at the shortest; generators are made lists.
        """
        if checkpoint is not None:
            raise NotImplementedError(
                "a direct view keeps no checkpoint, because it cuts a map by the number of engines: take "
                "rc.load_balanced_view().map_async(…, checkpoint=…)"
            )
        if not sequences:
            raise TypeError("must have some sequences to map onto!")
        known = [seq if hasattr(seq, "__len__") else list(seq) for seq in sequences]
        result = self._map_parts(f, known, min(map(len, known)), "b", True, return_exceptions, True, label)
        if isinstance(result, list) or not (self.block if block is None else block):
            return result
        return result.get()

    def _map_parts(
        self,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        length: int,
        dist: str,
        each: bool,
        return_exceptions: bool,
        ordered: bool,
        label: str | None = None,
    ) -> AsyncMapResult | list[Any]:
        """Call f on every element (`each`) or on the parts themselves; an empty list for empty sequences."""
        from .mapresult import AsyncMapResult
        from .remotefunction import map_part

        if length == 0:
            return []
        engines = self._resolve(None)[0]
        cut = distribution(dist)
        calls: list[tuple[int, int, list[bytes | memoryview]]] = []
        with Mentions() as mentions:
            for index, engine in enumerate(engines):
                parts = tuple(cut.part(seq, index, len(engines), length) for seq in sequences)
                size = min(map(len, parts))
                if size:
                    content: tuple[Any, ...] = (map_part, (f, *parts), {}) if each else (f, parts, {})
                    calls.append((engine, size, serialize.dumps(content)))
        name = name_of(f)
        requests = [
            self._send(name, "apply", body, [engine], watch=False, mentions=mentions, label=label)[0]
            for engine, _, body in calls
        ]
        return AsyncMapResult(
            self.client,
            requests,
            fname=name,
            ordered=ordered,
            return_exceptions=return_exceptions,
            sizes=[size for _, size, _ in calls] if each else None,
            join=cut.join,
        )._watch()

    # -- switches ------------------------------------------------------------------------------------------------

    def use_pickle(self) -> Any:
        """Pickle by this package's own rules again, here and on the engines."""
        serialize.use_pickle()
        return self.apply(serialize.use_pickle)

    def use_cloudpickle(self) -> Any:
        """Pickle by cloudpickle's rules, here and on the engines: functions take their globals with them."""
        serialize.use_cloudpickle()
        return self.apply(serialize.use_cloudpickle)

    def use_dill(self) -> Any:
        """Pickle with dill, here and on the engines. ImportError: dill is not installed here."""
        serialize.use_dill()
        return self.apply(serialize.use_dill)

    def activate(self, suffix: str = "") -> None:
        """Let the magics ``%px``, ``%%px``, ``%autopx``, ``%pxresult`` and ``%pxconfig`` (+ `suffix`) use this view."""
        from .magics import activate

        activate(self, suffix)


class BroadcastView(DirectView):
    """A DirectView under ipyparallel's other name: here every direct call is a broadcast."""

    _flag_names = (*DirectView._flag_names, "is_coalescing")

    is_coalescing = False
