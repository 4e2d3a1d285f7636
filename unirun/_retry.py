"""Calls that are run again when they fail; opt-in, the same on every backend.

A retried call is one future for its caller and one future after another for the backends:

    RetryingFuture ──submit──> attempt 1 ──failed──> pause ──submit──> attempt 2 ──> ...
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED
from contextvars import Context, copy_context

from unirun import _observe
from unirun._call_notes import add_note
from unirun._clock import Clock
from unirun._context import Unasked, running
from unirun._errors import (
    ExecutorShutdown,
    NotKillable,
    SerializationError,
    TaskCancelled,
    TaskKilled,
    TaskMemoryExceeded,
    TaskTimeout,
    UnirunError,
)
from unirun._future import Future
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

    from unirun._broken import WorkerCrashed
    from unirun.backend import Backend

__all__ = ["RetriedCalls", "Retry", "RetryingFuture"]


@record
class Retry:
    """When and how often a call is run again; `retries=3` is short for `Retry(3)`.

    Args:
        times: how many more attempts a call gets after exceptions of its own.
        on: the exception types that are worth another attempt.
        crashes: how many more attempts it gets after its worker died; counted apart.
        quarantine: after so many crashes it is not run again, whatever `crashes` allows, since
            each may have taken something along; None: only `crashes` counts.
        backoff: seconds to pause before the second attempt.
        factor: each later pause is this much longer.
        max_backoff: seconds; no pause is longer.
        jitter: share of the pause that is random, 0 to 1.

    A call that was killed or cancelled, went past its time or memory, or cannot be pickled is
    never run again.
    """

    times: int
    on: tuple[type[BaseException], ...]
    crashes: int
    backoff: float
    factor: float
    max_backoff: float
    jitter: float
    quarantine: int | None

    def __init__(
        self,
        times: int = 0,
        on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
        crashes: int = 0,
        backoff: float = 0.1,
        factor: float = 2.0,
        max_backoff: float = 30.0,
        jitter: float = 0.5,
        quarantine: int | None = 2,
    ) -> None:
        if times < 0 or crashes < 0:
            raise ValueError("times and crashes must not be negative")
        if quarantine is not None and quarantine < 1:
            raise ValueError("quarantine must be 1 or more, or None")
        if backoff < 0 or max_backoff < 0 or not 0 <= jitter <= 1:
            raise ValueError("backoff and max_backoff must not be negative, jitter from 0 to 1")
        self._set(times=times, on=_types(on), crashes=crashes, quarantine=quarantine)
        self._set(backoff=backoff, factor=factor, max_backoff=max_backoff, jitter=jitter)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # past the lock on a record

    def pause(self, attempt: int) -> float:
        """Seconds to wait after that many attempts."""
        import random  # a millisecond, which only calls that fail have to spare

        pause = min(self.max_backoff, self.backoff * self.factor ** (attempt - 1))
        return pause * (1 - self.jitter * random.random())


Retry.__module__ = "unirun"


def _types(on: Any) -> tuple[type[BaseException], ...]:
    types = (on,) if isinstance(on, type) else tuple(on)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"on must be exception types, not {each!r}")
    return types


_NEVER = (
    *(TaskKilled, TaskCancelled, TaskTimeout, TaskMemoryExceeded),
    *(SerializationError, ExecutorShutdown),
)
_TOLD_FAILURES = 5
_TOLD_WIDTH = 200


class RetryingFuture(Future["Any"]):
    """One future over several attempts."""

    def __init__(
        self,
        submit: Callable[[int], Future[Any]],
        retry: Retry,
        clock: Clock,
        deadline: float | None,
    ) -> None:
        self._submit = submit
        self._retry = retry
        self._clock = clock
        self._deadline = deadline
        # Guards _attempt, _failures, _crashes and _stopped. What is in _earlier is read and
        # written by whoever ends an attempt, and there is one attempt at a time.
        self._lock = threading.Lock()
        self._attempt: Future[Any] | None = None
        self._failures = self._crashes = 0
        self._earlier: deque[str] = deque(maxlen=_TOLD_FAILURES)
        self._stopped = False
        self._above = running.get()  # the call that submits this one, if one does
        self._waiting: Context | None = None  # of the call that waits for this one
        self._backend: Any = _Relay(self)  # keeps the part futures use

    @property
    def _attempts(self) -> int:
        return self._failures + self._crashes

    def start(self) -> None:
        """Begin the first attempt; raises what `submit` raises."""
        self._try()

    def stop(self) -> None:
        """No attempt after this one; between two, the call ends as cancelled."""
        with self._lock:
            self._stopped = True
            between = self._is_between()
        if between:
            self._killed(TaskKilled("the call was cancelled between two attempts"))

    def is_between(self) -> bool:
        """Whether it waits for the time of its next attempt."""
        with self._lock:
            return self._is_between()

    def _is_between(self) -> bool:
        """Called with the lock held."""
        return self._attempt is not None and self._attempt.done() and not self.done()

    def _try(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._attempt = None  # neither running nor between two: being made
        try:
            attempt = self._submit(self._attempts + 1)
        except BaseException as exc:  # the executor was shut down meanwhile
            if self._attempts == 0:
                raise
            self._fail(exc)
            return
        with self._lock:
            self._attempt = attempt
            unwanted = self._stopped
        if unwanted and not attempt.cancel():
            attempt._stop_for_good()
        attempt.add_done_callback(self._ended)
        if self._attempts:
            self._say_awaited()

    def _say_awaited(self) -> None:
        attempt, waiting = self._attempt, self._waiting
        if attempt is not None and attempt._backend is not None and waiting is not None:
            waiting.copy().run(attempt._backend.awaited, attempt)

    def _ended(self, attempt: Future[Any]) -> None:
        if attempt.cancelled():
            self._end(CANCELLED_AND_NOTIFIED, None, attempt._exception)
            return
        self._begin()
        error = attempt.exception()
        if error is None:
            self._succeed(attempt.result())
        elif self._may_go_on(error):
            when = time.monotonic() + self._retry.pause(self._attempts)
            if self._deadline is None or when < self._deadline:
                self._earlier.append(f"attempt {self._attempts}: {_in_short(error)}")
                _observe.retried(attempt)
                self._clock.call_at(when, self._try)
            else:
                self._give_up(error)
        else:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if self._attempts > 1:
            note = [f"unirun: attempt {self._attempts} was the last", *self._earlier]
            add_note(error, "\n  ".join(note))
        self._fail(error)

    def _may_go_on(self, error: BaseException) -> bool:
        unwanted = self._is_unwanted_above()
        with self._lock:
            self._stopped = self._stopped or unwanted
            if _is_crash(error):
                self._crashes += 1
                allowed = not self._stopped and self._crashes <= self._retry.crashes
                return allowed and not self._is_quarantined(error)
            self._failures += 1
            if isinstance(error, _NEVER) or not isinstance(error, self._retry.on):
                return False
            return not self._stopped and self._failures <= self._retry.times

    def _is_unwanted_above(self) -> bool:
        """Whether the call that has submitted this one was cancelled."""
        above = self._above
        task = above.context() if isinstance(above, Unasked) else above
        return task is not None and task.cancelled

    def _is_quarantined(self, error: WorkerCrashed) -> bool:
        """Called with the lock held."""
        limit = self._retry.quarantine
        if limit is None or self._crashes < limit:
            return False
        error._quarantine(self._crashes)
        return True

    def running(self) -> bool:
        attempt = self._attempt
        begun = self._attempts > 0 or (attempt is not None and attempt.running())
        return begun and not self.done()

    def _acting(self) -> Any:
        return self if self._attempt is None else self._attempt._acting()

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        return None if self._attempt is None else self._attempt._again()

    def _tell_info(self) -> dict[str, Any]:
        attempt = self._attempt
        return {} if attempt is None else attempt._tell_info()

    def cancel(self) -> bool:
        """As in Future; an attempt that runs is asked to stop, and is the last."""
        with self._lock:
            attempt, between = self._attempt, self._is_between()
            self._stopped = True
        if between or attempt is None:
            self.stop()
        else:
            attempt.cancel()
        return self.cancelled()


def _is_crash(error: BaseException) -> TypeGuard[WorkerCrashed]:
    if not isinstance(error, UnirunError):
        return False
    from unirun._broken import WorkerCrashed  # loaded by whoever raised one

    return isinstance(error, WorkerCrashed)


def _in_short(error: BaseException) -> str:
    """Its type and the first line of its text, which is the user's and may fail."""
    try:
        text = str(error).partition("\n")[0][:_TOLD_WIDTH]
    except BaseException:  # noqa: BLE001  # user code
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Relay:
    """What a RetryingFuture takes for its backend: passes on to the attempt of the moment."""

    def __init__(self, future: RetryingFuture) -> None:
        self._future = future

    def kill(self, future: Future[Any], grace: float | None) -> None:
        with self._future._lock:
            before, self._future._stopped = self._future._stopped, True
            attempt = self._future._attempt
        if attempt is None or attempt.done():
            self._future._killed(TaskKilled("the call was killed between two attempts"))
            return
        try:
            attempt._request_kill(grace)
        except NotKillable:  # so the call goes on, with all the attempts it has
            with self._future._lock:
                self._future._stopped = before
            raise

    def withdraw(self, future: Future[Any]) -> None:
        return

    def request_stop(self, future: Future[Any]) -> None:
        return  # cancel() has asked the attempt itself

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        attempt = self._future._attempt
        backend: Backend | None = None if attempt is None else attempt._backend
        self._note_who_waits()
        return attempt is not None and backend is not None and backend.help_with(attempt, until)

    def awaited(self, future: Future[Any]) -> None:
        self._note_who_waits()
        self._future._say_awaited()

    def _note_who_waits(self) -> None:
        """A call: so that it helps with later attempts, too, which another thread makes."""
        if running.get() is not None:
            self._future._waiting = copy_context()


