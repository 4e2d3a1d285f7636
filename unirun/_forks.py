"""A fork waits while another thread is in the middle of an import.

The child has that module half made, behind a lock whose owner it has not: whoever imports it there
waits for ever.  Threads of ours import late what few programs need, so any fork soon after the
first calls could meet one.

An import that takes longer than PATIENCE is waited for once: a program may run inside of one
(`import app`, whose last line never returns).  Nothing is locked meanwhile, since threads that are
waited for by others' hooks may import; what begins between this look and the fork, some
microseconds later, is not noticed.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import get_ident

from unirun._deferral import in_finalizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATIENCE = 1.0
"""Seconds that a fork is late, at most."""

# Weak references to a lock for each module that is being imported. Where Python keeps that
# otherwise, forks do not wait.
_locks: dict[str, Any] = getattr(sys.modules["_frozen_importlib"], "_module_locks", {})
_endless: set[int] = set()  # `id` of locks that were waited for in vain


def _await_imports() -> None:
    global _endless
    until = time.monotonic() + PATIENCE
    while not (others := _imported_by_others()) <= _endless and time.monotonic() < until:
        time.sleep(0.001)
    _endless = others


def _imported_by_others() -> set[int]:
    """The locks in use, but those of this thread; one that nobody owns is about to be."""
    me = get_ident()
    locks = [reference() for reference in _locks.copy().values()]
    return {id(lock) for lock in locks if lock is not None and lock.owner != me}


if hasattr(os, "register_at_fork"):
    # What a handler of a signal raises in there would be lost, as in a finalizer.
    os.register_at_fork(before=lambda: in_finalizer(_await_imports))
