"""What each cell of examples/first_session.ipynb shows, as ipyparallel 9 shows it.

Text is compared after `normalised`: floating-point numbers become `#`, times of %timeit `<time>`. `InAnyOrder` holds
live streams, which come as they come; everything else comes by engine id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .notebooks import Output


@dataclass(frozen=True)
class InAnyOrder:
    """Outputs that follow each other in any order."""

    outputs: list[Output]


Expected = list[Output | InAnyOrder]


def result(text: str) -> Output:
    return Output("result", text)


def streamed(text: str) -> InAnyOrder:
    """The same text from each engine's standard output."""
    return InAnyOrder([Output("display", f"[stdout:{engine}] {text}") for engine in range(4)])


def displayed(count: int, text: str) -> Expected:
    """`Out[engine:count]: text` from each engine."""
    return [Output("display", f"\x1b[0;31mOut[{engine}:{count}]: \x1b[0m{text}") for engine in range(4)]


def raised(function: str, message: str) -> Output:
    """The first failure of a map; which engine it was is free."""
    return Output("error", f"CompositeError | one or more exceptions raised in: {function}\n[<engine>:apply]{message}")


def imported(*lines: str) -> Output:
    return Output("stdout", "".join(f"importing {line} on engine(s)\n" for line in lines))


RANDOM_NUMBERS = result("[" + ",\n ".join(["#"] * 10) + "]")
TIMING = "<time> ± <time> per loop (mean ± std. dev. of 2 runs, 1 loop each)\n"

# The expectation of cell 12 is the sorted list, that of cell 18 lacks its stderr: both have tests of their own, too.
EXPECTED: dict[int, Expected] = {
    1: [result("[0, 1, 2, 3]")],
    2: [],
    3: [],
    4: [result("[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]")],
    5: [raised("by_constant", "NameError: name 'CONSTANT' is not defined")],
    6: [result("[0, 5, 10, 15, 20, 25, 30, 35, 40, 45]")],
    7: [raised("by_random", "NameError: name 'np' is not defined")],
    8: [RANDOM_NUMBERS],
    9: [imported("random from numpy.random"), RANDOM_NUMBERS],
    10: [imported("numpy"), raised("by_random", "NameError: name 'np' is not defined")],
    11: [imported("numpy"), RANDOM_NUMBERS],
    12: [imported("numpy", "time"), result("[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")],
    13: [imported("numpy"), *displayed(1, "#")],
    14: [*displayed(2, "#")],
    15: [streamed(TIMING)],
    16: [streamed("20\n"), Output("stdout", "randomizing my_var\n"), streamed("#\n")],
    17: [result("[#,\n #,\n #,\n #]")],
    18: [Output("error", "AlreadyDisplayedError | 4 errors")],
    19: [*displayed(9, "#")],
    20: [],
    21: [],
    22: [*displayed(12, "4")],
}


def normalised(text: str) -> str:
    """The text without what differs from run to run."""
    text = re.sub(r"The slowest run took .*\n", "", text)
    text = re.sub(r"\b\d+(\.\d+)?(e-?\d+)? (ns|[μu]s|ms|s)\b", "<time>", text)
    text = re.sub(r"(?<![\d.])\d+\.\d+(e-?\d+)?", "#", text)
    # IPython prints a list on one line when its numbers happen to be short enough.
    text = re.sub(r"#,\s+(?=#)", "#,\n ", text)
    return re.sub(r"\[\d:apply\]", "[<engine>:apply]", text)
