"""One event-loop thread for `async def` tasks: thousands at once, cancellable at every await.

    submit ──call_soon_threadsafe──> loop thread: asyncio.Task ──> future._end

A coroutine is stopped by cancelling it.  That takes effect at its next await; one that blocks
the loop, or swallows the cancellation, cannot be stopped, and past its time it is abandoned.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures._base import PENDING
from typing import Any

from unirun import _context, _observe
from unirun._again import run_again
from unirun._call_notes import add_call_note, call_note
from unirun._clock import Clock
from unirun._context import TaskContext, running
from unirun._dump_records import CallReport, Report, WorkerReport, copied
from unirun._errors import (
    DeadlockError,
    ExecutorShutdown,
    InitializerFailed,
    NotKillable,
    QueueTimeout,
    TaskKilled,
    TaskTimeout,
    UnsupportedByBackend,
)
from unirun._future import Future
from unirun._loops import LoopWatch, end_loop, run_loop
from unirun._prompt import Thread
from unirun._remedies import no_thread
from unirun._sites import note, site_of
from unirun._steps import Measured
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    FlagToken,
    Patience,
    Stats,
    WorkerSpec,
    context_of,
    describe,
    left_behind,
    not_callable,
    overtime,
    without_caller_frames,
)

ANSWER_PATIENCE = 1.0
"""Seconds beyond the grace of a kill after which a loop that does not react is left behind."""


class CoroutineFuture(Future[Any]):
    _observed = True
    _since: float  # when it was submitted, for dumps
    _begun: float | None = None
    _ended: float | None = None
    _call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None
    _copied: contextvars.Context
    _options: CallOptions
    _token: FlagToken
    _task: asyncio.Task[Any] | None = None  # touched by the loop thread only
    _reason: BaseException | None = None  # why it was asked to stop
    _timers: tuple[asyncio.TimerHandle, ...] = ()
    _steps: Measured | None = None  # while it runs, if somebody watched as it began
    _cpu: float | None = None

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        if self._call is None:
            return None
        whole = "coroutine", _name(self), self._options, _observe.number_of(self), self._call
        return lambda: run_again(self._copied.copy(), *whole)

    def _tell_info(self) -> dict[str, Any]:
        thread = getattr(self._backend, "_thread", None)
        told: dict[str, Any] = {"options": self._options}
        told |= {"queued": self._since, "begun": self._begun, "ended": self._ended}
        told["cpu"] = self._cpu
        if thread is None or self._state is PENDING:
            return told
        return told | {"worker": thread.name, "pid": os.getpid()}


class CoroutineBackend(Backend):
    """Runs coroutine functions on one event loop, in one thread.

    `max_workers` bounds how many run at once; None: no bound.
    """

    name = "coroutine"
    captures = True
    capabilities = frozenset({Capability.SHAREDMEM, Capability.COOPERATIVE})

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        # Guards _thread, _closed, _clock and the start of _patience. The rest belongs to the loop
        # thread, except _handed, and what `_leave_behind` does when that thread has stopped.
        self._lock = threading.Lock()
        self._thread: Thread | None = None
        self._closed = False
        self._patience = Patience(spec.grace + ANSWER_PATIENCE)
        self._handed: deque[CoroutineFuture] = deque()  # the loop has not seen them yet
        self._clock: Clock | None = None  # made at need, closed by the thread of the loop
        self._called = False  # the loop will look at _handed
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._standstills: LoopWatch | None = None
        self._waiting: deque[CoroutineFuture] = deque()
        self._active: set[CoroutineFuture] = set()
        self._finished = self._killed = self._abandoned = 0
        self._broken: InitializerFailed | None = None

    @property
    def max_workers(self) -> int:
        return self.spec.max_workers or 1_000_000

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> CoroutineFuture:
        if callable(fn) and not _makes_coroutines(fn):
            raise UnsupportedByBackend(
                self.name,
                f"run {describe(fn)}, which is not a coroutine function",
                "make it `async def`, or use kind='io'",
            )
        future = CoroutineFuture()
        future._since = time.monotonic()
        if not options.plain:
            if options.call is not None:
                future.number = options.call
            if options.sites:
                note(future)
        future._backend = self
        future._call = (fn, args, kwargs)
        future._copied = contextvars.copy_context()
        future._options = options
        future._token = FlagToken()
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            loop = self._start()
            if _observe.watchers:
                _observe.submitted(future, _name(future), options)
            self._handed.append(future)
            if not self._called:
                self._called = True
                loop.call_soon_threadsafe(self._accept)
        return future

    def kill(self, future: Future[Any], grace: float | None) -> None:
        """Cancels the coroutine; it ends as killed unless it swallows the cancellation."""
        assert isinstance(future, CoroutineFuture)
        self._watch(future, time.monotonic())
        self._in_loop(self._stop, future, TaskKilled("the call was killed"))

    def _watch(self, future: CoroutineFuture, stop_at: float) -> None:
        """See to it from outside that it ends, if the loop is blocked when it is to be stopped."""
        when = stop_at + self.spec.grace + ANSWER_PATIENCE
        alarm = self._the_clock().call_at(when, lambda: self._leave(future))
        future._when_ended(lambda _: alarm.cancel())

    def _the_clock(self) -> Clock:
        with self._lock:
            if self._clock is None:
                self._clock = Clock(f"{self.spec.name}-loop-clock")
            return self._clock

    def _leave(self, future: CoroutineFuture) -> None:
        """The loop does not react."""
        if future._fail(left_behind(self.name, _name(future))):
            future._token.set()
            self._abandoned += 1

    def withdraw(self, future: Future[Any]) -> None:
        self._in_loop(self._advance)

    def request_stop(self, future: Future[Any]) -> None:
        assert isinstance(future, CoroutineFuture)
        future._token.set()

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        if threading.current_thread() is self._thread:
            raise DeadlockError(
                "the event loop's own thread waits for a call that needs the event loop; "
                "`await` the future instead"
            )
        self.awaited(future)
        return False

    def awaited(self, future: Future[Any]) -> None:
        """A call that waits for another makes room for it."""
        if running.get() is not None:
            self._in_loop(self._begin_awaited, future)

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
            if kill:
                self._patience.begin()
        if cancel_futures or kill:
            self._in_loop(self._cancel_waiting)
        if kill:
            self._in_loop(self._stop_all)
        self._in_loop(self._advance)

    def join(self, timeout: float | None = None) -> bool:
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        ended = thread.ends_within(self._patience.within(timeout))
        if not ended and self._patience.is_over:
            self._leave_behind()
            return True
        return ended

    def _leave_behind(self) -> None:
        """A call blocks the loop, or a callback does: nobody shall wait for it for ever."""
        for future in list(self._active):
            self._leave(future)
        for future in [*self._waiting, *self._handed]:
            future.cancel()

    def stats(self) -> Stats:
        return Stats(
            backend=self.name,
            max_workers=self.max_workers,
            workers=int(self._thread is not None),
            pending=len(self._handed) + len(self._waiting),
            running=len(self._active),
            finished=self._finished,
            killed=self._killed,
            abandoned=self._abandoned,
        )

    def running_calls(self) -> list[str]:
        return [_name(future) for future in list(self._active)]

    def report(self) -> Report:
        calls = [_call_report(future, "running") for future in copied(self._active)]
        waiting = copied(self._handed) + copied(self._waiting)
        calls += [_call_report(future, "waiting") for future in waiting]
        workers = [] if self._thread is None else [_report_thread(self._thread)]
        return Report(self.name, self.max_workers, calls, workers)

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        from unirun.sync import make_thread

        return make_thread(kind, *args, **kwargs)

    # -- the loop thread --------------------------------------------------------------------------

    def _start(self) -> asyncio.AbstractEventLoop:
        """Called with the lock held."""
        if self._loop is None:
            loop = asyncio.new_event_loop()  # closed by its thread
            thread = Thread(self._run_loop, f"{self.spec.name}-loop", (loop,))
            self._loop, self._thread = loop, thread
            try:
                thread.start()
            except RuntimeError as exc:
                self._loop = self._thread = None
                loop.close()
                raise no_thread(exc) from exc
        return self._loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._tell("worker_started")
        try:
            self._initialize()
            self._standstills = LoopWatch(
                loop, self.spec.name, self._the_clock, lambda: bool(self._active), self._call_of
            )
            run_loop(loop, lambda: self._over)
        finally:
            end_loop(loop, self.spec.grace)
            self._tell("worker_ended")
            with self._lock:
                if self._clock is not None:
                    self._clock.close()

    def _tell(self, what: str) -> None:
        if _observe.watchers:
            me = threading.current_thread().name
            source = id(self)
            _observe.tell(what, backend=self.name, worker=me, pid=os.getpid(), source=source)

    def _initialize(self) -> None:
        if self.spec.initializer is None:
            return
        try:
            self.spec.initializer(*self.spec.initargs)
        except BaseException as exc:  # user code; every caller is told  # noqa: BLE001
            error = InitializerFailed(f"the initializer failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            self._broken = error

    def _in_loop(self, do: Callable[..., None], *args: Any) -> None:
        """Have the loop thread call `do`; nothing to do if the loop never ran or has ended."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(do, *args)
        except RuntimeError:
            return  # closed meanwhile, so every call has ended

    # From here on: loop thread only.

    def _accept(self) -> None:
        self._called = False  # before the look at _handed: `submit` does it the other way round
        for _ in range(len(self._handed)):  # no more, lest who submits on and on keep us here
            future = self._handed.popleft()
            if self._broken is not None:
                future._fail(self._broken)
                continue
            self._waiting.append(future)
            self._limit_waiting(future)
        self._advance()

    def _advance(self) -> None:
        """Start what may start; end the loop when nothing is left and nothing can come."""
        while self._waiting and len(self._active) < self.max_workers:
            future = self._waiting.popleft()
            if future._begin():
                self._begin(future)
        if self._closed and not (self._waiting or self._active or self._handed):
            self._over = True
            asyncio.get_running_loop().stop()

    def _begin_awaited(self, future: CoroutineFuture) -> None:
        if future in self._waiting and future._begin():
            self._waiting.remove(future)
            self._begin(future)

    def _begin(self, future: CoroutineFuture) -> None:
        assert future._call is not None
        fn, args, kwargs = future._call
        options = future._options
        number = _observe.number_of(future)
        name, copied = _name(future), future._copied
        context = context_of(self.name, name, options, future._token, number=number, context=copied)
        context.belongs_to(future)
        self._active.add(future)
        future._begun = time.monotonic()
        body: Coroutine[Any, Any, Any] = _body(context, fn, args, kwargs)
        if _observe.watchers:
            _observe.started(future)
            body = future._steps = Measured(body)
        loop, name = asyncio.get_running_loop(), context.name
        future._task = loop.create_task(body, name=name, context=future._copied)
        if self._standstills is not None:
            self._standstills.begin()
        future._task.add_done_callback(lambda task: self._ended(future, task))
        if context.deadline is not None:
            self._watch(future, context.deadline)
            future._timers += (self._at(context.deadline, self._expire, future),)

    def _ended(self, future: CoroutineFuture, task: asyncio.Task[Any]) -> None:
        future._ended = time.monotonic()
        if future._steps is not None:
            future._cpu, future._steps = future._steps.seconds, None
        for timer in future._timers:
            timer.cancel()
        if task.cancelled() or task.result()[1] is None:
            future._call = None  # else it is there for `replay`
        future._task = None
        self._active.discard(future)
        self._finished += 1
        self._advance()
        _settle(future, task)
        self._killed += future.cancelled()

    def _call_of(self, task: asyncio.Task[Any]) -> str | None:
        """The name of the call whose task that is; from any thread."""
        found = [each for each in copied(self._active) if each._task is task]
        return _name(found[0]) if found else None

    def _stop(self, future: CoroutineFuture, reason: BaseException) -> None:
        future._token.set()
        if future._task is not None and future._reason is None:
            future._reason = reason
            future._task.cancel()
            self._at(time.monotonic() + self.spec.grace, self._abandon, future)

    def _stop_all(self) -> None:
        for future in list(self._active):
            self._stop(future, TaskKilled("the executor was shut down"))

    def _cancel_waiting(self) -> None:
        for future in list(self._waiting):
            future.cancel()

    def _at(
        self, when: float, do: Callable[[CoroutineFuture], None], future: CoroutineFuture
    ) -> Any:
        return asyncio.get_running_loop().call_later(max(0, when - time.monotonic()), do, future)

    def _limit_waiting(self, future: CoroutineFuture) -> None:
        options = future._options
        ends = [] if options.deadline is None else [options.deadline]
        if options.queue_timeout is not None:
            ends.append(time.monotonic() + options.queue_timeout)
        if options.deadline is not None and time.monotonic() >= options.deadline:
            _expire_waiting(future)
        future._timers = tuple(self._at(end, _expire_waiting, future) for end in ends)

    def _expire(self, future: CoroutineFuture) -> None:
        self._stop(future, TaskTimeout(overtime(_name(future), future._options)))

    def _abandon(self, future: CoroutineFuture) -> None:
        """It was asked to stop and goes on: end the future, and say so."""
        if future not in self._active or future.done():
            return
        self._abandoned += 1
        text = f"{_name(future)} does not heed its cancellation; it was abandoned"
        if isinstance(future._reason, TaskTimeout):
            future._fail(TaskTimeout(text, abandoned=True))
        else:
            future._fail(NotKillable(self.name, f"stop {_name(future)}", "let it await something"))


