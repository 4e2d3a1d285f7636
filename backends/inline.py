"""Runs each call at submit, in the thread that submits: the reference, and a debugger's friend.

What passes here passes on processes, because arguments and results make a pickle round trip
(switch it off with `copy=False`) and an exception waits for `result()`.

A call runs in the caller's thread unless it could not end there.  Two kinds cannot, and get a
thread of their own: one with a time limit (the caller waits for it, and abandons it when its
time is up, but for that it spends in a debugger), and one that is handed a Barrier (it needs
company to come back, so the caller goes on and the call is waited for later).
"""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from unirun import _observe, _round_trip
from unirun._again import run_again
from unirun._call_notes import add_call_note, call_note
from unirun._debuggers import holds, is_leaving, is_tracing
from unirun._errors import (
    DeserializationError,
    ExecutorShutdown,
    InitializerFailed,
    NotKillable,
    QueueTimeout,
    SerializationError,
)
from unirun._figures import Figures
from unirun._future import Future
from unirun._sites import note, site_of
from unirun._strict_order import Lookout
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    FlagToken,
    Stats,
    WorkerSpec,
    abandoned,
    context_of,
    describe,
    end_of_body,
    left_behind,
    run_in_context,
)

if TYPE_CHECKING:
    from unirun._context import TaskContext
    from unirun._strict import Check

_LOOK = 0.2
"""Seconds between two looks whether a call past its time limit is still in a debugger."""


class InlineFuture(Future[Any]):
    _observed = True
    _token: FlagToken | None = None
    _options: CallOptions
    _figures: Figures | None = None
    _since: float
    _called_with: tuple[Any, Any, Any] | None = None  # until it has returned
    _copied: contextvars.Context

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        if self._called_with is None:
            return None
        fn, args, kwargs = self._called_with
        name, number = self._options.name or describe(fn), _observe.number_of(self)
        whole = "inline", name, self._options, number, (fn, args, kwargs)
        return lambda: run_again(self._copied.copy(), *whole)

    def _tell_info(self) -> dict[str, Any]:
        figures = {} if self._figures is None else self._figures.told()
        return {"options": self._options, "pid": os.getpid(), "queued": self._since, **figures}


