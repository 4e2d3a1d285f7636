"""A call on its way through the thread backend, almost without locks.

What every call goes through once, and in one thread, takes no lock: its worker begins it and ends
it.  Instead both sides write first and look afterwards, so that of two that meet at least one sees
the other, and leaves the decision to the lock of futures:

1. The worker sets `_taken`, then looks at `_asked`; anybody else who wants to begin or end a call
   sets `_asked`, then looks at `_taken`.
2. The worker sets `ending`, then looks for listeners; who wants to listen makes them, then looks
   at `ending`.

Where one sees that the other is between two of its stores, it waits for the second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import PENDING, RUNNING
from contextvars import Context, Token
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from unirun import _context, _observe
from unirun._context import TaskContext, Unasked
from unirun._errors import QueueTimeout
from unirun._future import Future
from unirun.backend import (
    Backend,
    CallOptions,
    FlagToken,
    describe,
    number_for,
    run_to_end,
)

if TYPE_CHECKING:
    from unirun._clock import Clock
    from unirun._future import Listeners

__all__ = ["Keywords", "RunningCall", "ThreadFuture", "Worker", "run"]


class Worker:
    """One thread. `taken` and `call` are written by that thread alone: reading needs no lock."""

    __slots__ = (
        *("abandoned", "asked_at", "backend", "born", "brisk", "busy", "call", "computed", "pool"),
        *("taken", "thread"),
    )

    def __init__(self, pool: Backend) -> None:
        self.pool = pool
        self.backend = pool.name
        self.thread: threading.Thread
        self.call: RunningCall | None = None  # the innermost, while one helps another
        self.taken = 0  # items it has taken from the queue and is done with
        self.abandoned = False  # guarded by the backend's lock
        self.computed = self.asked_at = 0.0  # seconds of processor time, and when that was
        self.brisk: CallOptions | None = None  # of calls that are too short to be timed
        self.busy = 0.0  # seconds of the others
        self.born = time.monotonic()

    def tell(self, what: str) -> None:
        if _observe.watchers:
            me, source = self.thread.name, id(self.pool)
            _observe.tell(what, backend=self.backend, worker=me, pid=os.getpid(), source=source)

    def futures(self) -> list[ThreadFuture]:
        """Of the calls on its stack."""
        found, call = [], self.call
        while call is not None:
            if call.future is not None:
                found.append(call.future)
            call = call.before
        return found


class ThreadFuture(Future[Any]):
    """A future that carries its call until it has run."""

    # The backend's submit stores what a new one has: a call of __init__ would cost as much as that.
    # Few, since each garbage collection looks at each of them.
    __slots__ = (
        *("_args", "_asked", "_copied", "_fn", "_options", "_running", "_since", "_taken"),
        *("_backend", "_exception", "_listeners", "_result", "_state", "number"),
    )
    _observed = True

    _fn: Callable[..., Any] | None
    _args: tuple[Any, ...] | None  # or Keywords
    _copied: Context | None
    _options: CallOptions
    _asked: bool
    _since: float  # when it was submitted, for dumps
    # These are not there before somebody stores them.
    _running: RunningCall
    _taken: bool
    number: int  # from the first on who asks for it

    __init__ = object.__init__

    def _begin_taken(self) -> bool:
        """As `_begin`, by the worker that got this future from the queue."""
        return super()._begin()

    def _ask(self) -> None:
        """Rule 1."""
        self._asked = True
        while self._state is PENDING and getattr(self, "_taken", False):
            time.sleep(0)  # its worker is between these two

    def _begin(self) -> bool:
        self._ask()
        return super()._begin()

    def _end(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        *,
        only_pending: bool = False,
    ) -> bool:
        self._ask()
        return super()._end(state, result, exception, only_pending=only_pending)

    def _listen(self) -> Listeners:
        listeners = super()._listen()
        while self._state is RUNNING and (call := self._call()) is not None and call.ending:
            time.sleep(0)  # rule 2: its worker is about to end it
        return listeners

    def _call(self) -> RunningCall | None:
        return getattr(self, "_running", None)

    def stop(self) -> None:
        """Ask the body to stop."""
        while (call := self._call()) is None and self._state is RUNNING:
            time.sleep(0)  # it has begun this moment
        if call is not None:
            call.stop()

    def expire(self) -> None:
        """End it if it still waits."""
        if self._begin():
            self.let_go()
            self._fail(QueueTimeout("the call still waited for a thread when its time was up"))

    def limit_waiting(self, clock: Clock) -> None:
        """From now on; called before a worker can see it."""
        options = self._options
        ends = [] if options.deadline is None else [options.deadline]
        if options.queue_timeout is not None:
            ends.append(time.monotonic() + options.queue_timeout)
        alarm = clock.call_at(min(ends), self.expire)
        self._on_end = lambda _: alarm.cancel()
        if options.deadline is not None and time.monotonic() >= options.deadline:
            self.expire()

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        call, copied = self._call(), self._copied
        if call is None or copied is None or self._args is None:
            return None
        from unirun._again import run_again

        args: Any = self._args
        whole = (self._fn, args, {}) if type(args) is tuple else (self._fn, args, args.named)
        about, backend = call.context(), "thread"
        name, number, inside = about.name, about.id, copied.copy()
        return lambda: run_again(inside, backend, name, self._options, number, whole)

    def let_go(self) -> None:
        """A future that is kept keeps no arguments alive."""
        self._fn = self._args = self._copied = None

    def _tell_info(self) -> dict[str, Any]:
        told, parts = self._tell_later()
        return told(*parts)

    def _tell_later(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        call = self._call()
        if call is None:
            return dict, ((("options", self._options), ("queued", self._since)),)
        begun, ended = getattr(call, "begun", None), getattr(call, "ended", None)
        seconds = begun, ended, getattr(call, "cpu", None)
        return _told, (self._options, self._since, call.worker.thread, *seconds)

    def name(self) -> str:
        call = self._call()
        fn = self._fn if call is None else call.fn
        return self._options.name or ("the call" if fn is None else describe(fn))


def _told(
    options: CallOptions,
    since: float,
    thread: threading.Thread,
    begun: float | None,
    ended: float | None,
    cpu: float | None,
) -> dict[str, Any]:
    """For `_tell_info`, of a call that has begun."""
    where = {"worker": thread.name, "pid": os.getpid()}
    when = {"queued": since, "begun": begun, "ended": ended, "cpu": cpu}
    return {"options": options, **where, **when}


class Keywords(tuple[Any, ...]):
    """Arguments, with those that have names; the usual call has none and is a plain tuple."""

    named: dict[str, Any]

    @classmethod
    def of(cls, args: tuple[Any, ...], named: dict[str, Any]) -> Keywords:
        made = cls(args)
        made.named = named
        return made


class RunningCall(Unasked):
    """A call that runs, and what `current_task()` makes of it if somebody asks."""

    __slots__ = (
        *("_made", "before", "begun", "computed", "cpu", "ended", "ending"),
        *("entered", "fn", "future", "options", "worker"),
    )

    # Stored by the backend, as those of a ThreadFuture.
    before: RunningCall | None  # the call that waits for this one
    ending: bool
    fn: Callable[..., Any] | None
    future: ThreadFuture | None  # until it ends: a context may outlive that
    options: CallOptions
    worker: Worker
    begun: float  # these four if it was timed, the last if it was long, too
    computed: float  # by its thread, before it began
    ended: float
    cpu: float
    entered: Token[Any] | None  # while the body runs: it knows the call that has submitted this one
    _made: TaskContext | None

    __init__ = object.__init__

    @property
    def seeded(self) -> bool:
        return self.options.seed is not None

    def context(self) -> TaskContext:
        if self._made is None:
            future, entered = self.future, getattr(self, "entered", None)
            made = TaskContext(
                self.options.name or describe(self.fn),
                number_for(self.options) if future is None else _observe.number_of(future),
                kind=self.options.kind,
                backend=self.worker.backend,
                worker=self.worker.thread.name,
                token=FlagToken(),
                attempt=self.options.attempt,
                deadline=self.deadline,
                seed=self.options.seed,
                above=None if entered is None else entered.old_value,
            )
            if (future := self.future) is not None:
                made.belongs_to(future)
            with _making:
                self._made = self._made or made
        return self._made

    def stop(self) -> None:
        token = self.context().token
        assert isinstance(token, FlagToken)
        token.set()


_making = threading.Lock()  # one context for each call, whoever asks first


def run(call: RunningCall, fn: Any, args: Any) -> Any:
    """The body; in the context that was copied for it."""
    call.entered = _context.running.set(call)
    try:
        value = fn(*args) if type(args) is tuple else fn(*args, **args.named)
        if type(value) is CoroutineType:
            return run_to_end(lambda: value, (), {})
        return value
    finally:
        call.entered = None  # it would be a cycle
        if call._made is not None:
            call._made.ended()
