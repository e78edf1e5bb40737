"""Calls of this client that are made again, from what it remembers of them."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Any

from .asyncresult import AsyncHubResult, AsyncResult
from .jobs import listed, parsed
from .maprequest import MapRequest
from .requests import DirectRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .calls import Call
    from .client import Client
    from .requests import Request


def resubmit(client: Client, jobs: Any) -> AsyncHubResult:
    """See Client.resubmit."""
    msg_ids = msg_ids_of(client, jobs)
    wanted: dict[int, list[int]] = {}
    for msg_id in msg_ids:
        number, slot = _own(client, msg_id)
        wanted.setdefault(number, []).append(slot)
    calls = {number: _call(client, number, slots) for number, slots in wanted.items()}
    for number, call in calls.items():  # all that may be refused is, before anything is sent
        if call.targets:
            client._resolve([call.targets[slot] for slot in wanted[number]])
    parts: dict[tuple[int, int], tuple[Request, int]] = {}
    for number, call in calls.items():
        slots = list(dict.fromkeys(wanted[number]))
        request = _again(client, call, slots)
        parts |= {(number, slot): (request, at) for at, slot in enumerate(slots)}
    found = [parts[_own(client, msg_id)] for msg_id in msg_ids]
    for msg_id, (request, slot) in zip(msg_ids, found, strict=True):
        client._calls.resubmitted[msg_id] = request.msg_id(slot)
    return AsyncHubResult(
        client,
        [request for request, _ in found],
        fname=found[0][0].name if found else "unknown",
        parts=found,
    )._watch()


def msg_ids_of(client: Client, jobs: Any) -> list[str]:
    """The msg_ids of a job or of several. TypeError: something else is among them."""
    found: list[str] = []
    history: list[str] | None = None
    for job in listed(jobs)[0]:
        if isinstance(job, AsyncResult):
            found += job.msg_ids
        elif isinstance(job, int):
            history = client.history if history is None else history
            found.append(history[job])
        elif isinstance(job, str):
            found.append(job)
        else:
            raise TypeError(f"Expected msg_id, int, or AsyncResult, got {job!r}")
    return found


def _own(client: Client, msg_id: str) -> tuple[int, int]:
    """Number and slot of a call of this client. KeyError: it is none."""
    session, number, slot = parsed(client, msg_id)
    if session != client._session.name:
        raise KeyError(f"{msg_id!r} is a call of another client: only that one can make it again")
    return number, slot


def _call(client: Client, number: int, slots: list[int]) -> Call:
    call = client._calls.find(number)
    name = f"{client._session.name}_{number}"
    if call is None:
        raise KeyError(
            f"the call {name!r} is not remembered: the most recent calls can be made again, call the others anew"
        )
    if call.body is None:
        raise KeyError(f"the call {name!r} cannot be made again, because {call.missing}: call the function anew")
    if max(slots) >= call.slots:
        raise KeyError(f"the call {name!r} has only {call.slots} results")
    return call


def _again(client: Client, call: Call, slots: list[int]) -> Request:
    """Send the call for some of its engines or tasks."""
    assert call.body is not None
    header = {**call.header, "id": 0}
    body = list(call.body)
    request: Request
    if call.targets:
        engines = [call.targets[slot] for slot in slots]
        request = direct = DirectRequest(call.name, call.header["kind"], engines, call.label)
        direct.code = call.code
        header["targets"] = None if client._session.registry.is_everyone(engines) else engines
    else:
        function, offsets, items = body
        bounds = [(offsets[slot], offsets[slot + 1]) for slot in slots]
        data = memoryview(items)
        body = [
            function,
            array("Q", accumulate((end - start for start, end in bounds), initial=0)),
            b"".join(data[start:end] for start, end in bounds),
        ]
        header["tasks"] = len(slots)
        request = again = MapRequest(call.name, len(slots), call.label)
        again.after, again.follow = list(call.after), list(call.follow)
    client._session.submit(request, header, [memoryview(buffer).cast("B") for buffer in body])
    client._record(request)
    client._calls.keep(request, header, body, None)
    return request
