"""What a process closes when it ends, and what a fork of it leaves to its parent.

That is: whatever serves shared objects.  Nothing else can tell the end of the process, or a fork,
from everyday life.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Protocol

__all__ = ["Closing", "close_at_exit"]


class Closing(Protocol):
    """What can be told to end, waited for, and left alone in a forked child."""

    def stop(self) -> None: ...
    def join(self) -> None: ...
    def disown(self) -> None: ...


_live: weakref.WeakSet[Closing] = weakref.WeakSet()


def close_at_exit(each: Closing) -> None:
    """Have it stopped and joined when this process ends, and disowned in its forks."""
    _live.add(each)
    _close_all_at_exit()


def _close_all() -> None:
    for each in list(_live):
        each.stop()
        each.join()


_exit_seen_to_in = 0  # the process for which the next function has done its work


def _close_all_at_exit() -> None:
    """`atexit` is not for the children of multiprocessing, which end in a way of their own."""
    global _exit_seen_to_in
    util = sys.modules.get("multiprocessing.util")
    if util is not None and _exit_seen_to_in != os.getpid():
        util.Finalize(None, _close_all, exitpriority=0)
        _exit_seen_to_in = os.getpid()


def _after_fork_in_child() -> None:
    for each in list(_live):
        each.disown()
    _live.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