class InlineBackend(Backend):
    """Runs calls at submit, in the caller.

    Options: `copy`: whether arguments and results make a pickle round trip, whatever the call is
    meant for (default: unless it is meant for threads). `strict` (default True): warn of what a
    call that is meant for processes would do differently there, by `unirun.StrictWarning`.
    """

    name = "inline"
    capabilities = frozenset({Capability.PRIORITY})
    captures = True
    option_names = ("copy", "strict")

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        copy = spec.options.get("copy")
        self._copy = None if copy is None else bool(copy)
        self._strict = bool(spec.options.get("strict", True))
        # Guards the counters, the threads and _initialized.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._side: dict[InlineFuture, str] = {}  # calls in threads of their own, by name
        self._running = self._finished = self._abandoned = 0
        self._busy = 0.0
        self._closed = False
        self._initialized = spec.initializer is None
        self._broken: InitializerFailed | None = None

    @property
    def max_workers(self) -> int:
        return 1

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> InlineFuture:
        self._open_for_business()
        future = InlineFuture()
        future._backend = self
        future._options = options
        future._since = time.monotonic()
        future._called_with = fn, args, kwargs
        if not options.plain:
            if options.call is not None:
                future.number = options.call
            if options.sites:
                note(future)
        if _observe.watchers:
            _observe.submitted(future, options.name or describe(fn), options)
        if options.deadline is not None and time.monotonic() >= options.deadline:
            future._fail(QueueTimeout("the deadline of the call had passed before it began"))
            return future
        try:
            call = self._prepare(fn, args, kwargs, options)
        except (SerializationError, UserWarning) as exc:  # a StrictWarning, by a filter
            future._fail(exc)
            return future
        future._begin()
        limited = end_of_body(options) is not None and not is_tracing()
        if limited or call.meets_others:
            self._run_aside(future, call, options, wait=not call.meets_others)
        else:
            self._run(future, call, options)
        if call.left is not None:
            raise call.left
        return future

    def kill(self, future: Future[Any], grace: float | None) -> None:
        raise NotKillable(
            self.name,
            "kill a call that runs in the caller's process",
            "use kind='isolated' or backend='process'",
        )

    def request_stop(self, future: Future[Any]) -> None:
        if isinstance(future, InlineFuture) and future._token is not None:
            future._token.set()

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
            side = list(self._side) if kill else []
        for future in side:
            self.request_stop(future)
            future._fail(left_behind(self.name, self._side.get(future, "the call")))
            self._forget(future)

    def join(self, timeout: float | None = None) -> bool:
        with self._lock:
            return self._changed.wait_for(lambda: not self._side, timeout)

    def stats(self) -> Stats:
        with self._lock:
            return Stats(
                backend=self.name,
                max_workers=1,
                workers=1,
                running=self._running,
                finished=self._finished,
                abandoned=self._abandoned,
                busy=self._busy,
            )

    def running_calls(self) -> list[str]:
        with self._lock:
            return list(self._side.values())

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        from unirun.sync import make_thread

        return _round_trip.keep(make_thread(kind, *args, **kwargs))

    # -- how it runs ------------------------------------------------------------------------------

    def _open_for_business(self) -> None:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            first, self._initialized = not self._initialized, True
        if first:
            self._initialize()

    def _initialize(self) -> None:
        assert self.spec.initializer is not None
        try:
            self.spec.initializer(*self.spec.initargs)
        except KeyboardInterrupt:  # Ctrl-C is for the caller, whose thread this is
            self._initialized = False
            raise
        except BaseException as exc:  # user code; every caller is told
            self._broken = InitializerFailed(f"the initializer failed: {type(exc).__name__}: {exc}")
            raise self._broken from exc

    def _prepare(self, fn: Any, args: Any, kwargs: Any, options: CallOptions) -> _Call:
        """What runs: with copies, or with the very objects."""
        call = _Call(fn, args, kwargs)
        copied = options.copied
        call.copies = (copied is not False) if self._copy is None else self._copy
        if self._strict and copied:
            from unirun._strict import Check  # 10 ms, and what belongs to threads needs none

            call.check = Check(fn, args, kwargs, options.name)
        if call.copies or call.check is not None:
            self._send(call)
        if not call.sent:
            call.meets_others = any(map(_is_barrier, (*args, *kwargs.values())))
        if call.check is not None:
            call.check.begins(call.fn, call.args, call.kwargs)
            call.check.report()
        return call

    def _send(self, call: _Call) -> None:
        """Pickle it, and take what comes out at the other end where copies are wanted."""
        check, parts = call.check, (describe(call.fn), "args", "kwargs")
        try:
            data, kept = _round_trip.dump((call.fn, call.args, call.kwargs), "the call", parts)
        except SerializationError as exc:
            if check is None:
                raise
            check.cannot_be_sent(exc)
            return
        if call.copies:
            call.fn, call.args, call.kwargs = _round_trip.load(data, kept)
        if check is not None:
            check.sends(data, kept)
        call.sent, call.shares = True, bool(kept)
        call.meets_others = any(map(_is_barrier, kept))

    def _run(self, future: InlineFuture, call: _Call, options: CallOptions) -> None:
        token = future._token = FlagToken()
        number = _observe.number_of(future)
        name = options.name or describe(call.fn)
        context = context_of(self.name, name, options, token, number=number)
        context.belongs_to(future)
        with self._lock:
            self._running += 1
        figures = future._figures = Figures()
        if _observe.watchers:
            _observe.started(future)
        lookout = Lookout(call.tell_of_wait) if self._strict and call.may_wait() else None
        with _Interrupts() as interrupts:
            value, error = contextvars.copy_context().run(
                run_in_context, context, call.fn, call.args, call.kwargs
            )
        figures.end()
        if lookout is not None:
            lookout.end()
        raised = error
        value, error = self._outcome(call, value, error)
        with self._lock:
            self._running -= 1
            self._finished += 1
            self._busy += figures.took
        if error is None:
            future._called_with = None
            future._succeed(value)
        else:
            future._copied = contextvars.copy_context()
            if error is raised:
                _note_failure(future, context, call, error)
            future._fail(error)
        if interrupts.seen:
            raise KeyboardInterrupt  # meant for the program, which happens to be in here
        if error is not None and is_leaving(error):
            call.left = error  # so is this, but it may be another thread that has to raise it

    def _outcome(
        self, call: _Call, value: Any, error: BaseException | None
    ) -> tuple[Any, BaseException | None]:
        """The outcome as its caller gets it, after all that is to be warned of."""
        check, copy = call.check, value
        if error is None and (call.copies or check is not None):
            try:
                data = _round_trip.dump(value, "the result")
                copy = _round_trip.load(*data) if call.copies else value
            except SerializationError as exc:
                if check is None or isinstance(exc, DeserializationError):
                    error = exc
                else:
                    check.result_cannot_be_sent(exc)
        if check is not None:
            check.ends((value,) if error is None else ())
            try:
                check.report()
            except UserWarning as exc:  # as above
                error = error or exc.with_traceback(None)  # it is about another line
        return copy, error

    def _run_aside(
        self, future: InlineFuture, call: _Call, options: CallOptions, wait: bool
    ) -> None:
        """Run in a thread of its own; the thread ends with the call, and is ours until then."""

        def body() -> None:
            try:
                context.run(self._run, future, call, options)
            finally:
                self._forget(future)

        context = contextvars.copy_context()
        end = end_of_body(options)
        with self._lock:
            self._side[future] = options.name or describe(call.fn)
        thread = threading.Thread(target=body, name=f"{self.spec.name}-aside", daemon=True)
        thread.start()
        if end is None or not wait:
            return
        ended = future._wait_ended(end - time.monotonic())
        while not ended and holds(thread.ident or 0):
            ended = future._wait_ended(_LOOK)
        if not ended:
            self._abandon(future, options)

    def _abandon(self, future: InlineFuture, options: CallOptions) -> None:
        error = abandoned(self._side.get(future, "the call"), options)
        if future._fail(error):
            with self._lock:
                self._abandoned += 1
            self.request_stop(future)
            self._forget(future)

    def _forget(self, future: InlineFuture) -> None:
        with self._lock:
            self._side.pop(future, None)
            self._changed.notify_all()


