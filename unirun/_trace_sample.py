"""Processor time and memory of the program and its workers, read now and then."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Sampler"]

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Sampler:
    """What each process has used since it was last asked; for one thread.

    Args:
        read: for a process, its processor seconds so far and its memory in bytes; None if it has
            gone.
    """

    def __init__(self, read: Callable[[int], tuple[float, int] | None] | None = None) -> None:
        self._read = read or (_read_proc if sys.platform == "linux" else _read_elsewhere)
        self._last: dict[int, tuple[float, float]] = {}

    def sample(self, pids: Iterable[int], now: float) -> Iterator[tuple[int, float | None, int]]:
        """For each that is there: its number, cores it kept busy since the last time, its bytes."""
        for pid in pids:
            found = self._read(pid)
            if found is None:
                self._last.pop(pid, None)
                continue
            spent, memory = found
            before, then = self._last.get(pid, (spent, now))
            self._last[pid] = spent, now
            yield pid, (spent - before) / (now - then) if now > then else None, memory


def _read_proc(pid: int) -> tuple[float, int] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The name of the program comes in parentheses, and may have some itself.
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def _read_elsewhere(pid: int) -> tuple[float, int] | None:
    import psutil  # heavy

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return times.user + times.system, process.memory_info().rss
    except psutil.Error:
        return None
