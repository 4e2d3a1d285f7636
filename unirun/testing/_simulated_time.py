"""Virtual time: what is to happen when, and the record of what did.

Time is counted in whole microseconds, and of two things at the same instant the one that was asked
for first happens first, so that a run is the same wherever and whenever it is repeated.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

from unirun.testing.invariants import Broken

SECOND: Final = 1_000_000
MILLISECOND: Final = 1_000


class Clock:
    """The agenda of a simulation, and its diary."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._diary: list[str] = []

    def after(self, delay: int, do: Callable[..., None], *args: Any) -> None:
        """Have `do(*args)` happen in so many microseconds."""
        self._order += 1
        heapq.heappush(self._agenda, (self.now + delay, self._order, do, args))

    def run(self, most: int) -> None:
        """Let everything happen; Broken if that is more than `most` things."""
        while self._agenda:
            self.events += 1
            if self.events > most:
                raise Broken(f"after {most} events there is no end to it")
            self.now, _, do, args = heapq.heappop(self._agenda)
            do(*args)

    def note(self, what: str) -> None:
        self._diary.append(f"{self.now:>10} {what}\n")

    @property
    def trace(self) -> str:
        """One line for each thing that happened, with its time in microseconds."""
        return "".join(self._diary)

    def tail(self, lines: int) -> str:
        return "".join(self._diary[-lines:])
