"""The thread that runs the done-callbacks of a backend's futures; and its like, for errands."""

from __future__ import annotations

import threading
from _queue import SimpleQueue
from collections.abc import Callable

from unirun._prompt import Thread


class CallbackThread:
    """Runs callbacks in order; started by the first one. The pool owns and closes it.

    A slow callback delays other callbacks, never a call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Guards _thread and _closed, and that nothing is queued once it is closed. Reentrant, for a
        # `__del__` that ends a future.
        self._lock = threading.RLock()
        self._thread: Thread | None = None
        self._closed = False
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self, callback: Callable[[], None]) -> None:
        with self._lock:
            queued = not self._closed and self._start()
            if queued:
                self._queue.put(callback)
        if not queued:
            callback()  # no thread to be had: late, or at interpreter exit

    def _start(self) -> bool:
        if self._thread is None:
            self._thread = Thread(self._work, self._name)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                return False
        return True

    def _work(self) -> None:
        while (callback := self._queue.get()) is not None:
            callback()
            del callback

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._queue.put(None)

    def join(self, timeout: float | None) -> bool:
        """Wait until the last has run; False if that takes longer."""
        return self._thread is None or self._thread.ends_within(timeout)
