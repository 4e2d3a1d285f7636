"""Calls that wait in a limited view: `ex.options(limit=n)` runs at most n of its calls at a time.

    submit ──> Limit: a place free? ──yes──> backend ──> future ──ends──> place for the next
                           └─no──> HeldFuture, in line by priority ──its turn──> backend

1. A call has its place from the moment it is handed to the backend until its future ends.
2. A submit from inside a call of the view is part of that call and needs no place: it could be
   what the call waits for.
3. Nothing is handed over by the thread that ends a call, which may be a loop that must not be
   kept: a thread of the executor's own does it, the line's clock.
4. A call that waits in line has no backend yet: it can be cancelled, and runs out of time, here.
   What it is called with is pickled, if at all, when its turn has come.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from concurrent.futures._base import CANCELLED_AND_NOTIFIED
from contextvars import copy_context

from unirun import _observe
from unirun._clock import Clock
from unirun._errors import QueueTimeout
from unirun._future import Future
from unirun._pending import called_inside, hand_over_inside
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from unirun.backend import Backend, CallOptions

    HandOver: TypeAlias = Callable[[CallOptions], Future[Any]]

__all__ = ["Limit", "Line"]


class HeldFuture(Future["Any"]):
    """A future that waits for its turn, and from then on does as that of the backend does."""

    has_number = False

    def __init__(
        self, limit: Limit, backend: str, options: CallOptions, hand_over: HandOver
    ) -> None:
        self.backend = backend
        self.priority: int = options.priority
        self.until: float | None = _end_of_waiting(options)
        self._limit = limit
        self._options = options
        self._context = copy_context()
        self._hand_over: HandOver | None = hand_over
        self._inner: Future[Any] | None = None
        # Guards _turn and _unwanted, and that only one of a turn and a cancel comes first.
        self._deciding = threading.Lock()
        self._turn = self._unwanted = False
        self._backend: Any = _Relay(self)  # keeps the part that futures use

    def tell_held(self, line: Line) -> None:
        self._backend.source = id(line)
        if _observe.watchers:
            _observe.held(self, self._options)

    @property
    def _observed(self) -> bool:  # type: ignore[override]
        return self._inner is None and not self._turn  # else that is

    # -- its turn: the line's thread -----------------------------------------------------------

    def take_turn(self) -> Future[Any] | None:
        """Hand it over; None if it needs no place any more."""
        with self._deciding:
            self._turn = not self.done()
        hand_over, self._hand_over = self._hand_over, None
        if not self._turn or hand_over is None:
            return None
        try:
            inner = self._context.run(
                hand_over_inside, self._limit, lambda: hand_over(self._options_left())
            )
        except BaseException as exc:  # the backend was shut down, or refuses  # noqa: BLE001
            self._fail(exc)
            return None
        with self._deciding:
            self._inner, unwanted = inner, self._unwanted
        inner._when_ended(self._follow)
        if unwanted and not inner.cancel():
            inner._stop_for_good()
        return inner

    def _options_left(self) -> CallOptions:
        if self._options.queue_timeout is None or self.until is None:
            return self._options
        left = max(0.0, self.until - time.monotonic())
        return replace(self._options, queue_timeout=left)

    def _follow(self, inner: Future[Any]) -> None:
        if inner.cancelled():
            self._end(CANCELLED_AND_NOTIFIED, None, inner._exception)
        elif inner._exception is not None:
            self._fail(inner._exception)
        else:
            self._succeed(inner._result)

    # -- anybody -------------------------------------------------------------------------------

    def expire(self) -> None:
        if self._leave_line():
            self._fail(QueueTimeout("the call still waited in its view when its time was up"))

    def _leave_line(self) -> bool:
        """Whether it had to wait still; then it will not have a turn."""
        with self._deciding:
            if self._turn or self._hand_over is None:
                return False
            self._hand_over = None
        return True

    def running(self) -> bool:
        inner = self._inner
        return inner is not None and inner.running() and not self.done()

    def _acting(self) -> Any:
        return self if self._inner is None else self._inner._acting()

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        return None if self._inner is None else self._inner._again()

    def _tell_info(self) -> dict[str, Any]:
        inner = self._inner
        return {"options": self._options} if inner is None else inner._tell_info()

    def cancel(self) -> bool:
        if self._leave_line():
            self._end(CANCELLED_AND_NOTIFIED, None, None)
        with self._deciding:
            inner, self._unwanted = self._inner, True  # perhaps it is being handed over
        if inner is not None:
            inner.cancel()
        return self.cancelled()


class _Relay:
    """What a HeldFuture takes for its backend."""

    source = 0  # by which events tell its executor from others

    def __init__(self, future: HeldFuture) -> None:
        self._future = future
        self.name = future.backend

    def kill(self, future: Future[Any], grace: float | None) -> None:
        inner = self._future._inner
        if inner is not None:
            inner._request_kill(grace)

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        inner = self._future._inner
        backend: Backend | None = None if inner is None else inner._backend
        return inner is not None and backend is not None and backend.help_with(inner, until)

    def awaited(self, future: Future[Any]) -> None:
        inner = self._future._inner
        if inner is not None and inner._backend is not None:
            inner._backend.awaited(inner)


class Limit:
    """The places of one view, shared by the views that are made from it."""

    def __init__(self, most: int) -> None:
        self.most = most
        # Guards the two below. Reentrant, since a __del__ run by a garbage collection may submit.
        self._lock = threading.RLock()
        self._taken = 0
        self._line: list[tuple[int, int, HeldFuture]] = []  # a heap

    def submit(
        self, line: Line, backend: str, hand_over: HandOver, options: CallOptions
    ) -> Future[Any]:
        if called_inside(self):
            return hand_over(options)  # rule 2
        with self._lock:
            free = self._taken < self.most and not self._line
            self._taken += free
        if not free:
            if _observe.watchers:
                options = replace(options, call=options.call or _observe.next_number())
            return self._hold(line, HeldFuture(self, backend, options, hand_over))
        try:
            future = hand_over_inside(self, lambda: hand_over(options))
        except BaseException:
            self._leave(line)
            raise
        future._when_ended(lambda _: self._leave(line))
        return future

    def narrowed(self, limit: Limit) -> Limit:
        """Of a view of the view that has a limit of its own."""
        return limit

    def _hold(self, line: Line, future: HeldFuture) -> HeldFuture:
        future.tell_held(line)
        line.add(future)
        with self._lock:
            heapq.heappush(self._line, (-future.priority, next(_numbers), future))
        self._call_next(line)  # a place may have become free meanwhile
        return future

    def _leave(self, line: Line) -> None:
        with self._lock:
            self._taken -= 1
        self._call_next(line)

    def _call_next(self, line: Line) -> None:
        with self._lock:
            waits = bool(self._line) and self._taken < self.most
        if waits:
            line.do(lambda: self._advance(line))  # rule 3

    def _advance(self, line: Line) -> None:
        while True:
            with self._lock:
                if not self._line or self._taken >= self.most:
                    return
                future = heapq.heappop(self._line)[2]
                self._taken += 1
            inner = future.take_turn()
            line.remove(future)
            if inner is not None:
                inner._when_ended(lambda _: self._leave(line))
            else:
                with self._lock:
                    self._taken -= 1


_numbers = itertools.count()  # first come, first served among equals


class Line:
    """All calls of one executor that wait for their turn, and the thread that hands them over."""

    def __init__(self, name: str) -> None:
        self._clock = Clock(name)  # ours to close: when the last call has had its turn after `then`
        # Guards _waiting and _then; notified when nobody waits any more. Reentrant: a collected
        # executor calls `then` from anywhere.
        self._empty = threading.Condition(threading.RLock())
        self._waiting: set[HeldFuture] = set()
        self._then: list[Callable[[], None]] = []

    def add(self, future: HeldFuture) -> None:
        with self._empty:
            self._waiting.add(future)
        self._clock.start()  # so that turns can still be taken when the interpreter ends
        future._when_ended(self.remove)
        if future.until is not None:
            alarm = self._clock.call_at(future.until, future.expire)
            future._when_ended(lambda _: alarm.cancel())

    def remove(self, future: Any) -> None:
        """It waits no longer."""
        with self._empty:
            self._waiting.discard(future)
            if self._waiting:
                return
            self._empty.notify_all()
            then, self._then = self._then, []
        for do in then:
            self._clock.close()
            do()

    def do(self, do: Callable[[], None]) -> None:
        """Have the line's thread call `do()`."""
        self._clock.call_at(0.0, do)

    def waiting_for(self, backend: str | None) -> int:
        """How many; None: for any backend."""
        with self._empty:
            return sum(backend in (None, each.backend) for each in self._waiting)

    def stop(self) -> None:
        """Cancel all that wait."""
        with self._empty:
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def then(self, do: Callable[[], None]) -> None:
        """Call `do()` once nobody waits: now, or in the thread that hands over the last."""
        with self._empty:
            if self._waiting:
                self._then.append(do)
                return
        self._clock.close()
        do()

    def wait(self, until: float | None) -> bool:
        """Wait until nobody waits in line; False if that moment passed first."""
        with self._empty:
            left = None if until is None else max(0.0, until - time.monotonic())
            return self._empty.wait_for(lambda: not self._waiting, left)


def _end_of_waiting(options: CallOptions) -> float | None:
    ends = [] if options.deadline is None else [options.deadline]
    if options.queue_timeout is not None:
        ends.append(time.monotonic() + options.queue_timeout)
    return min(ends, default=None)
