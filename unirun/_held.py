"""Calls of an executor that are not with a backend: in line in a view, run again, or for later.

A backend is not told of its end before they are: timers first, then the line, since who has a turn
may be run again.  Each is made at first need; few executors have one.
"""

from __future__ import annotations

import threading
from contextvars import copy_context

from unirun._observe import next_number
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._future import Future
    from unirun._limited import Line
    from unirun._pending import Gate
    from unirun._plan import Plan
    from unirun._retry import RetriedCalls
    from unirun._timer import Timers
    from unirun.backend import CallOptions

__all__ = ["HeldCalls", "gate_for", "hand_over"]


class HeldCalls:
    """The line, the retried calls and the timers of one executor."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()  # guards the making of the three below
        self._line: Line | None = None
        self._retried: RetriedCalls | None = None
        self._timers: Timers | None = None

    @property
    def timers(self) -> Timers:
        with self._lock:
            if self._timers is None:
                from unirun._timer import Timers

                self._timers = Timers(f"{self._name}-timers")
            return self._timers

    @property
    def line(self) -> Line:
        with self._lock:
            if self._line is None:
                from unirun._limited import Line

                self._line = Line(f"{self._name}-line")
            return self._line

    @property
    def retried(self) -> RetriedCalls:
        with self._lock:
            if self._retried is None:
                from unirun._retry import RetriedCalls

                self._retried = RetriedCalls(f"{self._name}-retries")
            return self._retried

    def waiting_for(self, backend: str) -> int:
        """How many calls wait in line that will go there."""
        return 0 if self._line is None else self._line.waiting_for(backend)

    def count(self) -> int:
        """How many calls wait in line or for their next attempt; timers do not count."""
        retried = 0 if self._retried is None else self._retried.between_attempts()
        return retried + (0 if self._line is None else self._line.waiting_for(None))

    def stop(self) -> None:
        """Cancel what waits in line or for its time, and make no further attempts."""
        if self._timers is not None:
            self._timers.stop()
        if self._line is not None:
            self._line.stop()
        if self._retried is not None:
            self._retried.stop()

    def then(self, do: Callable[[], None]) -> None:
        """Call `do()` once nothing is held: now, or in the thread that sees to the last."""
        if self._timers is not None:
            self._timers.close()
        if self._line is not None:
            self._line.then(lambda: self._then_retried(do))
        else:
            self._then_retried(do)

    def _then_retried(self, do: Callable[[], None]) -> None:
        if self._retried is not None:
            self._retried.then(do)
        else:
            do()

    def wait(self, until: float | None) -> bool:
        """Wait until nothing is held; False if that moment passed first."""
        if self._timers is not None and not self._timers.wait(until):
            return False
        if self._line is not None and not self._line.wait(until):
            return False
        return self._retried is None or self._retried.wait(until)


def hand_over(
    plan: Plan,
    held: HeldCalls,
    fn: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    on_part: Callable[[bytes, memoryview], None] | None,
    options: CallOptions,
) -> Future[Any]:
    """Give a call to its backend, more than once if it is to be retried."""
    backend: Any = plan.backend
    submit = plan.submit if options.capture else backend.submit
    if plan.retry is not None:
        context = copy_context()  # later attempts are made by another thread

        call = options.call or next_number()

        def attempt(number: int) -> Future[Any]:
            again = replace(options, attempt=number, call=call)
            future: Future[Any] = context.run(submit, fn, args, kwargs, again)
            return future

        return held.retried.submit(attempt, plan.retry, options.deadline)
    if on_part is not None and hasattr(backend, "submit_with_parts"):
        future: Future[Any] = backend.submit_with_parts(fn, args, kwargs, options, on_part)
        return future
    return submit(fn, args, kwargs, options)


def gate_for(most: tuple[int | None, int | None] | None, when_full: str) -> Gate | None:
    if most is None:
        return None
    from unirun._pending import Gate  # few executors have one

    return Gate(most, when_full)
