"""What a client knows of its calls, in the form of records that can be searched."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

from .jobs import parsed
from .reply import METADATA_KEYS, Metadata
from .resubmit import msg_ids_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .client import Client

#: What a record has beside the metadata of the call.
_MORE = ("header", "client_uuid", "resubmitted", "queue")
_KEYS = frozenset({*METADATA_KEYS, *_MORE})

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, wanted: value == wanted,
    "$ne": lambda value, wanted: value != wanted,
    "$lt": lambda value, wanted: value is not None and value < wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
    "$gt": lambda value, wanted: value is not None and value > wanted,
    "$gte": lambda value, wanted: value is not None and value >= wanted,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
    "$all": lambda value, wanted: value is not None and all(each in value for each in wanted),
    "$mod": lambda value, wanted: value is not None and value % wanted[0] == wanted[1],
    "$exists": lambda value, wanted: (value is not None) == bool(wanted),
    "$glob": lambda value, wanted: value is not None and fnmatch(value, wanted),
}


def hub_history(client: Client) -> list[str]:
    """See Client.hub_history."""
    calls = client._calls
    return client._msg_ids(request for request in list(client._requests) if not calls.is_purged(request[0]))


def db_query(client: Client, query: dict[str, Any], keys: str | list[str] | None) -> list[dict[str, Any]]:
    """See Client.db_query."""
    tests = list(_tests(query))
    wanted = [keys] if isinstance(keys, str) else None if keys is None else list(keys)
    for key in wanted or ():
        _check_key(key)
    client._session.wait(lambda: False, 0)  # what has come is seen
    found = []
    for msg_id in hub_history(client):
        record = _record(client, msg_id)
        if all(test(record[key]) for key, test in tests):
            found.append(record if wanted is None else {key: record[key] for key in dict.fromkeys(["msg_id", *wanted])})
    return found


def _check_key(key: str) -> None:
    if key not in _KEYS:
        raise KeyError(f"records have no {key!r}: they have {', '.join(sorted(_KEYS))}")


def _tests(query: dict[str, Any]) -> Iterator[tuple[str, Callable[[Any], bool]]]:
    for key, wanted in query.items():
        _check_key(key)
        for operator, value in wanted.items() if isinstance(wanted, dict) else (("$eq", wanted),):
            if operator not in _OPERATORS:
                raise ValueError(f"there is no operator {operator!r}: there are {', '.join(_OPERATORS)}")
            yield key, _test(_OPERATORS[operator], _aware(value))


def _test(operator: Callable[[Any, Any], bool], wanted: Any) -> Callable[[Any], bool]:
    return lambda value: operator(value, wanted)


def _aware(value: Any) -> Any:
    """A time without a zone is one of this machine's clock."""
    return value.astimezone() if isinstance(value, datetime) and value.tzinfo is None else value


def _record(client: Client, msg_id: str) -> dict[str, Any]:
    """All that is known of a call on one engine, or of a task."""
    _, number, slot = parsed(client, msg_id)
    session = client._session
    request, call = session.registry.find(number), client._calls.find(number)
    if request is not None:
        metadata = request.metadata(slot)
    else:
        metadata = Metadata(msg_id=msg_id)
        if call is not None:
            metadata["submitted"] = datetime.fromtimestamp(call.submitted, UTC)
            metadata["label"] = call.label
            metadata["engine_id"] = call.targets[slot] if call.targets else None
            metadata["after"], metadata["follow"] = list(call.after), list(call.follow)
    kind = None if call is None else call.header.get("kind", "map")
    return {
        **metadata,
        "client_uuid": session.name,
        "header": {
            "msg_id": msg_id,
            "session": session.name,
            "date": metadata["submitted"],
            "msg_type": None if kind is None else "execute_request" if kind == "execute" else "apply_request",
        },
        "queue": None if kind is None else "task" if kind == "map" else "mux",
        "resubmitted": client._calls.resubmitted.get(msg_id),
    }


def purge(client: Client, jobs: Any, targets: Any, *, local: bool, remembered: bool) -> None:
    """See Client.purge_results."""
    everything = isinstance(jobs, str) and jobs == "all"
    if not everything and not jobs and jobs != 0 and _is_nothing(targets):
        raise ValueError("Must specify at least one of `targets` and `jobs`")
    registry = client._session.registry
    numbers = {number for number, _ in client._requests}
    if not everything:
        chosen = set()
        if jobs or jobs == 0:
            named = [parsed(client, msg_id) for msg_id in msg_ids_of(client, jobs)]
            chosen = {number for session, number, _ in named if session == client._session.name}
        if not _is_nothing(targets):
            engines = set(client._resolve(targets))
            chosen |= {number for number in numbers if engines & _engines(client, number)}
        numbers &= chosen
    pending = [request for request in registry.outstanding() if request.id in numbers]
    if pending:
        names = [request.msg_id(slot) for request in pending for slot in range(request.count)]
        raise RuntimeError(f"Can't purge outstanding tasks: {', '.join(names[:10])}{' …' if len(names) > 10 else ''}")
    if local:
        registry.forget(numbers)
    if remembered:
        client._calls.purge(None if everything else numbers, max(numbers, default=0))


def _is_nothing(targets: Any) -> bool:
    return targets is None or (isinstance(targets, list | tuple | set) and not targets)


def _engines(client: Client, number: int) -> set[int]:
    """The engines that a call is known to have run on."""
    request, call = client._session.registry.find(number), client._calls.find(number)
    if request is not None:
        return {engine for slot in range(request.count) if (engine := request.engine(slot)) is not None}
    return set() if call is None else set(call.targets)
