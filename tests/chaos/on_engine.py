"""What the engines of a run have in their namespaces: this text is executed there.

An engine writes what it runs into a file that is mapped into its memory, so that one knows of the dead what they ran.
"""

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import struct
import time
from pathlib import Path

FOLDER = Path()
MARKS = None
RUNS = struct.Struct("<q")
COUNT = 8


def chaos_begin(folder, engine):
    """Before the first task; the engine's process id."""
    global FOLDER, MARKS, ENGINE, EPOCH
    FOLDER, ENGINE, EPOCH = Path(folder), engine, 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stacks = open(FOLDER / f"stacks-{engine}", "w")  # noqa: SIM115 (written when the driver asks for it)
    faulthandler.register(signal.SIGUSR2, stacks, all_threads=True)
    descriptor = os.open(FOLDER / f"marks-{engine}", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, 16)
    MARKS = mmap.mmap(descriptor, 16)
    os.close(descriptor)
    return os.getpid()


def chaos_run(task):
    """One task: its number, the last push that was seen, the engine."""
    number, kind, argument = task
    RUNS.pack_into(MARKS, 0, number + 1)
    try:
        if kind == 1:
            time.sleep(argument)
        elif kind == 2:
            end = time.perf_counter() + argument
            while time.perf_counter() < end:
                pass
        elif kind == 3:
            raise ValueError(str(number))
        elif kind == 4:
            if any(chaos_first(f"flaky-{number}-{turn}") for turn in range(int(argument))):
                raise RuntimeError(f"{number} will succeed when it is tried again")
        elif kind == 5 and chaos_first(f"died-{number}"):
            if argument == 0:
                ctypes.string_at(0)
            os._exit(3)
        RUNS.pack_into(MARKS, COUNT, RUNS.unpack_from(MARKS, COUNT)[0] + 1)
        return number, EPOCH, ENGINE
    finally:
        RUNS.pack_into(MARKS, 0, 0)


def chaos_first(name):
    """Whether nobody has asked this before, on any engine."""
    try:
        os.close(os.open(FOLDER / name, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True
