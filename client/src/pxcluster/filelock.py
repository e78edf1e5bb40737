"""Who may write a journal: a lock of the kernel's, which no death leaves behind, on a file that names its holder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from time import strftime

#: The file system has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class FileLock:
    """The right to write a journal. BlockingIOError: somebody has it, and the sentence says who."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path) + ".lock"
        self.works = True
        while True:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as problem:
                raise type(problem)(
                    f"checkpoint {path} cannot be written: {problem.strerror} ({self._path}); name a file in a folder "
                    "that exists and that you may write to"
                ) from None
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._file, 1000, 0).decode(errors="replace").strip() or "another program"
                os.close(self._file)
                raise BlockingIOError(
                    f"checkpoint {path} is being written by {holder}: wait until that ends, or end it"
                ) from None
            except OSError as problem:
                if problem.errno not in _NO_LOCKS:
                    os.close(self._file)
                    raise
                self.works = False
                warnings.warn(
                    f"the file system of checkpoint {path} has no locks ({problem.strerror}): see to it that no other "
                    "program writes this checkpoint",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if not self.works or self._is_there():
                break
            os.close(self._file)  # its holder has removed it
        job = os.environ.get("SLURM_JOB_ID")
        holder = f"process {os.getpid()} on {socket.gethostname()}{f' in job {job}' if job else ''}"
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{holder} since {strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
        except OSError:
            pass  # the disk is full: others will not learn who it is

    def _is_there(self) -> bool:
        """Whether the file that is locked is the one that others find."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others have it."""
        try:
            os.unlink(self._path)
        except OSError:
            pass  # the folder is gone, or was made read-only
        os.close(self._file)
