"""Finding calls again by name, by index or by their results; and waiting for engines."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from .asyncresult import AsyncHubResult, AsyncResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future

    from .client import Client
    from .requests import Request
    from .view import View


_MSG_ID = re.compile(r"(?P<session>[^_]+)_(?P<request>\d+)(_(?P<slot>\d+))?", re.ASCII)


def _slots_of(client: Client, job: Any, known_only: bool) -> list[tuple[Request, int]]:
    """The (request, slot) pairs that a job names. KeyError: nobody holds its result any more; TypeError."""
    if isinstance(job, AsyncResult):
        return job._slots()
    if isinstance(job, int):
        job = client.history[job]
    if not isinstance(job, str):
        raise TypeError(f"Expected msg_id, int, or AsyncResult, got {job!r}")
    session = client._session
    if known_only and not _MSG_ID.fullmatch(job):
        return []
    whose, number, slot = parsed(client, job)
    request = session.registry.find(number) if whose == session.name else None
    if request is None:
        if known_only:
            return []
        request = _fetched(client, job, whose, number)
    if slot >= request.count:
        raise KeyError(f"{job!r}: the call has only {request.count} results")
    return [(request, slot)]


def parsed(client: Client, msg_id: str) -> tuple[str, int, int]:
    """Session, number and slot of a msg_id. KeyError: it is none."""
    named = _MSG_ID.fullmatch(msg_id)
    if named is None:
        name = client._session.name
        raise KeyError(f"{msg_id!r} is not a msg_id: they look like {name}_1 or {name}_1_0")
    return named["session"], int(named["request"]), int(named["slot"] or 0)


def _fetched(client: Client, job: str, whose: str, number: int) -> Request:
    try:
        return client._session.fetch(whose, number)
    except KeyError as problem:
        raise KeyError(f"nobody holds the result of {job!r} any more, and {problem.args[0]}") from None


def listed(jobs: Any) -> tuple[list[Any], bool]:
    """One job or several as a list, and whether it was one."""
    if isinstance(jobs, list | tuple | set | frozenset | Iterator):
        return list(jobs), False
    return [jobs], True


def requests_of(client: Client, jobs: Any, known_only: bool = False) -> list[Request]:
    """The requests that `jobs` (one job or several) belong to, each once."""
    found: dict[int, Request] = {}
    for job in listed(jobs)[0]:
        for request, _ in _slots_of(client, job, known_only):
            found[request.id] = request
    return list(found.values())


def result_of(client: Client, jobs: Any) -> AsyncResult:
    """An AsyncResult of one job or of several; an AsyncHubResult if any of it was fetched from the cluster."""
    several, single = listed(jobs)
    parts = [part for job in several for part in _slots_of(client, job, False)]
    single = single and len(parts) == 1
    kind = AsyncHubResult if any(request.origin for request, _ in parts) else AsyncResult
    return kind(
        client,
        [request for request, _ in parts],
        fname=parts[0][0].name if parts else "unknown",
        single=single,
        parts=parts,
    )._watch()


def result_status(client: Client, jobs: Any, status_only: bool) -> dict[str, Any]:
    """See Client.result_status."""
    parts = [part for job in listed(jobs)[0] for part in _slots_of(client, job, False)]
    if any(not request.slot_done(slot) for request, slot in parts):
        client._session.wait(lambda: False, 0)  # what has come is seen
    completed = {request.msg_id(slot): (request, slot) for request, slot in parts if request.slot_done(slot)}
    known = dict.fromkeys(request.msg_id(slot) for request, slot in parts)
    pending = [msg_id for msg_id in known if msg_id not in completed]
    found: dict[str, Any] = {"pending": pending, "completed": list(completed)}
    if not status_only:
        found |= {msg_id: request.outcome(slot)[1] for msg_id, (request, slot) in completed.items()}
    return found


class ResultsByName(Mapping[str, Any]):
    """The results of a client's or of a view's calls, or their metadata, by msg_id."""

    def __init__(self, client: Client, metadata: bool, of: Client | View) -> None:
        self._client = client
        self._metadata = metadata
        self._of = of

    def __getitem__(self, msg_id: str) -> Any:
        held = _slots_of(self._client, msg_id, True) if isinstance(msg_id, str) else []
        if held and self._of is not self._client and msg_id not in self._of.history:
            raise KeyError(f"{msg_id!r} is no call of this view")
        if not held:
            raise KeyError(f"nobody holds the result of {msg_id!r} here; rc.get_result may fetch it")
        request, slot = held[0]
        if self._metadata:
            return request.metadata(slot)
        if not request.slot_done(slot):
            raise KeyError(msg_id)
        return request.outcome(slot)[1]

    def __iter__(self) -> Iterator[str]:
        for msg_id in self._of.history:
            slots = _slots_of(self._client, msg_id, True)
            if slots and (self._metadata or slots[0][0].slot_done(slots[0][1])):
                yield msg_id

    def __len__(self) -> int:
        return sum(1 for _ in self)


def wait_for_engines(
    client: Client, n: int, timeout: float, block: bool, interactive: bool | None, widget: bool | None
) -> Future[None] | None:
    """See Client.wait_for_engines."""
    if not block:
        from concurrent.futures import Future

        future: Future[None] = Future()

        def watch() -> None:
            try:
                _wait_for_engines(client, n, timeout, False, widget)
            except Exception as problem:
                future.set_exception(problem)
            else:
                future.set_result(None)

        threading.Thread(target=watch, name="pxcluster-wait-for-engines", daemon=True).start()
        return future
    if interactive is None:
        from .outputs import shell
        from .progress import noninteractive

        interactive = shell() is not None and not noninteractive()
    _wait_for_engines(client, n, timeout, interactive, widget)
    return None


def _wait_for_engines(client: Client, n: int, timeout: float, interactive: bool, widget: bool | None) -> None:
    session = client._session
    if len(client) >= n:
        return
    session.check()
    limit = timeout if timeout >= 0 else None
    if not interactive:
        enough = session.wait(lambda: len(client) >= n, limit)
    else:
        from time import monotonic

        from .progress import progress

        deadline = None if limit is None else monotonic() + limit
        bar = progress(widget=widget, initial=len(client), total=n, unit="engine")
        try:
            while not (enough := session.wait(lambda: len(client) >= n, 0.1)):
                bar.update(len(client) - bar.n)
                if deadline is not None and monotonic() > deadline:
                    break
            bar.update(len(client) - bar.n)
        finally:
            bar.close()
    if not enough:
        raise TimeoutError(f"{n} engines not ready in {timeout} seconds. Currently ready: {len(client)}")
