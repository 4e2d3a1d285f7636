"""Timer: a call of an executor, made later; with the interface of `threading.Timer`.

    start ──▶ the executor's clock ──(interval)──▶ executor.submit ──▶ future ──▶ over
                        cancel(), or the end of the executor ──────────────────────▶

No thread waits for a timer: one clock does for all of an executor.  A submit that may block (the
inline backend runs the call in it, `max_pending` waits in it) gets a thread for that moment.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from contextvars import ContextVar

from unirun import _context
from unirun._clock import Clock
from unirun._errors import ExecutorShutdown, NotKillable
from unirun._lasting import Lasting, drop, keep
from unirun._prompt import in_slices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from unirun._future import Future

__all__ = ["Timer", "Timers"]

# What a timer goes through, in this order; from each state it may go to OVER.
_NEW, _WAITING, _SUBMITTING, _CALLED, _OVER = range(5)

# The timer whose function runs in this context, or has submitted what runs in it.
_inside: ContextVar[Timer | None] = ContextVar("unirun_timer", default=None)


class Timer(Lasting):
    """Calls a function after a time, as `threading.Timer` does, but through an executor.

    So the call goes where its kind belongs, and can be killed. It runs with the context variables
    of whoever called `start()`. An exception of the function is reported to
    `threading.excepthook`, unless `future` had been asked for before. When its executor is shut
    down, a timer that still waits ends with `ExecutorShutdown`, reported likewise; silently if
    the shut-down cancels or kills.

    Args:
        interval: seconds from `start()` until the call is submitted.
        function: what to call, with the positional arguments `args` and the keywords `kwargs`.

    Attributes: `interval`, `function`, `args` and `kwargs`, until it starts; `finished`
    (`threading.Event`), set when the call has ended and by `cancel()`.

    Raises:
        RuntimeError: started twice; joined before it was started, or from its own function.
    """

    _what = "a timer"
    _counter = itertools.count(1)
    _ends_before_executors = True

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(None, None)
        self.interval = interval
        self.function = function
        self.args: Iterable[Any] = [] if args is None else args
        self.kwargs: Mapping[str, Any] = {} if kwargs is None else kwargs
        self.finished: threading.Event = threading.Event()
        # Guards the state and the four below.  Reentrant: a signal handler may cancel.
        self._lock = threading.RLock()
        self._state = _NEW
        self._future: Future[Any] | None = None
        self._exception: BaseException | None = None
        self._asked = False  # somebody has the future, and with it the exception
        self._submitted = threading.Event()  # the state is CALLED or OVER
        self._over = threading.Event()
        self._timers: Timers | None = None  # of its executor, from the start on
        self._submit: Callable[[], Future[Any]] | None = None

    # -- as threading.Timer -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to wait; the function is called after `interval` seconds.

        Raises:
            RuntimeError: it was started before; ExecutorShutdown if its executor was shut down.
            UnsupportedByBackend: the function cannot run where it would have to.
        """
        self._claim_start()
        try:
            self._prepare()
            when = time.monotonic() + max(0.0, _checked(self.interval))
        except BaseException:
            self._started = False
            raise
        with self._lock:
            cancelled = self.finished.is_set()
            self._state = _OVER if cancelled else _WAITING
        if cancelled:
            self._end(None)
            return
        assert self._timers is not None
        keep(self)
        try:
            self._timers.add(self, when)
        except BaseException:  # no thread to be had for the clock
            self._withdraw()
            raise

    def cancel(self) -> None:
        """Stop it, if the function has not begun; one that runs is told so by its `current_task`.

        As with any call, an end by force is `kill()`.
        """
        if not self._withdraw():
            self.finished.set()
            if self._future is not None:
                self._future.cancel()

    def is_alive(self) -> bool:
        """From `start()` until the function has returned or will not be called any more."""
        return self._started and not self._over.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is not alive any more, at most `timeout` seconds."""
        self._check_joinable(inside=_inside.get() is self and self.is_alive())
        in_slices(self._over.wait, None if timeout is None else max(0.0, timeout))

    @property
    def ident(self) -> int | None:
        """A number of this timer, while it exists; None before it was started."""
        return id(self) if self._started else None

    # -- more -------------------------------------------------------------------------------------

    @property
    def future(self) -> Future[Any] | None:
        """The future of the call; None before it is submitted, and if it never is."""
        with self._lock:
            self._asked = self._asked or self._future is not None
            return self._future

    @property
    def exception(self) -> BaseException | None:
        """What the function raised, or what ended its call; None if nothing did so far."""
        return self._exception

    def kill(self, grace: float | None = None) -> bool:
        """As `cancel()`, and end the function if it runs: see `Future.kill`.

        Returns:
            True if the function has no further effect, False if it had ended.

        Raises:
            NotKillable: it runs in a thread.
        """
        if not self._started:
            raise RuntimeError("cannot kill a timer before it is started; cancel() it")
        if self._withdraw():
            return True
        if self._state == _SUBMITTING and self._runs_in_submit:
            raise NotKillable(
                "inline",
                "kill a call that runs in the caller's process",
                "use kind='isolated' or backend='process'",
            )
        self._submitted.wait()
        return self._future is None or self._future.kill(grace)

    def __reduce__(self) -> Any:
        raise TypeError("a Timer cannot be pickled; make one where it is needed")

    # -- what happens to it -----------------------------------------------------------------------

    def _prepare(self) -> None:
        """Find out, while there is somebody to tell, whether the call is possible."""
        submitter = self._find_submitter()
        executor, args, kwargs = submitter._owner, tuple(self.args), dict(self.kwargs)
        if executor._closed:
            raise ExecutorShutdown("cannot start a timer after the shutdown of its executor")
        context = _context.apart()
        context.run(_inside.set, self)
        plan = context.run(executor._plan, self.function, submitter._given)
        self._runs_in_submit = "cooperative" not in plan.backend.capabilities
        self._may_block = self._runs_in_submit or executor._gate is not None
        self._timers = executor._held.timers
        function = self.function
        self._submit = lambda: context.run(submitter.submit, function, *args, **kwargs)

    def _due(self) -> None:
        """By the clock, whose thread is for all timers of the executor."""
        if not self._may_block:
            self._call()
            return
        try:
            threading.Thread(target=self._call, name=self.name, daemon=True).start()
        except RuntimeError as exc:  # no threads to be had
            self._refuse(exc)

    def _call(self) -> None:
        with self._lock:
            if self._state != _WAITING:
                return
            self._state = _SUBMITTING
        assert self._submit is not None
        try:
            future = self._submit()
        except BaseException as exc:  # reported, as what the function raises  # noqa: BLE001
            self._end(exc)
            return
        with self._lock:
            self._future = future
            self._state = _CALLED
        self._submitted.set()
        if self.finished.is_set():
            future.cancel()  # cancelled meanwhile
        future.add_done_callback(self._called)

    def _called(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._exception = future._exception  # TaskKilled, which somebody wanted
            self._end(None)
        else:
            self._end(future.exception())

    def _withdraw(self) -> bool:
        """End it silently, if it still waits; whether it is certain now that nothing is called."""
        with self._lock:
            if self._state == _OVER:
                return self._future is None
            if self._state != _WAITING:
                return False
            self._state = _OVER
        self._end(None)
        return True

    def _refuse(self, why: BaseException) -> None:
        """It cannot be called: its executor was shut down, or there are no threads."""
        with self._lock:
            if self._state != _WAITING:
                return
            self._state = _OVER
        self._end(why)

    def _end(self, error: BaseException | None) -> None:
        """Reached once: the state says who."""
        try:
            if error is not None:
                self._exception = error
                if not self._asked:
                    self._report(error)
        finally:
            with self._lock:
                self._state = _OVER
                self._submit = None
            self._submitted.set()
            self.finished.set()
            self._over.set()
            drop(self)
            if self._timers is not None:
                self._timers.discard(self)

    def _report(self, error: BaseException) -> None:
        thread: Any = self  # what a hook wants of a thread is its name
        args = threading.ExceptHookArgs((type(error), error, error.__traceback__, thread))
        try:
            threading.excepthook(args)
        except BaseException:  # the hook is the user's  # noqa: BLE001
            sys.excepthook(*sys.exc_info())

    def _end_now(self) -> None:
        self._withdraw()

    def _stayed_in_parent(self) -> None:
        self._lock = threading.RLock()
        self._state = _OVER
        self._over = threading.Event()
        self._over.set()


def _checked(interval: float) -> float:
    if interval != interval:
        raise ValueError("the interval of a timer cannot be nan; give it seconds")
    return interval


class Timers:
    """The timers of one executor that have not ended, and the clock they wait on."""

    def __init__(self, name: str) -> None:
        self._clock = Clock(name)  # ours to close, in `close`
        # Guards _open and _closed: after `close` no timer of it waits. Reentrant: a collected
        # executor closes from anywhere.
        self._lock = threading.RLock()
        self._open: dict[Timer, Any] = {}  # with its appointment
        self._closed = False

    def add(self, timer: Timer, when: float) -> None:
        """Have it called then; refused at once after `close`."""
        with self._lock:
            if not self._closed:
                self._open[timer] = self._clock.call_at(when, timer._due)
        if self._closed:
            timer._refuse(_shut_down())
        elif not timer.is_alive():  # cancelled in between
            self.discard(timer)

    def discard(self, timer: Timer) -> None:
        """It has ended."""
        with self._lock:
            appointment = self._open.pop(timer, None)
        if appointment is not None:
            appointment.cancel()

    def stop(self) -> None:
        """Cancel those that wait."""
        for timer in self._all():
            timer._withdraw()

    def close(self) -> None:
        """Nothing can be submitted any more: end those that wait, and the clock."""
        with self._lock:
            self._closed = True
        for timer in self._all():
            timer._refuse(_shut_down())
        self._clock.close()

    def wait(self, until: float | None) -> bool:
        """After `close`: wait for calls that no backend knows of, since they run in its submit.

        False if that moment passed first.
        """
        others = [
            each for each in self._all() if each._runs_in_submit and _inside.get() is not each
        ]
        if not all(each._over.wait(_left(until)) for each in others):
            return False
        self._clock.join(_left(until))
        return True

    def _all(self) -> list[Timer]:
        with self._lock:
            return list(self._open)


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _shut_down() -> ExecutorShutdown:
    return ExecutorShutdown("the executor was shut down before the time of a timer had come")


Timer.__module__ = "unirun"
