"""The file in which a map keeps its finished results: what is in it, who may write it, and the thread that does.

It is a database of SQLite's with a rollback journal, which also serves on file systems that hosts share: no memory is
mapped. A commit has all results of half a second, so that a process that is killed loses no more. Results are kept as
the pickles that engines sent, the columns of a frame as a row.

Beside it lies, while a map writes, a file ``.lock`` that names the process. Its lock is the kernel's, which no death
leaves behind.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from array import array
from itertools import accumulate
from typing import NamedTuple

from .filelock import FileLock
from .requests import OK

try:
    import sqlite3
except ImportError as problem:
    raise ImportError("checkpoint= needs the module sqlite3, which this Python was built without") from problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .frames import Bytes

_APPLICATION = 0x70786A6C  # "pxjl", as SQLite's header has it
_FORMAT = 1
_MAGIC = b"SQLite format 3\0"
#: Results that have come are written after so long, seconds, or when they have so many bytes.
_PERIOD = 0.5
_MOST = 16 << 20
#: After a failure, such as a full disk, the next attempt comes so many seconds later.
_RETRY = 2.0
#: So many bytes of pickles lie in one row. SQLite's bound is a billion.
_PIECE = 256 << 20

_open: dict[str, Journal] = {}


@atexit.register
def _close_all() -> None:
    for journal in list(_open.values()):
        journal.close()


class Identity(NamedTuple):
    """What makes a map the same one."""

    function: str
    #: Digests of the function's code and of all items.
    code: bytes
    digest: bytes
    items: int
    #: Whether items are tuples of arguments.
    star: bool
    chunksize: int
    python: str

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return -(-self.items // self.chunksize)


class Rows(NamedTuple):
    """Results as a frame has them: tasks (u32[n]), offsets (u64[n + 1]) of their pickles, pickles."""

    tasks: Sequence[int]
    offsets: memoryview
    payload: memoryview


class _Arrived(NamedTuple):
    """Results of a frame that are to be written. `sent`: the task of each slot, None if they are the same."""

    sent: Sequence[int] | None
    slots: Bytes
    statuses: Bytes
    offsets: Bytes
    payload: Bytes

    def row(self) -> tuple[bytes, Bytes, memoryview, int]:
        """The results that are no errors: tasks, offsets, pickles, and how many."""
        tasks = array("I", bytes(self.slots))
        offsets, payload, statuses = memoryview(self.offsets).cast("Q"), memoryview(self.payload), bytes(self.statuses)
        if self.sent is not None:
            tasks = array("I", map(self.sent.__getitem__, tasks))
        if statuses.count(OK) == len(statuses) and offsets[0] == 0:
            return tasks.tobytes(), self.offsets, payload[: offsets[-1]], len(statuses)
        good = [at for at, status in enumerate(statuses) if status == OK]
        pickles = [payload[offsets[at] : offsets[at + 1]] for at in good]
        ends = array("Q", accumulate(map(len, pickles), initial=0))
        return (
            array("I", (tasks[at] for at in good)).tobytes(),
            ends.tobytes(),
            memoryview(b"".join(pickles)),
            len(good),
        )


class Journal:
    """The journal of the map `identity` at `path`, made if there is none; nobody else may write it until it is closed.

    `same_code`: results of a function of that name with other code do not count as its results.
    ValueError: the file is no journal, or of another map. BlockingIOError: somebody writes it. OSError: it cannot be
    written.
    """

    def __init__(self, path: str, identity: Identity, same_code: bool = True) -> None:
        self.path = path
        self._key = os.path.realpath(path)
        before = _open.get(self._key)
        if before is not None:
            before.end()
        self._identity = identity
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._pending: list[_Arrived] = []
        self._bytes = 0
        self._finished = self._closing = self._urgent = False
        self._warned = False
        self._run: str | None = None
        #: What :meth:`note` was told by a process that has not closed the file.
        self.unfinished: str | None = None
        self._thread: threading.Thread | None = None
        self._lock = FileLock(path)
        try:
            self._database = _connect(path, self._lock.works)
            try:
                self._check(same_code)
            except BaseException:
                self._database.close()
                raise
        except sqlite3.DatabaseError as problem:
            self._lock.release()
            raise _explained(path, problem) from None
        except BaseException:
            self._lock.release()
            raise
        _open[self._key] = self

    # -- what is in it -------------------------------------------------------------------------------------------

    def _check(self, same_code: bool) -> None:
        """See that the file is this map's, or make it so."""
        found = self._database
        if not found.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._create()
            return
        application = found.execute("PRAGMA application_id").fetchone()[0]
        version = found.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION:
            raise ValueError(f"{self.path} is no checkpoint of a map, but another database: name another file")
        if version != _FORMAT:
            raise ValueError(
                f"checkpoint {self.path} has format {version}, and this pxcluster knows {_FORMAT}: name another file"
            )
        *fields, self.unfinished = found.execute("SELECT * FROM map").fetchone()
        theirs, ours = Identity(*fields), self._identity
        reason = _difference(self.path, theirs, ours, same_code)
        if reason:
            raise ValueError(reason)
        if theirs != ours:
            found.execute("UPDATE map SET code = ?, python = ?", (ours.code, ours.python))

    def _create(self) -> None:
        self._database.executescript(
            f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_FORMAT}; BEGIN;"
            "CREATE TABLE map (function TEXT, code BLOB, digest BLOB, items INTEGER, star INTEGER, chunksize INTEGER, "
            "python TEXT, run TEXT);"
            # A row without tasks has more of the pickles of the row before it.
            "CREATE TABLE results (tasks BLOB, offsets BLOB, payload BLOB);"
        )
        self._database.execute("INSERT INTO map VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", self._identity)
        self._database.execute("COMMIT")

    def restored(self) -> Iterator[Rows]:
        """The results that it has; those of a task may come twice. ValueError: the file is damaged."""
        row: tuple[bytes, bytes] | None = None
        pieces: list[bytes] = []
        try:
            for tasks, offsets, payload in self._database.execute("SELECT * FROM results ORDER BY rowid"):
                if tasks is not None:
                    if row is not None:
                        yield self._rows(*row, pieces)
                    row, pieces = (tasks, offsets), []
                pieces.append(payload)
            if row is not None:
                yield self._rows(*row, pieces)
        except sqlite3.DatabaseError as problem:
            raise _explained(self.path, problem) from None

    def _rows(self, tasks: bytes, offsets: bytes, pieces: list[bytes]) -> Rows:
        payload = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if len(offsets) != 2 * len(tasks) + 8 or len(tasks) % 4:
            raise self._damaged()
        rows = Rows(memoryview(tasks).cast("I"), memoryview(offsets).cast("Q"), payload)
        ends = list(rows.offsets)
        if ends[0] or ends != sorted(ends) or ends[-1] != len(payload):
            raise self._damaged()
        if len(rows.tasks) and max(rows.tasks) >= self._identity.tasks:
            raise self._damaged()
        return rows

    def _damaged(self) -> Exception:
        return _explained(self.path, sqlite3.DatabaseError("its rows make no sense"))

    # -- writing -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Results will come."""
        self._thread = threading.Thread(target=self._write_all, name="pxcluster-checkpoint", daemon=True)
        self._thread.start()

    def note(self, run: str) -> None:
        """Remember, until the file is closed, whose results come."""
        with self._changed:
            self._run = run
            self._changed.notify_all()

    def _noted(self) -> bool:
        return self._run not in (None, self.unfinished)

    def keep(self, sent: Sequence[int] | None, buffers: Sequence[Bytes]) -> None:
        """Write the good ones of a frame of results, soon. Never fails, and takes no time."""
        slots, _, statuses, _, _, offsets, payload, *_ = buffers
        view = memoryview(payload)
        if view.nbytes and view[0] == 0 and not view.readonly:
            payload = bytes(view)  # the user's array lies there, and he may write to it
        with self._changed:
            self._pending.append(_Arrived(sent, slots, statuses, offsets, payload))
            self._bytes += view.nbytes
            self._urgent = self._bytes >= _MOST
            if len(self._pending) == 1 or self._urgent:
                self._changed.notify_all()

    def finish(self) -> None:
        """No more results come. The rest is written, and the file closed, soon."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def end(self) -> None:
        """Wait until the file is closed, by a map of this process that has ended. BlockingIOError: it has not."""
        if not self._finished:
            raise BlockingIOError(
                f"checkpoint {self.path} is being written by a map of this program that has not ended: wait for its "
                "result or abort it, with rc.abort(), and call again"
            )
        self.close()

    def close(self) -> None:
        """Write what has come, if it can be, and close the file."""
        if self._process != os.getpid():
            return
        with self._changed:
            self._finished = self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        else:
            self._shut()

    def _write_all(self) -> None:
        """The thread: writes what comes, every half second, until no more comes."""
        failed = self._attempt(())
        over = False
        while not over:
            if failed is not None and not self._warned:
                self._warned = True
                self._warn(
                    f"checkpoint {self.path} cannot be written ({failed}): results that come from now on are kept in "
                    "memory until it can be"
                )
            with self._changed:
                if failed is None:
                    self._changed.wait_for(lambda: self._pending or self._finished or self._noted())
                    self._changed.wait_for(lambda: self._finished or self._urgent, _PERIOD)
                else:
                    self._changed.wait_for(lambda: self._closing, _RETRY)
                batch, size = self._batch()
                last = self._closing
            failed = self._attempt(batch)
            with self._changed:
                if failed is None:
                    del self._pending[: len(batch)]
                    self._bytes -= size
                    self._urgent = self._bytes >= _MOST
                over = (last and failed is not None) or (self._finished and not self._pending)
        lost = sum(bytes(arrived.statuses).count(OK) for arrived in self._pending)
        if lost:
            self._warn(
                f"checkpoint {self.path} could not be written ({failed}): {lost} results are not in it, and a later "
                "call computes them again"
            )
        self._shut()

    def _batch(self) -> tuple[list[_Arrived], int]:
        """The first of what waits, about as much as is written at once, and its bytes."""
        batch: list[_Arrived] = []
        size = 0
        for arrived in self._pending:
            if size >= _MOST:
                break
            batch.append(arrived)
            size += memoryview(arrived.payload).nbytes
        return batch, size

    def _attempt(self, batch: Sequence[_Arrived]) -> Exception | None:
        """Write results; what went wrong, if anything, and then none of them is in the file."""
        try:
            run = self._run
            self._database.execute("BEGIN IMMEDIATE")
            try:
                if run is not None and run != self.unfinished:
                    self._database.execute("UPDATE map SET run = ?", (run,))
                for arrived in batch:
                    self._insert(*arrived.row())
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError, MemoryError) as problem:
            return problem
        self.unfinished = run or self.unfinished
        return None

    def _insert(self, tasks: Bytes, offsets: Bytes, payload: memoryview, count: int) -> None:
        insert = "INSERT INTO results VALUES (?, ?, ?)"
        if count:
            self._database.execute(insert, (tasks, offsets, payload[:_PIECE]))
            for start in range(_PIECE, len(payload), _PIECE):
                self._database.execute(insert, (None, None, payload[start : start + _PIECE]))

    def _shut(self) -> None:
        if _open.get(self._key) is not self:
            return
        try:
            if self.unfinished is not None and not self._pending:
                self._database.execute("UPDATE map SET run = NULL")
        except sqlite3.Error:
            pass  # the next one looks for a run that is over
        self._database.close()
        self._lock.release()
        del _open[self._key]

    def _warn(self, sentence: str) -> None:
        try:
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
        except RuntimeWarning as problem:  # the user wants exceptions, and here nobody would see one
            import sys

            print(f"pxcluster: {problem}", file=sys.stderr)


def _difference(path: str, theirs: Identity, ours: Identity, same_code: bool) -> str | None:
    """Why a journal is of another map than ours, in one sentence."""
    if theirs.function != ours.function:
        return f"checkpoint {path} has results of {theirs.function}, not of {ours.function}: name another file"
    if theirs.items != ours.items:
        return (
            f"checkpoint {path} is of a map of {theirs.items} items, and this one has {ours.items}: name another file"
        )
    if (theirs.digest, theirs.star) != (ours.digest, ours.star):
        return f"checkpoint {path} is of a map of {ours.items} other items: name another file"
    if theirs.chunksize != ours.chunksize:
        return (
            f"checkpoint {path} is of a map with chunksize={theirs.chunksize}: call it with that, or name another file"
        )
    if same_code and theirs.code != ours.code:
        if theirs.python != ours.python:
            why = f"was written by Python {theirs.python}, whose code cannot be compared with that of {ours.python}"
        else:
            why = f"has results of {ours.function} as it was before its code was changed"
        return (
            f"checkpoint {path} {why}: delete the file to compute everything anew, or, if its results still hold, "
            "keep them with same_code=False"
        )
    return None


def _connect(path: str, locks: bool) -> sqlite3.Connection:
    """Open the database. ValueError: it is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        head = b""
    except OSError as problem:
        raise type(problem)(f"checkpoint {path} cannot be read: {problem.strerror}; name another file") from None
    if head not in (b"", _MAGIC):
        raise ValueError(f"{path} is no checkpoint of a map: name another file")
    # Without locks of the file system there can be none of SQLite's either.
    address = "file:" + _quoted(os.path.abspath(path)) + ("" if locks else "?nolock=1")
    database = sqlite3.connect(address, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA synchronous = FULL")
    return database


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path))


def _explained(path: str, problem: sqlite3.DatabaseError) -> ValueError | OSError:
    """What to raise when the database cannot be opened or read."""
    text = str(problem)
    if isinstance(problem, sqlite3.OperationalError):
        return OSError(f"checkpoint {path} cannot be used: {text}; see to that, or name a file elsewhere")
    return ValueError(f"checkpoint {path} is damaged ({text}): delete the file to compute everything anew")
