"""What a task waits for: how other calls end."""

from __future__ import annotations

import re
from typing import Any

from .asyncresult import AsyncResult
from .error import InvalidDependency

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from .client import Client

_MSG_ID = re.compile(r"([^_]+)_(\d+)(?:_(\d+))?")


class Dependency(set[str]):
    """A set of msg_ids, made from msg_ids, AsyncResults and other dependencies, and how those calls must end.

    `all`: each of them counts, otherwise one is enough. `success`, `failure`: calls that succeeded, that failed, count.
    ValueError: neither counts; TypeError: something else is among `dependencies`.
    """

    all: bool = True
    success: bool = True
    failure: bool = False

    def __init__(self, dependencies: Any = (), all: bool = True, success: bool = True, failure: bool = False) -> None:
        if isinstance(dependencies, dict):  # of as_dict()
            all = dependencies.get("all", all)
            success = dependencies.get("success", success)
            failure = dependencies.get("failure", failure)
            dependencies = dependencies.get("dependencies", ())
        super().__init__(_msg_ids(dependencies))
        if not (success or failure):
            raise ValueError("Must depend on at least one of successes or failures!")
        self.all, self.success, self.failure = all, success, failure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.all, self.success, self.failure)

    def check(self, completed: AbstractSet[str], failed: AbstractSet[str] | None = None) -> bool:
        """Whether it holds when these calls have succeeded and those have failed."""
        counted = self._union(completed if self.success else None, failed if self.failure else None)
        return not self or (self <= counted if self.all else bool(self & counted))

    def unreachable(self, completed: AbstractSet[str], failed: AbstractSet[str] | None = None) -> bool:
        """Whether it can never hold when these calls have succeeded and those have failed."""
        lost = self._union(None if self.success else completed, None if self.failure else failed)
        return bool(self) and (bool(self & lost) if self.all else self <= lost)

    @staticmethod
    def _union(*sets: AbstractSet[str] | None) -> set[str]:
        return {msg_id for each in sets if each is not None for msg_id in each}

    def as_dict(self) -> dict[str, Any]:
        """It as a dict, from which Dependency makes the same one again."""
        return {"dependencies": list(self), "all": self.all, "success": self.success, "failure": self.failure}


def _msg_ids(things: Any) -> Iterable[str]:
    if isinstance(things, str):
        yield things
    elif isinstance(things, AsyncResult):
        yield from things.msg_ids
    elif isinstance(things, list | tuple | set | frozenset):
        for thing in things:
            yield from _msg_ids(thing)
    else:
        raise TypeError(f"invalid dependency type: {type(things)!r}")


def dependency_of(flag: Any) -> Dependency | None:
    """The value of an `after` or `follow` flag; None if nothing is waited for. InvalidDependency: it makes no sense."""
    if flag is None:
        return None
    try:
        dependency = flag if isinstance(flag, Dependency) else Dependency(flag)
    except TypeError as problem:
        raise InvalidDependency(f"Invalid dependency: {flag!r}: {problem}") from None
    for msg_id in dependency:
        if not _MSG_ID.fullmatch(msg_id):
            raise InvalidDependency(f"Invalid dependency: {msg_id!r} is no msg_id: take them from an AsyncResult")
    return dependency or None


def _sent(client: Client, number: int) -> int | None:
    """How many tasks of a call were sent, if it has others, whose results a checkpoint had."""
    sent: int | None = getattr(client._session.registry.find(number), "sent", None)
    return sent


def needs(dependency: Dependency, client: Client) -> dict[str, Any] | None:
    """`dependency` as the controller understands it, None if it holds; whole requests of this client are named once.

    InvalidDependency: it can never hold.
    """
    slots: dict[tuple[str, int], list[int]] = {}
    for msg_id in dependency:
        session, number, slot = _MSG_ID.fullmatch(msg_id).groups()  # type: ignore[union-attr]  # checked before
        named = slots.setdefault((session, int(number)), [])
        if slot is not None:
            named.append(int(slot))
    found: list[dict[str, Any]] = []
    restored = 0
    for (session, number), named in slots.items():
        own = session == client._session.name
        need: dict[str, Any] = {"request": number} if own else {"session": session, "request": number}
        count, engines = client._shape(number) if own else (None, None)
        if own and (sent := _sent(client, number)) is not None:
            named = named or [0]
            restored += sum(slot >= sent for slot in named)
            named, count = [slot for slot in named if slot < sent], sent
            if not named:
                continue
        if not named or len(named) == count:
            found.append(need)
        else:
            found += [{**need, "part": engines[slot] if engines else slot} for slot in sorted(named)]
    if restored and dependency.success and not (found and dependency.all):
        return None
    if restored and not dependency.success and not (found and not dependency.all):
        raise InvalidDependency("results from a checkpoint have succeeded: a task cannot wait for their failure")
    return {
        "needs": found,
        "all": dependency.all,
        "success": dependency.success,
        "failure": dependency.failure,
    }
