"""Ending a process together with everything it started.

A worker leads a session and a process group of its own, so one signal reaches what it started,
except for those that made a session of their own.  Those are found by parentage, before the
worker dies, since afterwards nobody knows whose children they were.
"""

from __future__ import annotations

import os
import signal

__all__ = ["Doomed", "descendants", "is_alive"]


class Doomed:
    """A worker that was told to die, and its descendants at that moment."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._outside = _outside_group(pid)

    def terminate(self) -> None:
        """SIGTERM to all of them."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all of them, and to who was born since."""
        known = {pid for pid, _ in self._outside}
        self._outside += [item for item in _outside_group(self.pid) if item[0] not in known]
        self._signal(signal.SIGKILL)

    def sweep(self) -> None:
        """SIGKILL to whoever outlived the worker."""
        self._signal_outside(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            _send(self.pid, number)  # not yet the leader of a group: it has only just been forked
        except PermissionError:
            _send(self.pid, number)  # macOS says so of a group of zombies
        self._signal_outside(number)

    def _signal_outside(self, number: signal.Signals) -> None:
        for pid, born in self._outside:
            if born and _born(pid) == born:  # else the number is somebody else's by now
                _send(pid, number)


def is_alive(pid: int) -> bool:
    """Whether that process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # somebody else's by now
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return not os.path.isdir("/proc/self")
    except OSError:
        return True  # out of descriptors: we shall see later


def descendants(pid: int) -> list[int]:
    """Every process that descends from `pid`, nearest first."""
    found: list[int] = []
    todo = [pid]
    while todo:
        children = _children(todo.pop(0))
        found += children
        todo += children
    return found


def _outside_group(pid: int) -> list[tuple[int, str]]:
    """Descendants that a signal to the group of `pid` would miss, with their time of birth."""
    return [(child, _born(child)) for child in descendants(pid) if _group(child) != pid]


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        lists = [_read(f"/proc/{pid}/task/{thread}/children") for thread in threads]
    except FileNotFoundError:
        if os.path.isdir("/proc/self/task"):
            return []  # there is a /proc, and the process is not in it any more
        return _children_by_psutil(pid)
    except OSError:
        return []  # out of descriptors: its group is still reached
    return [int(child) for text in lists for child in text.split()]


def _children_by_psutil(pid: int) -> list[int]:
    import psutil  # where there is no /proc

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""  # that thread has just ended, or there are no descriptors left


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _born(pid: int) -> str:
    """When the process started, as the kernel tells it; "" if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return "" if os.path.isdir("/proc/self") else _born_by_psutil(pid)


def _born_by_psutil(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone already
