"""Cycles that tasks leave behind, collected by the bytes they hold.

The interpreter counts objects: a cycle around an array is two of them, however large the array is,
and hundreds may pile up before it sees a reason to look.  So a worker that has grown looks for
itself, before it waits for its next call: nobody waits for it then.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import gc
import os

GROWTH = 32 << 20
"""Bytes by which a worker may grow before it looks; or a quarter of what it has, if that is more:
so all looks together take a share of the time that growing took."""
PAUSE = 0.01
"""Seconds between two readings of the size, which take 20 us."""

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Garbage:
    """Used by the worker's loop alone."""

    def __init__(self) -> None:
        self.look_at = 0.0  # on the clock of who calls `look`
        self._limit: int | None = None

    def look(self, now: float) -> None:
        """Read the size of this process; collect if it is much more than it was."""
        self.look_at = now + PAUSE
        size = _size()
        if self._limit is not None and size > self._limit and gc.isenabled():
            gc.collect()
            size, self._limit = _size(), None
        limit = size + max(GROWTH, size // 4)
        self._limit = limit if self._limit is None else min(limit, self._limit)


def _size() -> int:
    """Bytes in memory that are not shared; 0, and so nothing is done, where nobody tells."""
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE
