"""Whose an orphan is: how a zygote gets hold of what a killed worker has left behind.

A daemon leaves its session and loses its parent, so neither leads to it any more.  So where the
system allows it (Linux, with ctypes), the zygote is told to adopt the orphans of its workers, and
knows them by two marks that they have inherited: a program that is started keeps the environment,
a mere fork keeps the name.

When a worker is killed, only those escape who have given up both marks, its session and their
parent, or did so in the first instants of a pool.  They die with the pool's process if that is
killed, and outlive its orderly end, as everything does that an orderly worker leaves behind.
Workers that were started by "spawn" or "fork" have no zygote: their daemons escape.
"""

from __future__ import annotations

import os

from .system import HERE

__all__ = ["adopt", "is_of", "mark"]

_SET_CHILD_SUBREAPER = 36  # of prctl


def adopt() -> bool:
    """Have those whose parent dies become children of ours; whether that is so from now on."""
    if "proc" not in HERE:
        return False
    try:
        import ctypes  # 3 ms to import: not before the first worker is off

        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def mark(number: int) -> None:
    """Mark this process and what it will start as those of a worker."""
    os.environ["UNIRUN_WORKER"] = _badge(number)
    if "proc" in HERE:
        try:
            with open("/proc/self/comm", "w") as file:
                file.write(_badge(number))
        except OSError:
            return  # not writable here: one mark less


def is_of(pid: int, number: int) -> bool:
    """Whether that process bears a mark of that worker."""
    variable = f"UNIRUN_WORKER={_badge(number)}".encode()
    if variable in _read(f"/proc/{pid}/environ").split(b"\0"):
        return True
    return _read(f"/proc/{pid}/comm").strip() == _badge(number).encode()


def _badge(number: int) -> str:
    return f"unirun-{number}"  # of a name, the system keeps 15 characters


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""  # it has ended, or became somebody else's
