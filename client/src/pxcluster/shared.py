"""Objects that are sent to engines once, and the handles that stand for them in arguments, functions and items.

A `Lease` is the client's knowledge of one such object; when nobody holds it any more the engines let go of theirs.
Holders are the user's handle, and every request that mentions the object until it has been answered: a task that
waits must find what its arguments name.
"""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from collections import deque
from hashlib import sha256
from itertools import count
from pickle import PickleBuffer
from typing import Any

from . import serialize
from ._engine import objects
from .requests import ABORTED, DirectRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from .client import Client
    from .frames import Bytes, Header
    from .requests import Request
    from .session import Session


class Shared:
    """An object that every engine has, made by :meth:`Client.put`.

    In arguments, items, closures, defaults and pushed values of any call, at any depth, it stands for the object: that
    is what arrives. All that an engine runs gets the same object. It is freed when the handle is collected or
    released and what has been submitted with it has been answered.
    """

    def __init__(self, client: Client, lease: Lease) -> None:
        self._client = client
        self._what = lease.what
        #: Bytes of the pickled object.
        self.nbytes = lease.nbytes
        self._lease: Lease | None = lease

    def _held(self) -> Lease:
        lease = self._lease
        if lease is None:
            raise serialize.SerializationError(
                f"the handle of a shared {self._what} has been released and cannot be used any more: "
                "put() the object again"
            )
        return lease

    def get(self) -> Any:
        """The object, brought back from an engine. Raises what made it impossible to load there."""
        lease = self._held()
        alive = self._client._session.registry.engines
        engine = next((engine for engine in lease.engines if engine in alive), lease.engines[0])
        return self._client.direct_view(engine).apply_sync(objects.itself, self)

    def release(self) -> None:
        """Let the engines free the object, as soon as what was submitted with it has been answered."""
        self._lease = None

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        return self._held().__reduce__()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        state = f"{self.nbytes:,} bytes" if self._lease is not None else "released"
        return f"<{type(self).__name__} {self._what}: {state}>"


class Lease:
    """An object on `engines`, a `what`; pickled it is the object there. It ends when nobody holds it."""

    __slots__ = ("__weakref__", "_keeper", "engines", "key", "nbytes", "what")

    def __init__(self, keeper: Keeper, key: str, what: str, nbytes: int, engines: Sequence[int]) -> None:
        self._keeper = keeper
        self.key = key
        self.what = what
        self.nbytes = nbytes
        self.engines = engines

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        mentions = _current.mentions
        if mentions is not None:
            mentions.leases.add(self)
        return objects.look_up, (self.key, self.what)

    def __del__(self) -> None:
        self._keeper.ended(self.key)


class Mentions:
    """The leases that this thread pickles inside a ``with`` statement."""

    __slots__ = ("_outer", "leases")

    def __init__(self) -> None:
        self.leases: set[Lease] = set()

    def __enter__(self) -> Self:
        self._outer = _current.mentions
        _current.mentions = self
        return self

    def __exit__(self, *exc_info: object) -> None:
        _current.mentions = self._outer

    def hold_for(self, request: Request) -> None:
        """Hold the leases until `request` is done."""
        if self.leases:
            request.when_done(set(self.leases).clear)


class _Current(threading.local):
    mentions: Mentions | None = None


_current = _Current()


class Keeper:
    """Sends a session's objects to engines, and has them forgotten."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # A session that another process resumes counts from the beginning.
        self._prefix = f"{session.name}/{secrets.token_hex(4)}"
        self._numbers = count(1)
        self._ended: deque[str] = deque()
        #: By digest: single tasks under way that took their large function along, and functions sent for such tasks.
        self._alone: weakref.WeakValueDictionary[bytes, Request] = weakref.WeakValueDictionary()
        self._functions: weakref.WeakValueDictionary[bytes, Lease] = weakref.WeakValueDictionary()

    def put(self, obj: object, engines: Sequence[int], private: bool = False) -> Lease:
        """Send `obj` to `engines`, which is not waited for. `private`: everybody who takes it has one of its own.

        Raises SerializationError.
        """
        with Mentions() as mentions:
            buffers = serialize.dumps(obj)
        return self.put_packed(_kind_of(obj), buffers, engines, mentions, private and type(obj) not in (bytes, str))

    def put_packed(
        self, what: str, buffers: Sequence[Bytes], engines: Sequence[int], mentions: Mentions, private: bool = False
    ) -> Lease:
        """:meth:`put` of an object that is pickled already."""
        lease = Lease(self, f"{self._prefix}.{next(self._numbers)}", what, size_of(buffers), engines)
        keep = objects.keep_packed if private else objects.keep
        call: tuple[Any, ...] = (keep, (lease.key, what, *map(PickleBuffer, buffers)), {})
        request = DirectRequest("put", "apply", engines)
        mentions.hold_for(request)
        submit_unlisted(self._session, request, serialize.dumps(call))
        return lease

    def function_of_task(
        self, what: str, buffers: Sequence[Bytes], engines: Sequence[int], mentions: Mentions, request: Request
    ) -> Lease | None:
        """A lease of the large function of `request`, which is one task; None: it is to go along with the task.

        It goes along with the first of several tasks that are under way at a time, and is sent for the others.
        """
        digest = sha256(repr(engines).encode())  # many processors have an instruction for it
        for buffer in buffers:
            digest.update(buffer)
        name = digest.digest()
        lease = self._functions.get(name)
        if lease is None:
            other = self._alone.get(name)
            if other is None or other.done:
                self._alone[name] = request
            else:
                lease = self._functions[name] = self.put_packed(what, buffers, engines, mentions)
        return lease

    def ended(self, key: str) -> None:
        """A lease has ended: in any thread, at any point of the program."""
        session = self._session
        if session.lost is None and session._process == os.getpid():
            self._ended.append(key)
            session._callbacks.append(self._forget)
            session._wake()

    def flush(self) -> None:
        """Have forgotten now what has ended: the session is about to be closed."""
        if self._ended and self._session.lost is None:
            self._forget()

    def _forget(self) -> None:
        keys = []
        while self._ended:
            keys.append(self._ended.popleft())
        engines = sorted(self._session.registry.engines)
        if not keys or not engines:
            return

        def again() -> None:
            if request.number_of(ABORTED):
                for key in keys:
                    self.ended(key)

        request = DirectRequest("release", "apply", engines)
        request.when_done(again)
        try:
            submit_unlisted(self._session, request, serialize.dumps((objects.forget, (keys,), {})))
        except Exception:  # the session is over, and with it this client's part in the cluster
            pass


def submit_unlisted(session: Session, request: DirectRequest, body: Sequence[Bytes]) -> None:
    """Send a call that is the client's own affair, of which no record tells."""
    everyone = session.registry.is_everyone(request.targets)
    header: Header = {"type": "direct", "id": 0, "kind": "apply", "unlisted": True}
    header["targets"] = None if everyone else list(request.targets)
    session.submit(request, header, body)


def size_of(buffers: Sequence[Bytes]) -> int:
    """Bytes of a pickle and its buffers."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def _kind_of(obj: object) -> str:
    kind = type(obj)
    home = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return home + kind.__qualname__
