"""What the child of a fork lets go of: the ends of our pipes, since their ends mean something.

A worker that is told to leave by the end of its task pipe would stay as long as a child of its
parent holds that end open.
"""

from __future__ import annotations

import os
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Pool

__all__ = ["watch"]

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def watch(pool: Pool) -> None:
    """Have it closed in every child that this process forks from now on."""
    _pools.add(pool)


def _close_all() -> None:
    for fd in [fd for pool in list(_pools) if not pool.ended for fd in pool.abandon()]:
        try:
            os.close(fd)
        except OSError:
            continue  # the loop had just closed it, and was about to note that


os.register_at_fork(after_in_child=_close_all)
