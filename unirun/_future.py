"""Future: a `concurrent.futures.Future` that can be killed and awaited.

Everything the standard library does with a future works on this one (`wait`, `as_completed`,
`asyncio.wrap_future`, callbacks), but nothing is allocated for it until somebody needs it: the
Condition that those functions lock is made when they first ask for it.

Rules:

1. A future ends exactly once: PENDING -> RUNNING -> an end, or PENDING -> an end.
2. The result is stored before the state that announces it, so a reader that sees the end
   needs no lock to read the result.
3. A future that was killed is CANCELLED_AND_NOTIFIED and keeps its `TaskKilled`.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures import Future as _StandardFuture
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
)
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from unirun.backend import Backend

__all__ = ["Future"]

T = TypeVar("T")

_OPEN = (PENDING, RUNNING)

# Guards every transition of every future (rule 1) and the making of `_parked` and `_cond`.
# One lock for all: it is held for a few attribute stores, nothing else is locked while it is
# held, and no user code runs; it may be taken while the condition of a future is held.
# Reentrant, because a garbage collection inside it may run a __del__ that touches a future; each
# transition decides and stores its state before it allocates anything.
_lock = threading.RLock()


def _renew_lock_in_forked_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_forked_child)


class Future(_StandardFuture[T]):
    """The caller's handle on one call.

    As in `concurrent.futures`, with `kill()` and `await` added. `cancel()` keeps its meaning
    there: it succeeds for a call that has not begun and returns False for one that runs.
    """

    # Class attributes are the state of a new future: creating one stores nothing.
    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _waiters: Any = ()
    _done_callbacks: Any = ()
    _cond: threading.Condition | None = None
    _parked: list[_thread.LockType] | None = None  # one locked lock per thread in result()
    _backend: Backend | None = None
    _on_end: Callable[[Any], None] | None = None  # one hook of ours; must not block or raise

    def __init__(self) -> None:  # the base class would allocate a Condition
        pass

    if TYPE_CHECKING:
        _condition: threading.Condition  # a plain attribute for who types `as_completed`
    else:

        @property
        def _condition(self) -> threading.Condition:
            """What `concurrent.futures.wait` and friends lock; made for them on demand."""
            with _lock:
                if self._cond is None:
                    self._waiters = []
                    self._cond = threading.Condition()
                return self._cond

    # -- asking ----------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """True if the call was cancelled before it began, or killed."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """True while the call runs; it cannot be cancelled then, but it may be killed."""
        return self._state == RUNNING

    def done(self) -> bool:
        """True once the call has ended, whatever way."""
        return self._state not in _OPEN

    def result(self, timeout: float | None = None) -> T:
        """Wait for the call and return its result, or raise its exception.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: the call has not ended in time; it goes on.
            CancelledError: the call was cancelled (`TaskKilled` if it was killed).
        """
        if self._state in _OPEN:
            self._wait(timeout)
        if self._exception is None and self._state == FINISHED:
            return self._result  # type: ignore[no-any-return]
        try:
            raise self._failure()
        finally:
            self = None  # type: ignore[assignment]  # the traceback must not keep us alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return the exception it raised, None if it returned.

        Raises as `result()` does for a time-out and for a cancelled call.
        """
        if self._state in _OPEN:
            self._wait(timeout)
        if self._state == FINISHED:
            return self._exception
        raise self._failure()

    def _failure(self) -> BaseException:
        return self._exception if self._exception is not None else CancelledError()

    def _wait(self, timeout: float | None) -> None:
        backend = self._backend
        if backend is not None and backend.help_with(self):
            return
        if not self._wait_ended(timeout):
            raise TimeoutError

    def _wait_ended(self, timeout: float | None) -> bool:
        """Wait until the future has ended; False if `timeout` passed first."""
        parked = _thread.allocate_lock()
        parked.acquire()
        with _lock:
            if self._state not in _OPEN:
                return True
            if self._parked is None:
                self._parked = []
            self._parked.append(parked)
        try:
            if timeout is None:
                return parked.acquire()
            return parked.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX))
        finally:
            with _lock:
                if self._parked is not None and parked in self._parked:
                    self._parked.remove(parked)

    # -- acting ----------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Stop the call if it has not begun; True if it will never run.

        A call that runs is not stopped (False), but its `current_task().cancelled` becomes
        true, so that it may stop by itself. To end it by force, use `kill()`.
        """
        ended = self._end(CANCELLED_AND_NOTIFIED, None, None, only_pending=True)
        backend = self._backend
        if backend is not None:
            if ended:
                backend.withdraw(self)
            elif self._state == RUNNING:
                backend.request_stop(self)
        return self.cancelled()

    def kill(self, grace: float | None = None) -> bool:
        """End the call now, even if it runs; True if its body has no further effect.

        On a process the worker and its children get SIGTERM, then after `grace` SIGKILL; other
        calls do not notice. Returns once they are dead. `result()` then raises `TaskKilled`.

        Args:
            grace: seconds between SIGTERM and SIGKILL; None takes the executor's.

        Returns:
            True if the call was cancelled or killed (now or before), False if it had ended.

        Raises:
            NotKillable: the call runs in a thread.
        """
        if not self.cancel() and self.running():
            self._request_kill(grace)
            self._wait_ended(None)
        return self.cancelled()

    def _request_kill(self, grace: float | None = None) -> None:
        if self._backend is None:
            raise RuntimeError("this future belongs to no backend; nothing can be killed")
        self._backend.kill(self, grace)

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(future)` when the call ends, at once if it has ended.

        Callbacks run in the order they were added, in a thread of the backend (or here, at
        once); what they raise is logged to `concurrent.futures`, as in the standard library.
        """
        with _lock:
            if self._state in _OPEN:
                if self._done_callbacks:
                    self._done_callbacks.append(fn)
                else:
                    self._done_callbacks = [fn]
                return
        _call_back(fn, self)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait inside asyncio; cancelling the task that waits cancels the call, or kills it."""
        return self._await().__await__()

    async def _await(self) -> T:
        import asyncio  # heavy, and already imported by whoever awaits

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self.add_done_callback(lambda _: _wake(loop, ended))
        try:
            await ended.wait()
        except asyncio.CancelledError:
            if not self.cancel() and self._stop_for_good():
                await ended.wait()
            raise
        return self.result()

    def _stop_for_good(self) -> bool:
        """Ask for a kill without waiting; False where running calls cannot be killed."""
        from unirun._errors import NotKillable

        if self._backend is None:  # driven by hand: nobody could
            return False
        try:
            self._request_kill()
        except NotKillable:
            return False
        return True

    # -- what backends do with it ------------------------------------------------------------

    def _begin(self) -> bool:
        """PENDING -> RUNNING; False if it was cancelled before, and then must not run."""
        with _lock:
            if self._state != PENDING:
                return False
            self._state = RUNNING
            return True

    def _end(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        *,
        only_pending: bool = False,
    ) -> bool:
        """End the future, wake everybody; False (and no effect) if it had ended already."""
        with _lock:
            condition = self._cond
            parked = None
            if condition is None:
                parked = self._store(state, result, exception, only_pending)
        if condition is not None:
            # `as_completed` looks at the state and leaves its waiter in one go, holding the
            # condition: an end must not fall between, or it would be told twice.
            with condition:
                with _lock:
                    parked = self._store(state, result, exception, only_pending)
                if parked is not None:
                    self._notify(condition)
        if parked is None:
            return False
        for lock in parked:
            lock.release()
        if self._on_end is not None:
            self._on_end(self)
        if self._done_callbacks:
            self._invoke_callbacks()
        return True

    def _store(
        self, state: str, result: Any, exception: BaseException | None, only_pending: bool
    ) -> Sequence[_thread.LockType] | None:
        """With the lock held: store the end, and return who is parked; None if it has no effect."""
        if self._state != PENDING and (only_pending or self._state != RUNNING):
            return None
        self._result = result
        self._exception = exception
        self._state = state  # rule 2: after the result
        parked, self._parked = self._parked, None
        return parked or ()

    def _notify(self, condition: threading.Condition) -> None:
        """With the condition held: tell who waits through `concurrent.futures`."""
        for waiter in self._waiters:
            if self._state == FINISHED:
                add = waiter.add_result if self._exception is None else waiter.add_exception
            else:
                add = waiter.add_cancelled
            add(self)
        condition.notify_all()

    def _invoke_callbacks(self) -> None:
        for fn in self._done_callbacks:
            _call_back(fn, self)
        self._done_callbacks = ()

    def _succeed(self, result: Any) -> bool:
        return self._end(FINISHED, result, None)

    def _fail(self, exception: BaseException) -> bool:
        return self._end(FINISHED, None, exception)

    def _killed(self, exception: BaseException) -> bool:
        return self._end(CANCELLED_AND_NOTIFIED, None, exception)

    # -- the standard library's methods for executors and tests --------------------------------

    def set_running_or_notify_cancel(self) -> bool:
        """As in `concurrent.futures`: for those who drive a future by hand."""
        if self._begin():
            return True
        if self.cancelled():
            return False
        raise RuntimeError("the future is in an unexpected state; it has begun before")

    def set_result(self, result: T) -> None:
        """As in `concurrent.futures`: for those who drive a future by hand."""
        if not self._succeed(result):
            raise InvalidStateError(f"{self._state}: {self!r}")

    def set_exception(self, exception: BaseException | None) -> None:
        """As in `concurrent.futures`: for those who drive a future by hand."""
        if not self._end(FINISHED, None, exception):
            raise InvalidStateError(f"{self._state}: {self!r}")

    def __repr__(self) -> str:
        text = f"<{type(self).__name__} at {id(self):#x} state={self._state.lower()}"
        if self._state == FINISHED:
            value = self._result if self._exception is None else self._exception
            verb = "returned" if self._exception is None else "raised"
            text += f" {verb} {type(value).__name__}"
        return text + ">"

    def __reduce__(self) -> Any:
        raise TypeError("a Future cannot be pickled; send its result() instead")


def _call_back(fn: Callable[[Any], object], future: Future[Any]) -> None:
    try:
        fn(future)
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            raise  # Ctrl-C hit while a callback ran here: it is for the caller
        _log_callback(future)
    except BaseException:  # SystemExit too: a callback must not end the thread that runs it  # noqa: BLE001
        _log_callback(future)


def _log_callback(future: Future[Any]) -> None:
    logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)


def _wake(loop: Any, event: Any) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:
        return  # the loop was closed meanwhile: nobody waits there any more


Future.__module__ = "unirun"
