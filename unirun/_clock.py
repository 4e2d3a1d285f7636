"""A thread that does small things at given times.

Owned by whoever makes it, who also closes it.  The thread starts with the first appointment.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

__all__ = ["Appointment", "Clock"]


class Appointment:
    """One thing to do; `cancel()` makes sure it is not begun any more."""

    __slots__ = ("_do",)

    def __init__(self, do: Callable[[], None]) -> None:
        self._do: Callable[[], None] | None = do

    def cancel(self) -> None:
        self._do = None

    @property
    def cancelled(self) -> bool:
        return self._do is None

    def keep(self) -> None:
        do, self._do = self._do, None
        if do is not None:
            do()


class Clock:
    """Calls functions at times of `time.monotonic()`.

    The functions are ours: they must be short and must not raise.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._order = itertools.count()  # equal times keep their order
        # Guards _heap, _thread and _closed; notified when the earliest appointment changes.
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Appointment]] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._limit = 1000

    def call_at(self, when: float, do: Callable[[], None]) -> Appointment:
        """Call `do()` at `when`, in the clock's thread; ignored once the clock is closed."""
        appointment = Appointment(do)
        with self._changed:
            if self._closed:
                return appointment
            heapq.heappush(self._heap, (when, next(self._order), appointment))
            if len(self._heap) > self._limit:
                self._drop_cancelled()
            if self._thread is None:
                self._start()
            elif self._heap[0][2] is appointment:
                self._changed.notify()
        return appointment

    def start(self) -> None:
        """Start the thread now: Python 3.12.1 and before start none while the interpreter ends."""
        with self._changed:
            if self._thread is None and not self._closed:
                self._start()

    def _start(self) -> None:
        """Called with the lock held."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Forget every appointment and end the thread; does not wait for it."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end, after `close()`."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _drop_cancelled(self) -> None:
        """Most appointments are cancelled long before their time; called with the lock held."""
        self._heap = [entry for entry in self._heap if not entry[2].cancelled]
        heapq.heapify(self._heap)
        self._limit = max(1000, 2 * len(self._heap))

    def _run(self) -> None:
        while (due := self._next()) is not None:
            due.keep()

    def _next(self) -> Appointment | None:
        with self._changed:
            while not self._closed:
                if not self._heap:
                    self._changed.wait()
                    continue
                delay = self._heap[0][0] - time.monotonic()
                if delay <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(min(delay, threading.TIMEOUT_MAX))
        return None
