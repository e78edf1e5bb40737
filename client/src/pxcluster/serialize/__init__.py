"""How Python objects cross the network: pickle protocol 5 with the namespace rules of interactive work.

Client and engine use the same functions. Nothing here opens a file, a socket or a thread.

- :func:`dumps` / :func:`loads`: bodies of requests, large buffers (arrays) beside the pickle and never copied into it;
- :func:`dumps_task` / :func:`loads_task`: single items and results of a map, one `bytes` each, fast for plain values
  (:func:`dumps_numbers`: many at once).

Functions defined interactively (in ``__main__``, as lambdas, inside other functions, or marked by :func:`interactive`)
travel as code. Those of ``__main__`` find their globals in the ``__main__`` of the process that loads them; globals
they refer to do not travel. Functions and classes of importable modules travel by name. Classes of ``__main__``
travel by value, through cloudpickle.
"""

from ._dump import (
    NUMBERS,
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
from ._source import cell_label, received_label
from ._task import ALIGNED, loads_plain, loads_task

__all__ = [
    "ALIGNED",
    "NUMBERS",
    "Reference",
    "SerializationError",
    "cell_label",
    "dumps",
    "dumps_numbers",
    "dumps_task",
    "interactive",
    "loads",
    "loads_plain",
    "loads_task",
    "received_label",
    "resolve_references",
    "task_pieces",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
]
