"""Things to do at given times, for one thread that asks when it is time."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Alarms:
    """A heap of `do(about, *args)`; not thread-safe.

    There is no way to cancel one: `do` checks whether it still matters.  Those about futures that
    have ended are dropped when they become the majority.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()  # equal times keep their order
        self._limit = 1000

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._heap, (when, next(self._order), do, args))
        if len(self._heap) > self._limit:
            self._drop_stale()

    def after(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        self.at(time.monotonic() + seconds, do, *args)

    @property
    def next_at(self) -> float:
        """When the next one is, on `time.monotonic()`; infinite if there is none."""
        try:
            return self._heap[0][0]
        except IndexError:
            return math.inf

    def clear(self) -> None:
        self._heap.clear()

    def delay(self) -> float | None:
        """Seconds until the next one; None if there is none."""
        next_at = self.next_at
        return None if next_at == math.inf else max(0.0, next_at - time.monotonic())

    def ring(self) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            _, _, do, args = heapq.heappop(self._heap)
            do(*args)

    def _drop_stale(self) -> None:
        self._heap = [alarm for alarm in self._heap if not _is_stale(alarm[3])]
        heapq.heapify(self._heap)
        self._limit = max(1000, 2 * len(self._heap))


def _is_stale(args: tuple[Any, ...]) -> bool:
    is_done = getattr(args[0], "done", None) if args else None
    return is_done is not None and bool(is_done())
