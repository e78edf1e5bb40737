"""%%cython on many engines at once: they share one cache folder, so one compiles and the others wait and load."""

from __future__ import annotations

import functools
import os

from .import_hooks import after_import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def install() -> None:
    """Watch for Cython's magics from now on."""
    after_import("Cython.Build.IpythonMagic", _guard)


def _guard(module: Any) -> None:
    compile_cell = module.CythonMagics.cython

    @functools.wraps(compile_cell)
    def cython(self: Any, line: str, cell: str) -> Any:
        with _locked(os.path.join(module.get_ipython_cache_dir(), "cython")):
            return compile_cell(self, line, cell)

    module.CythonMagics.cython = cython


def _locked(folder: str) -> Any:
    """A context in which no other engine of this user, on this file system, compiles in `folder`."""
    import contextlib
    import fcntl

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        try:
            os.makedirs(folder, exist_ok=True)
            file = os.open(os.path.join(folder, ".pxcluster.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield  # an unwritable cache has its own error, in the words of Cython
            return
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    return held()
