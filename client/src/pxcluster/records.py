"""The calls that the controller remembers, of all clients, in the form of records that can be searched."""

from __future__ import annotations

import json
from datetime import datetime
from fnmatch import fnmatch
from math import isnan
from typing import Any, NamedTuple

from .jobs import parsed
from .reply import METADATA_KEYS, Metadata
from .requests import STATUS_NAMES, datetime_of, msg_id_of
from .resubmit import msg_ids_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .client import Client

#: What a record has beside the metadata of the call.
_MORE = ("header", "client_uuid", "resubmitted", "queue")
_KEYS = frozenset({*METADATA_KEYS, *_MORE})
#: In the columns of a `history` frame: no status yet, no engine.
_PENDING = 0xFF
_NO_ENGINE = 0xFFFFFFFF

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


class Past(NamedTuple):
    """A call on one engine, or a task, that the controller remembers."""

    msg_id: str
    session: str
    number: int
    slot: int
    kind: str
    label: str | None
    submitted: float
    #: None: it has not ended, or there were too many in its call for the controller to remember each.
    status: int | None
    engine: int | None
    started: float | None
    completed: float | None


def hub_history(client: Client) -> list[str]:
    """See Client.hub_history."""
    return [past.msg_id for past in remembered(client)]


def db_query(client: Client, query: dict[str, Any], keys: str | list[str] | None) -> list[dict[str, Any]]:
    """See Client.db_query."""
    tests = list(_tests(query))
    wanted = [keys] if isinstance(keys, str) else None if keys is None else list(keys)
    for key in wanted or ():
        _check_key(key)
    found = []
    for past in remembered(client):
        record = _record(client, past)
        if all(test(record[key]) for key, test in tests):
            found.append(record if wanted is None else {key: record[key] for key in dict.fromkeys(["msg_id", *wanted])})
    return found


def remembered(client: Client) -> Iterator[Past]:
    """What the controller remembers of all clients, oldest calls first."""
    calls, *buffers = client._session.request({"type": "history", "id": 0}).buffers
    engines, statuses = memoryview(buffers[0]).cast("I"), memoryview(buffers[1])
    started, completed = memoryview(buffers[2]).cast("d"), memoryview(buffers[3]).cast("d")
    row = 0
    for call in json.loads(bytes(calls)):
        session, number = call["session"], call["request"]
        count = call["tasks"] or len(call["targets"])
        for slot in range(count):
            engine = call["targets"][slot] if call["targets"] else None
            status = start = end = None
            if call["parts"]:
                engine = _ran_on(engines[row], engine)
                status = None if statuses[row] == _PENDING else statuses[row]
                start, end = _known(started[row]), _known(completed[row])
                row += 1
            yield Past(
                msg_id_of(session, number, slot, count),
                session,
                number,
                slot,
                call["kind"],
                call["label"],
                call["submitted"],
                status,
                engine,
                start,
                end,
            )


def _ran_on(engine: int, target: int | None) -> int | None:
    return target if engine == _NO_ENGINE else engine


def _known(moment: float) -> float | None:
    return None if isnan(moment) else moment


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


def _record(client: Client, past: Past) -> dict[str, Any]:
    """All that is known of a call on one engine, or of a task: here, and by the controller."""
    session = client._session
    registry = session.registry
    own = past.session == session.name
    request = registry.find(past.number) if own else registry.fetched.get((past.session, past.number))
    if request is not None:
        metadata = request.metadata(past.slot)
    else:
        metadata = Metadata(
            msg_id=past.msg_id,
            submitted=datetime_of(past.submitted),
            started=datetime_of(past.started),
            completed=datetime_of(past.completed),
            engine_id=past.engine,
            engine_uuid=None if past.engine is None else registry.uuids.get(past.engine),
            status=None if past.status is None else STATUS_NAMES.get(past.status),
            label=past.label,
        )
        call = client._calls.find(past.number) if own else None
        if call is not None:
            metadata["after"], metadata["follow"] = list(call.after), list(call.follow)
            metadata["execute_input"] = call.code
    return {
        **metadata,
        "client_uuid": past.session,
        "header": {
            "msg_id": past.msg_id,
            "session": past.session,
            "date": metadata["submitted"],
            "msg_type": "execute_request" if past.kind == "execute" else "apply_request",
        },
        "queue": "task" if past.kind == "map" else "mux",
        "resubmitted": client._calls.resubmitted.get(past.msg_id),
    }


def purge(client: Client, jobs: Any, targets: Any, *, local: bool, remote: bool) -> None:
    """See Client.purge_results."""
    everything = isinstance(jobs, str) and jobs == "all"
    if not everything and not jobs and jobs != 0 and _is_nothing(targets):
        raise ValueError("Must specify at least one of `targets` and `jobs`")
    name, registry = client._session.name, client._session.registry
    numbers = {number for number, _ in client._requests}
    others: set[tuple[str, int]] = set()
    if not everything:
        named = set()
        if jobs or jobs == 0:
            named = {parsed(client, msg_id)[:2] for msg_id in msg_ids_of(client, jobs)}
        engines = set() if _is_nothing(targets) else set(client._resolve(targets))
        if engines:
            named |= {(name, number) for number in numbers if engines & _engines(client, number)}
        numbers &= {number for session, number in named if session == name}
        others = {pair for pair in named if pair[0] != name}
        if remote and engines:
            others |= {(past.session, past.number) for past in remembered(client) if past.engine in engines}
    waiting = [request for request in registry.outstanding() if request.id in numbers]
    if waiting:
        pending = [request.msg_id(slot) for request in waiting for slot in range(request.count)]
        raise RuntimeError(
            f"Can't purge outstanding tasks: {', '.join(pending[:10])}{' …' if len(pending) > 10 else ''}"
        )
    if local:
        registry.forget(numbers)
    if remote:
        chosen = None if everything else sorted({(name, number) for number in numbers} | others)
        client._session.request({"type": "purge", "id": 0, "requests": chosen})
        client._calls.purge(None if everything else numbers)


def _is_nothing(targets: Any) -> bool:
    return targets is None or (isinstance(targets, list | tuple | set) and not targets)


def _engines(client: Client, number: int) -> set[int]:
    """The engines that a call is known to have run on."""
    request, call = client._session.registry.find(number), client._calls.find(number)
    if request is not None:
        return {engine for slot in range(request.count) if (engine := request.engine(slot)) is not None}
    return set() if call is None else set(call.targets)
