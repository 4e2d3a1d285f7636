"""Future: a `concurrent.futures.Future` that can be killed and awaited.

Everything the standard library does with a future works on this one (`wait`, `as_completed`,
`asyncio.wrap_future`, callbacks), but nothing is allocated for it until somebody needs it: the
Condition that those functions lock, and the list of who waits, are made when they are first
asked for.

Rules:

1. A future ends exactly once: PENDING -> RUNNING -> an end, or PENDING -> an end.
2. The result is stored before the state that announces it, so a reader that sees the end
   needs no lock to read the result.
3. A future that was killed is CANCELLED_AND_NOTIFIED and keeps its `TaskKilled`.
4. Who wants to hear of the end registers under the lock, while the future is open; whoever ends
   it looks under the same lock.  So an end that finds no listeners has nobody to tell.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from concurrent.futures import Future as _StandardFuture
from concurrent.futures import InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from functools import partial

from unirun import _hangs, _observe
from unirun._callbacks import call_back, in_this_context
from unirun._deferral import imported
from unirun._listeners import Listeners
from unirun._prompt import PromptWaiters, in_slices
from unirun._replay import Replayable
from unirun._reports import Reported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Any, TypeVar

    from unirun._info import CallInfo
    from unirun.backend import Backend

    T = TypeVar("T")
else:
    T = object  # `typing` takes 3 ms to import

__all__ = ["Future", "Listeners", "begin_all", "succeed_all"]

_OPEN = (PENDING, RUNNING)

# Guards every transition of every future (rule 1) and all that hangs on `_listeners` (rule 4).
# One lock for all: it is held for a few attribute stores, nothing else is locked while it is
# held, and no user code runs; it may be taken while the condition of a future is held.
# Reentrant, because a garbage collection inside it may run a __del__ that touches a future; so
# nothing that a collection could follow is made while it is held.
_lock = threading.RLock()


def _renew_lock_in_forked_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_forked_child)


class Future(Reported, Replayable, _StandardFuture[T]):
    """The caller's handle on one call.

    As in `concurrent.futures`, with `kill()` and `await` added. `cancel()` keeps its meaning
    there: it succeeds for a call that has not begun and returns False for one that runs.
    """

    # Class attributes are the state of a new future: creating one stores nothing. A subclass of
    # which very many are made may have slots of these names instead, and store them when it makes
    # one: to read and to store them is several times faster then.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _listeners: Listeners | None = None
    _backend: Backend | None = None
    number: int  # of its call, from when it was submitted or is first asked for: `_observe`
    has_number = True  # else a backend will give one to another future, which this one follows
    _observed = False  # its end is an event; of those that are calls to a backend

    def __init__(self) -> None:  # the base class would allocate a Condition
        pass

    if TYPE_CHECKING:
        _condition: threading.Condition  # a plain attribute for who types `as_completed`
        _waiters: list[Any]
    else:

        @property
        def _condition(self) -> threading.Condition:
            """What `concurrent.futures.wait` and friends lock; made for them on demand."""
            self._check_here()
            listeners = self._listen()
            if self._backend is not None and self._state is PENDING:
                self._backend.awaited(self)
            if listeners.condition is None:
                condition, waiters = threading.Condition(), PromptWaiters()
                with _lock:
                    if listeners.condition is None:
                        listeners.condition, listeners.waiters = condition, waiters
            return listeners.condition

        @property
        def _waiters(self) -> list[Any]:
            return self._listen().waiters

    @property
    def _on_end(self) -> Callable[[Any], None] | None:
        """One hook of ours, called before the callbacks; must not block or raise."""
        return None if self._listeners is None else self._listeners.on_end

    @_on_end.setter
    def _on_end(self, hook: Callable[[Any], None] | None) -> None:
        self._listen().on_end = hook

    def _when_ended(self, hook: Callable[[Any], None]) -> None:
        """Call `hook(self)` at the end, before those who wait are woken; now if it has ended.

        As `_on_end`, for any number; they must not block or raise.
        """
        listeners, first = self._listen(), [hook]
        with _lock:
            if self._state in _OPEN:
                if listeners.hooks is None:
                    listeners.hooks = first
                else:
                    listeners.hooks.append(hook)
                return
        hook(self)

    def _listen(self) -> Listeners:
        if self._listeners is None:
            fresh = Listeners()
            with _lock:
                if self._listeners is None:
                    self._listeners = fresh
        return self._listeners

    # -- asking ----------------------------------------------------------------------------

    @property
    def info(self) -> CallInfo:
        """What is known about the call by now: where it goes and why, its attempt, its worker."""
        from unirun._info import info_of  # for who asks

        return info_of(self, _observe.call_of)

    def _tell_info(self) -> dict[str, Any]:
        """For `info_of`: the "options" of the call, and what is known for a `CallInfo`."""
        return {}

    def _tell_later(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        """What gives, called later with these, what `_tell_info` gives now."""
        return dict, (self._tell_info(),)

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
        if self._state is not FINISHED and self._state in _OPEN and not self._wait(timeout):
            raise TimeoutError
        if self._state is FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            raise self._failure()
        finally:
            self = None  # type: ignore[assignment]  # the traceback must not keep us alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call and return the exception it raised, None if it returned.

        Raises as `result()` does for a time-out and for a cancelled call.
        """
        if self._state in _OPEN and not self._wait(timeout):
            raise TimeoutError
        if self._state == FINISHED:
            return self._exception
        raise self._failure()

    def _wait(self, timeout: float | None) -> bool:
        """Wait, and help where one can, until it has ended; False if `timeout` passed first."""
        self._check_here()
        backend = self._backend
        until = None if timeout is None else time.monotonic() + timeout
        # Who helps a future that follows another one ends that one: this one may be open still.
        if backend is not None and backend.help_with(self, until) and self._state not in _OPEN:
            return True
        return self._wait_ended(None if until is None else until - time.monotonic())

    def _check_here(self) -> None:
        """Raise DeadlockError for an open call of the process that this one was forked from."""
        if self._state in _OPEN and getattr(self._backend, "stays_in_parent", False):
            from unirun._errors import DeadlockError

            raise DeadlockError(
                "the call was submitted before this process was forked, and ends in its parent "
                "only; wait for it there, or submit it here again"
            )

    def _wait_ended(self, timeout: float | None) -> bool:
        """Wait until the future has ended; False if `timeout` passed first."""
        limit = None if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        parked = _thread.allocate_lock()
        parked.acquire()
        listeners = self._listen()
        with _lock:
            if self._state not in _OPEN:
                return True
            listeners.parked.append(parked)
        ended = False
        try:
            wait = partial(in_slices, partial(parked.acquire, True))
            if limit is not None:
                ended = wait(limit)
            else:
                ended = wait(_hangs.first_pause()) or self._wait_on(wait)
        finally:
            if not ended:  # in vain, or interrupted
                with _lock:
                    listeners.parked.remove(parked)
        return ended

    def _wait_on(self, wait: Callable[[float], bool]) -> bool:
        """Wait without end; raises DeadlockError once it is seen that there would be none."""
        runner = getattr(self._backend, "runner", None)
        return _hangs.wait_on(wait, _hangs.Wait("the result of", self, runner))

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
            NotKillable: the call runs in a thread; it was asked to stop, as by `cancel()`.
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
        once); what they raise is logged to `concurrent.futures`, as in the standard library. They
        see the context variables of who added them.
        """
        listeners, first = self._listen(), [in_this_context(fn)]
        if getattr(fn, "__module__", None) in ("asyncio.futures", "asyncio.tasks"):
            imported("unirun._awaiting").listens(self, fn)
        with _lock:
            if self._state in _OPEN:
                if listeners.callbacks is None:
                    listeners.callbacks = first
                else:
                    listeners.callbacks.append(first[0])
                return
        call_back(fn, self)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait under asyncio or trio; cancelling who waits cancels the call, or kills it."""
        outcome = imported("unirun._awaiting").outcome_of(self)
        return outcome.__await__()  # type: ignore[no-any-return]

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
            if self._state is not PENDING:
                return False
            self._state = RUNNING
            return True

    def _succeed(self, result: Any) -> bool:
        # The usual end, spelled out; nothing is called under the lock.
        with _lock:
            listeners = self._listeners
            plain = listeners is None or listeners.condition is None
            if plain and (self._state is RUNNING or self._state is PENDING):
                self._result = result
                self._state = FINISHED
            else:
                plain = False
        if not plain:
            return self._end(FINISHED, result, None)
        if _observe.watchers:
            _observe.ended(self)
        if listeners is not None:
            self._tell(listeners)
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
        end = (state, result, exception, only_pending)
        with _lock:
            listeners = self._listeners
            condition = None if listeners is None else listeners.condition
            ended = condition is None and self._store(*end)
        if ended and (state is not FINISHED or exception is not None or _observe.watchers):
            _observe.ended(self)
        if condition is not None:
            # `as_completed` looks at the state and leaves its waiter in one go, holding the
            # condition: an end must not fall between, or it would be told twice.
            with condition:
                with _lock:
                    ended = self._store(*end)
                if ended:
                    if state is not FINISHED or exception is not None or _observe.watchers:
                        _observe.ended(self)
                    self._notify()
                    condition.notify_all()
        if ended and listeners is not None:
            self._tell(listeners)
        return ended

    def _store(
        self, state: str, result: Any, exception: BaseException | None, only_pending: bool
    ) -> bool:
        """With the lock held: store the end; False if it has no effect."""
        if self._state is not PENDING and (only_pending or self._state is not RUNNING):
            return False
        self._result = result
        self._exception = exception
        self._state = state  # rule 2: after the result
        return True

    def _notify(self) -> None:
        """With the condition held: tell who waits through `concurrent.futures`."""
        for waiter in self._waiters:
            if self._state is FINISHED:
                add = waiter.add_result if self._exception is None else waiter.add_exception
            else:
                add = waiter.add_cancelled
            add(self)

    def _tell(self, listeners: Listeners) -> None:
        """It has ended, so nobody registers any more, and who goes away does no harm."""
        hooks, listeners.hooks = listeners.hooks, None
        for hook in hooks or ():
            hook(self)
        for parked in tuple(listeners.parked):
            parked.release()
        if listeners.on_end is not None:
            listeners.on_end(self)
        if listeners.callbacks is not None:
            self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        listeners = self._listen()
        for fn in listeners.callbacks or ():
            call_back(fn, self)
        listeners.callbacks = None

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


def begin_all(futures: list[Any]) -> list[Any]:
    """`future._begin()` for each; returns those that run then, also if they did before."""
    with _lock:
        for future in futures:
            if future._state is PENDING:
                future._state = RUNNING
    return [future for future in futures if future._state is RUNNING]


def succeed_all(ends: Iterable[tuple[Future[Any], Any]]) -> None:
    """`future._succeed(result)` for each pair, for less than it costs one by one."""
    rest = []
    pairs = list(ends)  # an iterator's own code must not run under the lock
    with _lock:
        for pair in pairs:
            future = pair[0]
            if future._listeners is None and future._state in _OPEN:
                future._result = pair[1]
                future._state = FINISHED
            else:
                rest.append(pair)
    if _observe.watchers:
        later = {id(future) for future, _ in rest}
        for future, _ in pairs:
            if id(future) not in later:
                _observe.ended(future)
    for future, result in rest:
        future._succeed(result)


Future.__module__ = "unirun"
