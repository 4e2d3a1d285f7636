"""Calls in the queue of the thread backend that no worker will take."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backend import ThreadBackend
    from .calls import ThreadFuture

__all__ = ["empty", "end_waiting"]


def empty(pool: ThreadBackend) -> None:
    """Nobody is left to run what raced with the shutdown; the last to leave sees to it, too."""
    while True:
        try:
            drawn = pool._queue.get_nowait()
        except queue.Empty:
            return
        if drawn:
            pool._call_for(drawn).cancel()


def end_waiting(pool: ThreadBackend, end: Callable[[ThreadFuture], object]) -> None:
    """Take every call that waits from the queue and end it."""
    while True:
        try:
            drawn = pool._queue.get_nowait()
        except queue.Empty:
            return
        if drawn is None:
            pool._put(None)
            return
        if drawn is False:
            continue
        with pool._lock:
            pool._taken_by_gone += 1
        end(pool._call_for(drawn))
