"""Calls that wait, by priority: only in a pool where somebody has asked for one.

The queue stays what workers wait at.  From the first priority on it holds a `TURN` for each call,
and the calls are in a heap; whoever draws a turn runs the first of them.  A call that is drawn
from the queue itself was put there before, so it is older than its equals in the heap.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calls import ThreadFuture

__all__ = ["TURN", "Ranks", "Turn"]


class Turn:
    """Stands in the queue for whatever call is the first."""

    __slots__ = ()


TURN = Turn()


class Ranks:
    def __init__(self) -> None:
        # Guards the heap. Reentrant, since a __del__ run by a garbage collection may submit.
        self._lock = threading.RLock()
        self._heap: list[tuple[int, int, ThreadFuture]] = []
        self._old = itertools.count(-(1 << 62))
        self._new = itertools.count()

    def add(self, future: ThreadFuture) -> None:
        """Before its turn is put into the queue."""
        entry = (-future._options.priority, next(self._new), future)
        with self._lock:
            heapq.heappush(self._heap, entry)

    def first(self, drawn: ThreadFuture | Turn) -> ThreadFuture:
        """The call to run for what was drawn from the queue."""
        with self._lock:
            if isinstance(drawn, Turn):
                return heapq.heappop(self._heap)[2]
            entry = (-drawn._options.priority, next(self._old), drawn)
            return heapq.heappushpop(self._heap, entry)[2]
