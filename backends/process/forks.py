"""A fork of this process while pools work in it: in the parent, and in the child.

The child lets go of the ends of our pipes, since their ends mean something: a worker that is told
to leave by the end of its task pipe would stay as long as a child of its parent holds that end
open.  What is being made at the moment of the fork would escape that, so a fork waits until nothing
is: it takes `making`, and the role of each pool, for as long as it lasts.  It waits for each of
them only for a moment, since whoever holds them may be what forks.
"""

from __future__ import annotations

import os
import weakref
from _thread import RLock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .pool import Pool

__all__ = ["making", "watch"]

PATIENCE = 1.0
"""Seconds for which a fork waits for one pool, at most."""
BRIEFLY = 0.05
"""The same for a pool that forks a worker: another one may do so, and wait for it."""

making = RLock()
"""Held while something is made that `watch` does not know of yet."""

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
# By thread: what has to be given up again after its fork.
_held: dict[int, list[Callable[[], None]]] = {}


def watch(pool: Pool) -> None:
    """Have it closed in every child that this process forks from now on."""
    _pools.add(pool)


def _live_pools() -> list[Pool]:
    found = [reference() for reference in list(_pools.data)]  # type: ignore[attr-defined]
    return [pool for pool in found if pool is not None and not pool.ended]


def _stand_still() -> None:
    held = _held.setdefault(get_ident(), [])
    forks_for_us = any(pool.role.is_mine() for pool in _live_pools())
    seen: set[Pool] = set()
    while new := [pool for pool in _live_pools() if pool not in seen]:
        for pool in new:
            if pool.role.stop(BRIEFLY if forks_for_us else PATIENCE):
                held.append(pool.role.give_up)
        seen.update(new)
        # After the roles, since who has one may want it; then there may be more pools.
        if making.acquire(timeout=PATIENCE):
            if seen.issuperset(_live_pools()):
                held.append(making.release)
                return
            making.release()


def _go_on() -> None:
    for give_up in reversed(_held.pop(get_ident(), [])):
        give_up()


def _close_all() -> None:
    _go_on()
    if not making._is_owned():  # type: ignore[attr-defined]
        making._at_fork_reinit()  # type: ignore[attr-defined]  # who held it too long is not here
    _held.clear()
    for fd in [fd for pool in _live_pools() for fd in pool.abandon()]:
        try:
            os.close(fd)
        except OSError:
            continue  # the loop had just closed it, and was about to note that


os.register_at_fork(before=_stand_still, after_in_parent=_go_on, after_in_child=_close_all)
