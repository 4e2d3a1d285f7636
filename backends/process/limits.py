"""Ending a process together with everything it started.

A worker leads a session and a process group of its own, so one signal reaches what it started,
except for those that made a session of their own.  Those are found by parentage, before the
worker dies, since afterwards only the zygote knows whose children they were; see there.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` builds enumerations, 1 ms
import os

from .system import HERE

__all__ = ["Doomed", "children", "descendants", "is_alive", "is_stopped"]


class Doomed:
    """A worker that was told to die, and its descendants at that moment."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._outside = _outside_group(pid)

    def terminate(self) -> None:
        """SIGTERM to all of them, and who has been stopped goes on, to notice it."""
        self._signal(_signal.SIGTERM)
        self._signal(_signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of them, and to who was born since."""
        while new := self._find_new():
            self._outside += new
            for pid, born in new:
                _send_if(pid, born, _signal.SIGSTOP)  # so that it cannot fork while we look again
        self._signal(_signal.SIGKILL)

    def sweep(self) -> None:
        """SIGKILL to whoever outlived the worker."""
        self._signal_outside(_signal.SIGKILL)

    def _find_new(self) -> list[tuple[int, str]]:
        known = {pid for pid, _ in self._outside}
        return [item for item in _outside_group(self.pid) if item[0] not in known]

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # Not yet the leader of a group: it has only just been forked. Or all are zombies, of
            # which macOS says that we may not.
            _send(self.pid, number)
        self._signal_outside(number)

    def _signal_outside(self, number: int) -> None:
        for pid, born in self._outside:
            _send_if(pid, born, number)


def is_alive(pid: int) -> bool:
    """Whether that process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # somebody else's by now
    if "proc" not in HERE:
        return _status_by_psutil(pid) not in ("", "zombie")
    try:
        return _state(pid) not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True  # out of descriptors: we shall see later


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped that process, for who knows how long; a debugger does not count.

    Only for one that cannot have been replaced by another of its number.
    """
    if "proc" not in HERE:
        return _status_by_psutil(pid) == "stopped"
    try:
        return _state(pid) == "T"
    except OSError:
        return False


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def descendants(pid: int) -> list[int]:
    """Every process that descends from `pid`, nearest first."""
    if "proc" not in HERE:
        return _descendants_by_psutil(pid)
    found: list[int] = []
    todo = [pid]
    while todo:
        next_ones = children(todo.pop(0))
        found += next_ones
        todo += next_ones
    return found


def children(pid: int) -> list[int]:
    """Those whose parent is `pid`, as /proc tells it."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []  # it is gone; or we are out of descriptors: its group is still reached
    lists = [_read(f"/proc/{pid}/task/{thread}/children") for thread in threads]
    return [int(child) for text in lists for child in text.split()]


def _outside_group(pid: int) -> list[tuple[int, str]]:
    """Descendants that a signal to the group of `pid` would miss, with their time of birth."""
    return [(child, _born(child)) for child in descendants(pid) if _group(child) != pid]


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
    if "proc" not in HERE:
        return _born_by_psutil(pid)
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _send_if(pid: int, born: str, number: int) -> None:
    if born and _born(pid) == born:  # else the number is somebody else's by now
        _send(pid, number)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone already


# -- where there is no /proc ----------------------------------------------------------------------


def _descendants_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _born_by_psutil(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""


def _status_by_psutil(pid: int) -> str:
    """In its words; "" if there is no such process."""
    import psutil

    try:
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return ""
