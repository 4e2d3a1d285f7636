"""The pulse of a place: it says that the place lives, and ends what stands still there.

A process that stands still (SIGSTOP) keeps its connections and its locks, and nobody hears of it.
Of the place itself the program notices by the silence.  Of a worker process the place notices, and
kills it, before anybody else gets what it holds: it could go on at any moment.  Nobody else could
do that for sure.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterable

from unirun._far_lines import Line
from unirun._prompt import Thread

__all__ = ["Pulse", "stands_still"]

BEATS = 6
"""How often a place is heard of in the time after which it is taken for gone."""


class Pulse:
    """Owns its thread, which ends with the line or by `close`."""

    def __init__(self, line: Line, lost_after: float, pids: Callable[[], Iterable[int]]) -> None:
        """`pids` are those of the worker processes; `lost_after` is in seconds."""
        self._line = line
        self._pids = pids
        self._pause = min(5.0, lost_after / BEATS)
        # Counted, not timed: a machine that was suspended has not looked meanwhile.
        self._patience = math.ceil(lost_after / self._pause)
        self._seen: dict[int, int] = {}  # by process: how often in a row it stood still
        self._over = threading.Event()
        line.watch(lost_after / 2)
        Thread(self._run, "unirun-place-pulse").start()

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            try:
                self._line.beat()
            except (OSError, ValueError):
                return  # it has ended; whoever reads from it sees to that
            self._look()

    def _look(self) -> None:
        before, self._seen = self._seen, {}
        for pid in self._pids():
            if not stands_still(pid):
                continue
            times = self._seen[pid] = before.get(pid, 0) + 1
            if times > self._patience:
                os.kill(pid, signal.SIGKILL)  # ours, and nobody has waited for it

    def close(self) -> None:
        self._over.set()


def stands_still(pid: int) -> bool:
    """Whether that process was stopped, and not by a debugger; False where this cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):
        return False
