"""Importing this lets plain pickle take code objects, as ipyparallel's module of that name does."""

from __future__ import annotations

import copyreg
import marshal
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def reduce_code(code: CodeType) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
    """The pickle reduction of a code object, for the same version of Python."""
    return marshal.loads, (marshal.dumps(code),)


copyreg.pickle(CodeType, reduce_code)
