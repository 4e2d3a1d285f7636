"""Calls that wait for calls of their own pool: whoever waits for one that has not begun runs it.

In the thread that waits, as a rule.  In a thread beside it (`unirun._aside`), where the wait or the
call has a time-out, where the thread is deep in such calls, or where it is none of the pool's.
Each of these begins with the initializer of the pool, as a worker does.
"""

from __future__ import annotations

import threading
from concurrent.futures._base import PENDING
from typing import TYPE_CHECKING

from unirun._aside import Asides, is_no_place, one_deeper
from unirun._context import running

from .calls import ThreadFuture, Worker

if TYPE_CHECKING:
    from .backend import ThreadBackend

__all__ = ["Helpers", "here"]

# .worker: the Worker whose thread this is. .is_prepared: in a thread beside a call, whether the
# initializer has succeeded there.
here = threading.local()


class Helpers:
    """Those of one pool."""

    def __init__(self, pool: ThreadBackend) -> None:
        self._pool = pool
        self._asides = Asides(self._run_aside, f"{pool.spec.name}-aside")
        # Threads that run a call beside the one that waits for it; guarded by the pool's lock.
        self._busy: set[Worker] = set()

    def help_with(self, future: ThreadFuture, until: float | None) -> bool:
        if future._state is not PENDING or (call := running.get()) is None:
            return False
        worker: Worker | None = getattr(here, "worker", None)
        options = future._options
        limited = until is not None or options.timeout is not None or options.deadline is not None
        here_and_now = worker is not None and worker.pool is self._pool and not limited
        if (not here_and_now or is_no_place()) and self._asides.add(call, future):
            return False
        if worker is None or not self._is_prepared(worker) or not future._begin():
            return False
        # The queue still holds it; who takes it sees that it has begun.
        one_deeper(self._pool.run_in, worker, future)
        return True

    def _is_prepared(self, worker: Worker) -> bool:
        """Whether the initializer has run in that thread, if there is one."""
        return worker.pool is self._pool or self._pool.spec.initializer is None

    def awaited(self, future: ThreadFuture) -> None:
        if future._state is PENDING and (call := running.get()) is not None:
            self._asides.add(call, future)

    def all(self) -> set[Worker]:
        """The workers, and who runs a call beside one; called with the pool's lock, as below."""
        return self._pool._workers | self._busy

    def give_up(self, worker: Worker) -> bool:
        """Whether it is one of ours; then it does not count any more."""
        if worker not in self._busy:
            return False
        worker.abandoned = True
        self._leave(worker)
        return True

    def _leave(self, worker: Worker) -> None:
        self._busy.discard(worker)
        self._pool._changed.notify_all()

    def _run_aside(self, future: ThreadFuture) -> bool:
        """False if it has begun elsewhere, or no call can run in this thread."""
        pool, worker = self._pool, Worker(self._pool)
        if future._state is not PENDING or not self._prepare() or not future._begin():
            return False
        here.worker, worker.thread = worker, threading.current_thread()
        with pool._lock:
            self._busy.add(worker)
        try:
            pool.run_in(worker, future)
        finally:
            with pool._lock:
                pool._abandoned -= worker.abandoned
                self._leave(worker)
        return True

    def _prepare(self) -> bool:
        """Of a thread beside a call, once."""
        if not hasattr(here, "is_prepared"):
            here.is_prepared = self._pool.initialize()
        return bool(here.is_prepared)