def _makes_coroutines(fn: Any) -> bool:
    code = getattr(fn, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True  # as most are, said at once
    return inspect.iscoroutinefunction(inspect.unwrap(getattr(fn, "fn", fn)))


def _call_report(future: CoroutineFuture, state: str) -> CallReport:
    age, attempt = time.monotonic() - future._since, future._options.attempt
    return CallReport(future, _name(future), state=state, age=age, attempt=attempt)


def _report_thread(thread: threading.Thread) -> WorkerReport:
    return WorkerReport(thread.name, "runs the event loop", ident=thread.ident)


def _name(future: CoroutineFuture) -> str:
    call = future._call
    return future._options.name or (describe(call[0]) if call is not None else "the call")


async def _body(
    context: TaskContext, fn: Any, args: Any, kwargs: Any
) -> tuple[Any, BaseException | None]:
    if not callable(fn):
        return None, not_callable(fn)
    running.set(context)
    try:
        return await fn(*args, **kwargs), None
    except asyncio.CancelledError:
        raise
    except BaseException as exc:  # noqa: BLE001  # else a SystemExit ends the loop, and all calls
        error = without_caller_frames(exc, 1)
        about: Any = {"call": context.id, "attempt": context.attempt, "worker": context.worker}
        site = None if context.origin is None else site_of(context.origin())
        add_call_note(error, call_note(context.name, args, kwargs, fn=fn, **about), site)
        return None, error
    finally:
        context.ended()
        if _context.at_task_end is not None:
            _context.at_task_end(context)


def _settle(future: CoroutineFuture, task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        reason = future._reason or TaskKilled("the coroutine was cancelled from inside")
        if isinstance(reason, TaskKilled):
            future._killed(reason)
        else:
            future._fail(reason)
        return
    value, error = task.result()
    if error is not None:
        future._fail(error)
    else:
        future._succeed(value)


def _expire_waiting(future: CoroutineFuture) -> None:
    if future._begin():
        future._fail(QueueTimeout("the call had not begun when its time was up"))
