"""Whose turn it is: the one thread at a time that may touch a pool.

Mostly the pool's loop thread.  A thread of the program is a guest for a moment, where that saves
two changes of thread: to give a call to an idle worker, or to read the answers of the worker whose
call it waits for (`callers`).
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable

from .interrupts import Deferral

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object  # `typing` takes 3 ms to import


class Pool(Protocol):
    """What the role is about."""

    def before_giving_up(self) -> Any: ...
    def after_giving_up(self, left: Any) -> None: ...
    def look_after(self) -> None: ...


class Role:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Held by the thread that has the role. Nothing is waited for while it is held, and nothing
        # of the user's runs, but the reports of a `map` about items that are done.
        self._lock = threading.Lock()
        self._guests: set[int] = set()  # threads of the program that have it or just had it
        self._worker = 0  # the thread that does something by `do`
        self.torn: BaseException | None = None  # what a guest ran into: a bug of ours

    def take(self) -> bool:
        """For a guest who will `give_up` soon, and does nothing that needs a look afterwards."""
        return self._lock.acquire(blocking=False)

    def give_up(self) -> None:
        self._lock.release()

    def stop(self, seconds: float) -> bool:
        """Have nothing done until `give_up`; False if that thread has the role, or nobody gives it.

        For a fork, which may come from a signal handler or a finalizer, anywhere.
        """
        return not self.is_mine() and self._lock.acquire(timeout=seconds)

    def is_mine(self) -> bool:
        """Whether this thread has it, or just had it."""
        return get_ident() in self._guests or get_ident() == self._worker

    @property
    def is_free(self) -> bool:
        """No thread of the program still does something for the pool."""
        return not self._guests

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        """Take the role and `work`. For the loop thread; of others, for what only reads."""
        with self._lock:
            self._worker = get_ident()
            result = work(*args)
            left = self._pool.before_giving_up()
            self._worker = 0
        self._pool.after_giving_up(left)
        return result

    def try_to(self, work: Callable[..., bool], *args: Any) -> bool:
        """Do it here and now; False if that cannot be, or if `work` says it was not done."""
        deferral = Deferral()
        if not deferral.begin():
            return False
        try:
            return self.take() and self._work_as_guest(work, *args)
        finally:
            deferral.end()

    def close(self, work: Callable[[], None]) -> None:
        """For the loop thread, at its end: as `do`, but there is nothing left to do afterwards."""
        with self._lock:
            work()

    def visit(self, work: Callable[..., object], *args: Any) -> None:
        """Take the role and `work`, in a thread of the program that has deferred Ctrl-C."""
        self._lock.acquire()
        self._work_as_guest(work, *args)

    def _work_as_guest(self, work: Callable[..., Any], *args: Any) -> Any:
        me, result = get_ident(), None
        self._guests.add(me)
        try:
            try:
                result = work(*args)
                left = self._pool.before_giving_up()
            finally:
                self._lock.release()
            if left:
                self._pool.after_giving_up(left)
        except BaseException as exc:  # the loop ends the pool because of it  # noqa: BLE001
            self.torn = exc
        self._guests.discard(me)
        self._pool.look_after()
        return result
