"""What tests let engines run: functions that travel as if the user had typed them, and find their globals there."""

from __future__ import annotations

from typing import Any

from pxcluster import interactive


@interactive
def square(x: Any) -> Any:
    return x * x


@interactive
def add(x: Any, y: Any) -> Any:
    return x + y


@interactive
def pid() -> int:
    import os

    return os.getpid()


@interactive
def fail(message: str = "oh") -> None:
    raise ValueError(message)


@interactive
def fail_at_two(x: int) -> int:
    if x == 2:
        raise ValueError("two")
    return x


@interactive
def shout(text: str) -> str:
    import sys

    print(text)
    print(text.upper(), file=sys.stderr)
    return text


@interactive
def everything(*args: Any, f: Any = None, **named: Any) -> Any:
    return args, f, named


@interactive
def uses_a_name() -> Any:
    return name_of_engines + 1  # type: ignore[name-defined]  # noqa: F821


@interactive
def pid_of(_item: Any) -> int:
    import os

    return os.getpid()


@interactive
def fails_the_first_time(path: str) -> str:
    import os

    if not os.path.exists(path):
        with open(path, "w"):
            raise ValueError("the first time")
    return "in the end"


@interactive
def only_the_last_waits(item: Any) -> int:
    """The number of the pair; 2 waits for the gate in the folder, -1 fails."""
    import os
    import time

    number, folder = item
    if number == -1:
        raise ValueError(number)
    while number == 2 and not os.path.exists(os.path.join(folder, "open")):
        time.sleep(0.01)
    return int(number)


@interactive
def double_all(part: Any) -> list[Any]:
    return [2 * x for x in part]


@interactive
def total(part: Any) -> list[Any]:
    return [sum(part)]


@interactive
def uses_modules() -> str:
    return textwrap.dedent("  " + string.ascii_letters[:2])  # type: ignore[name-defined]  # noqa: F821


@interactive
def uses_colorsys() -> Any:
    return colorsys.rgb_to_hsv(1, 1, 1)  # type: ignore[name-defined]  # noqa: F821


@interactive
def uses_names(x: int) -> Any:
    return square(x) * factor  # type: ignore[name-defined]  # noqa: F821


@interactive
def is_engine(number: int) -> bool:
    return bool(engine == number)  # type: ignore[name-defined]  # noqa: F821


@interactive
def fails_with(name: str, text: str) -> None:
    import builtins

    raise getattr(builtins, name)(text)


@interactive
def shout_behind_a_gate(text: str, folder: str) -> None:
    import os
    import time

    while not os.path.exists(os.path.join(folder, "open")):
        time.sleep(0.01)
    print(text)
