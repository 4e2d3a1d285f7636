"""How many calls of a kind a worker may hold: as many as take it a few milliseconds together."""

from __future__ import annotations

WINDOW_SECONDS = 0.004
"""What the calls that a worker holds should take it together."""
LARGEST = 2048
"""The most calls a worker may ever hold, unless the pool was told otherwise."""
MOST = 16
"""Functions that a worker without work is told of in advance."""
MANY = 1024
"""Kinds that are remembered; a program may make a new lambda for each call."""
FEW = 4
"""Windows smaller than that gain nothing, so calls that are not short are sent one by one."""


class Pace:
    """Microseconds per call of each kind, as workers measure them, and the windows that follow."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._pace: dict[int, float] = {}
        self._windows: dict[int, int] = {}
        self.functions: dict[int, bytes] = {}  # the first few that were answered, by kind

    def learn(self, kind: int, microseconds: float, function: bytes | None) -> int | None:
        """Returns the new window of that kind if it has changed."""
        if function is not None and kind not in self.functions and len(self.functions) < MOST:
            self.functions[kind] = function
        old = self._pace.get(kind)
        if old is None:
            old = microseconds
            if len(self._pace) >= MANY:
                self._forget_the_oldest()
        pace = self._pace[kind] = 0.7 * old + 0.3 * microseconds
        window = min(self._largest, int(WINDOW_SECONDS * 1e6 / (pace + 1)))
        window = 1 if window < FEW else 1 << (window.bit_length() - 1)  # steps: it rarely changes
        if window == self._windows.get(kind):  # one that was forgotten is told again, 1 as well
            return None
        self._windows[kind] = window
        return window

    def _forget_the_oldest(self) -> None:
        kind = next(iter(self._pace))
        del self._pace[kind], self._windows[kind]