class RetriedCalls:
    """The retried calls of one executor that are still open; it ends its backends after them."""

    def __init__(self, name: str) -> None:
        self._clock = Clock(name)  # ours to close: when the last call has ended after `then`
        # Guards _open and _then. Reentrant: a collected executor calls `then` from anywhere.
        self._lock = threading.RLock()
        self._open: set[RetryingFuture] = set()
        self._then: list[Callable[[], None]] = []

    def submit(
        self, attempt: Callable[[int], Future[Any]], retry: Retry, deadline: float | None
    ) -> RetryingFuture:
        future = RetryingFuture(attempt, retry, self._clock, deadline)
        future._on_end = self._ended
        with self._lock:
            self._open.add(future)
        self._clock.start()  # so that attempts can still be made when the interpreter ends
        try:
            future.start()
        except BaseException:
            self._ended(future)
            raise
        return future

    def between_attempts(self) -> int:
        """How many wait for the time of their next one."""
        with self._lock:
            futures = list(self._open)
        return sum(future.is_between() for future in futures)

    def stop(self) -> None:
        """No further attempts."""
        with self._lock:
            futures = list(self._open)
        for future in futures:
            future.stop()

    def then(self, do: Callable[[], None]) -> None:
        """Call `do()` once no call is open: now, or in the thread that ends the last."""
        with self._lock:
            if self._open:
                self._then.append(do)
                return
        self._clock.close()
        do()

    def wait(self, until: float | None) -> bool:
        """Wait until no call is open; False if that moment passed first."""
        with self._lock:
            futures = list(self._open)
        return all(
            future._wait_ended(None if until is None else max(0.0, until - time.monotonic()))
            for future in futures
        )

    def _ended(self, future: Any) -> None:
        future._submit = future._above = None  # it holds the arguments
        future._backend = None  # which holds it
        with self._lock:
            self._open.discard(future)
            if self._open or not self._then:
                return
            then, self._then = self._then, []
        self._clock.close()
        for do in then:
            do()
