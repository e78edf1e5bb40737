"""How Python objects cross the network: pickle protocol 5 with the namespace rules of interactive work.

Client and engine use the same functions. Nothing here opens a file, a socket or a thread.

- :func:`dumps` / :func:`loads`: bodies of requests, large buffers (arrays) beside the pickle and never copied into it;
- :func:`dumps_task` / :func:`loads_task`: single items and results of a map, one `bytes` each, fast for plain values
  (:func:`dumps_numbers`: many at once);
- :func:`serialize_object` / :func:`deserialize_object`: objects for programs that carry them by themselves;
- :data:`can_map` / :data:`uncan_map`: how instances of classes of the user's choice travel, see :mod:`.canning`.

Functions defined interactively (in ``__main__``, as lambdas, inside other functions, or marked by :func:`interactive`)
travel as code. Those of ``__main__`` find their globals in the ``__main__`` of the process that loads them; globals
they refer to do not travel. Functions and classes of importable modules travel by name. Classes of ``__main__``
travel by value, through cloudpickle.
"""

from __future__ import annotations

from ._dump import (
    dumps,
    dumps_numbers,
    dumps_task,
    loads,
    task_pieces,
    use_cloudpickle,
    use_dill,
    use_pickle,
)
from ._errors import SerializationError
from ._functions import interactive
from ._reference import Reference, resolve_references
from ._registered import NUMBERS
from ._source import cell_label, received_label
from ._task import ALIGNED, loads_plain, loads_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._message import (
        PrePickled,
        deserialize_object,
        pack_apply_message,
        serialize_object,
        unpack_apply_message,
    )
    from .canning import can, can_map, uncan, uncan_map

#: Names that few programs use, and where they are.
_LATER = {
    **dict.fromkeys(("can", "can_map", "uncan", "uncan_map"), "canning"),
    **dict.fromkeys(("PrePickled", "deserialize_object", "serialize_object"), "_message"),
    **dict.fromkeys(("pack_apply_message", "unpack_apply_message"), "_message"),
}

__all__ = [
    "ALIGNED",
    "NUMBERS",
    "PrePickled",
    "Reference",
    "SerializationError",
    "can",
    "can_map",
    "cell_label",
    "deserialize_object",
    "dumps",
    "dumps_numbers",
    "dumps_task",
    "interactive",
    "loads",
    "loads_plain",
    "loads_task",
    "pack_apply_message",
    "received_label",
    "resolve_references",
    "serialize_object",
    "task_pieces",
    "uncan",
    "uncan_map",
    "unpack_apply_message",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
