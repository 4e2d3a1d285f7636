"""The thread that runs the done-callbacks of a pool's futures."""

from __future__ import annotations

import threading
from _queue import SimpleQueue
from collections.abc import Callable


class CallbackThread:
    """Runs callbacks in order; started by the first one. The pool owns and closes it.

    A slow callback delays other callbacks, never a call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Guards _thread and _closed, and that nothing is queued once it is closed. Reentrant, for a
        # `__del__` that ends a future.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
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
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
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

    def join(self, timeout: float | None) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
