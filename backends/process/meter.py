"""What a worker measures of its calls: processor time, memory, and when each began and ended.

One reading serves two calls: the end of one is the beginning of the next, unless FRESH has passed
in between.  So a call that is measured costs 1 us, and one of the many short ones nothing; what is
said of one is wrong by FRESH at most.

The system keeps the highest size of a process.  It is told to begin anew before a call, where the
last ones have raised it by GROWN; where it does not let itself be told, only a call that goes
beyond all before it has a peak.
"""

from __future__ import annotations

import os
import sys
from resource import RUSAGE_SELF, getrusage
from time import perf_counter_ns

from unirun import _context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from .worker import Worker

    Figures: TypeAlias = tuple[int, int, float, int | None, float | None, float | None]

FRESH = 200_000
"""Nanoseconds for which a reading is as good as a new one."""
GROWN = 1 << 20
"""Bytes."""

_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Used by the worker's loop alone."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.fresh_until = 0  # nanoseconds
        self.watched = 0  # so that each call is measured, and more of it
        # By number of the answer: when it began and ended, nanoseconds; processor seconds; highest
        # size; seconds to decode and to encode.
        self.figures: dict[int, Figures] = {}
        self._usage: Any = getrusage(RUSAGE_SELF)  # the last reading
        self._enough = 0.0  # highest size, as there, from which on it is told to begin anew
        self._can_reset = True
        self._decoding: float | None = None
        self._encoding: float | None = None

    def begin(self, now: int) -> None:
        """A call begins, and the last reading is not fresh any more."""
        self._usage = usage = getrusage(RUSAGE_SELF)
        if usage[2] > self._enough:
            self._reset()
        self.fresh_until = now + FRESH

    def end(self, number: int, began: int, now: int) -> None:
        """The call whose answer has that number is over."""
        before = self._usage
        self._usage = after = getrusage(RUSAGE_SELF)
        peak = after[2] * _UNIT if self._can_reset or after[2] > before[2] else None
        cpu = after[0] + after[1] - before[0] - before[1]
        self.figures[number] = (began, now, cpu, peak, self._decoding, self._encoding)
        self._decoding = self._encoding = None
        self.fresh_until = now + FRESH

    def take(self) -> dict[int, Figures] | None:
        """What was measured, once."""
        figures, self.figures = self.figures, {}
        return figures or None

    def _reset(self) -> None:
        try:
            # Not kept open: a task may close what is not its own, and open something there.
            fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
            try:
                os.write(fd, b"5")
            finally:
                os.close(fd)
        except OSError:
            self._can_reset, self._enough = False, 1e300  # never
            return
        self._usage = usage = getrusage(RUSAGE_SELF)
        self._enough = usage[2] + GROWN // _UNIT

    # -- while somebody watches -------------------------------------------------------------------

    def watch(self, on: int) -> None:
        """From the next call on, if `on`: measure each, and what its pickles take."""
        self.watched, worker = on, self._worker
        _context.watched = bool(on)
        if (observe := sys.modules.get("unirun._observe")) is not None:  # else it looks there
            observe.forward(bool(on))
        if on:
            worker.__dict__["_decode"] = self._timed(worker._decode, "_decoding")
            large = worker._large
            large.__dict__["dump"] = self._timed(large.dump, "_encoding")
        else:
            worker.__dict__.pop("_decode", None)
            worker._large.__dict__.pop("dump", None)

    def _timed(self, do: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begun = perf_counter_ns()
            try:
                return do(*args)
            finally:
                setattr(self, name, (perf_counter_ns() - begun) / 1e9)

        return timed
