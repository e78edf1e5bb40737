"""Threads that sleep until another one has news.

A condition of ``threading`` cannot be left by an exception at any point: one that a signal raises between the release
of its lock and the sleep leaves it released. Here nothing but the sleep itself is to be open for interrupts.
"""

from __future__ import annotations

from threading import Lock


class Sleepers:
    """The threads that sleep."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._alarms: list[Lock] = []

    def join(self) -> Lock:
        """An alarm for the calling thread, which sleeps as it acquires it: until the next :meth:`wake` from now on."""
        alarm = Lock()
        alarm.acquire()
        with self._lock:
            self._alarms.append(alarm)
        return alarm

    def leave(self, alarm: Lock) -> None:
        """The thread does not sleep any more."""
        with self._lock:
            self._alarms.remove(alarm)

    def wake(self) -> None:
        """There is news. Costs nothing while nobody sleeps."""
        if not self._alarms:
            return
        with self._lock:
            for alarm in self._alarms:
                if alarm.locked():
                    alarm.release()