class _Call:
    """A function and its arguments as they run."""

    def __init__(self, fn: Any, args: Any, kwargs: Any) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.copies = self.sent = self.shares = self.meets_others = False
        self.check: Check | None = None
        self.left: BaseException | None = None
        """With what somebody left the debugger, and so the program."""

    def may_wait(self) -> bool:
        """Whether it was handed a shared object, for which it might wait."""
        return self.shares or any(map(_round_trip.is_kept, (*self.args, *self.kwargs.values())))

    def tell_of_wait(self, frame: FrameType) -> None:
        from unirun._strict import warn_of_order

        warn_of_order(describe(self.fn), frame)


def _note_failure(
    future: InlineFuture, context: TaskContext, call: _Call, error: BaseException
) -> None:
    about: Any = {"call": context.id, "attempt": context.attempt, "worker": context.worker}
    note = call_note(context.name, call.args, call.kwargs, fn=call.fn, **about)
    add_call_note(error, note, site_of(future))


def _is_barrier(obj: Any) -> bool:
    return isinstance(obj, threading.Barrier)


class _Interrupts:
    """Tells Ctrl-C during a call in the main thread from a KeyboardInterrupt the task raised."""

    def __init__(self) -> None:
        self.seen = False
        self._watching = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> Self:
        if self._watching:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        # Unless the task has put a handler of its own there.
        if self._watching and signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.default_int_handler(number, frame)
