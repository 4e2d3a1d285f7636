"""Calls that are run again when they fail; opt-in, the same on every backend.

A retried call is one future for its caller and one future after another for the backends:

    RetryingFuture ──submit──> attempt 1 ──failed──> pause ──submit──> attempt 2 ──> ...
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED
from dataclasses import dataclass
from typing import Any, cast

from unirun._clock import Clock
from unirun._errors import (
    ExecutorShutdown,
    NotKillable,
    SerializationError,
    TaskCancelled,
    TaskKilled,
    TaskTimeout,
    WorkerCrashed,
)
from unirun._future import Future
from unirun.backend import Backend

__all__ = ["RetriedCalls", "Retry", "RetryingFuture"]


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a call is run again; `retries=3` is short for `Retry(3)`.

    Args:
        times: how many more attempts a call gets after exceptions of its own.
        on: the exception types that are worth another attempt.
        crashes: how many more attempts it gets after its worker died; counted apart.
        backoff: seconds to pause before the second attempt.
        factor: each later pause is this much longer.
        max_backoff: seconds; no pause is longer.
        jitter: share of the pause that is random, 0 to 1.

    A call that was killed or cancelled, ran out of time, or cannot be pickled is never run again.
    """

    times: int = 0
    on: tuple[type[BaseException], ...] = (Exception,)
    crashes: int = 0
    backoff: float = 0.1
    factor: float = 2.0
    max_backoff: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.times < 0 or self.crashes < 0:
            raise ValueError("times and crashes must not be negative")
        if self.backoff < 0 or self.max_backoff < 0 or not 0 <= self.jitter <= 1:
            raise ValueError("backoff and max_backoff must not be negative, jitter from 0 to 1")

    def pause(self, attempt: int) -> float:
        """Seconds to wait after that many attempts."""
        pause = min(self.max_backoff, self.backoff * self.factor ** (attempt - 1))
        return pause * (1 - self.jitter * random.random())


Retry.__module__ = "unirun"

_NEVER = (TaskKilled, TaskCancelled, TaskTimeout, SerializationError, ExecutorShutdown)


class RetryingFuture(Future[Any]):
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
        # Guards _attempt, _failures, _crashes and _stopped.
        self._lock = threading.Lock()
        self._attempt: Future[Any] | None = None
        self._failures = self._crashes = 0
        self._stopped = False
        self._backend = cast("Backend", _Relay(self))  # keeps the part futures use

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
                self._clock.call_at(when, self._try)
            else:
                self._give_up(error)
        else:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if self._attempts > 1:
            error.add_note(f"unirun: attempt {self._attempts} was the last")
        self._fail(error)

    def _may_go_on(self, error: BaseException) -> bool:
        with self._lock:
            if isinstance(error, WorkerCrashed):
                self._crashes += 1
                return not self._stopped and self._crashes <= self._retry.crashes
            self._failures += 1
            if isinstance(error, _NEVER) or not isinstance(error, self._retry.on):
                return False
            return not self._stopped and self._failures <= self._retry.times

    def running(self) -> bool:
        attempt = self._attempt
        begun = self._attempts > 0 or (attempt is not None and attempt.running())
        return begun and not self.done()

    def cancel(self) -> bool:
        with self._lock:
            attempt, between = self._attempt, self._is_between()
        if between or attempt is None:
            self.stop()
        else:
            attempt.cancel()
        return self.cancelled()


class _Relay:
    """What a RetryingFuture takes for its backend: passes on to the attempt of the moment."""

    def __init__(self, future: RetryingFuture) -> None:
        self._future = future

    def kill(self, future: Future[Any], grace: float | None) -> None:
        with self._future._lock:
            self._future._stopped = True
            attempt = self._future._attempt
        if attempt is None or attempt.done():
            self._future._killed(TaskKilled("the call was killed between two attempts"))
            return
        try:
            attempt._request_kill(grace)
        except NotKillable:  # so the call goes on, with all the attempts it has
            with self._future._lock:
                self._future._stopped = False
            raise

    def withdraw(self, future: Future[Any]) -> None:
        return

    def request_stop(self, future: Future[Any]) -> None:
        return  # cancel() has asked the attempt itself

    def help_with(self, future: Future[Any]) -> bool:
        attempt = self._future._attempt
        backend: Backend | None = None if attempt is None else attempt._backend
        return attempt is not None and backend is not None and backend.help_with(attempt)


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

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(cast("RetryingFuture", future))
            if self._open or not self._then:
                return
            then, self._then = self._then, []
        self._clock.close()
        for do in then:
            do()
