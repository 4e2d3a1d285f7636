"""Draining on SIGTERM: how a program in a container ends without losing what it was given.

    SIGTERM ──> refuse new calls ──> finish those there are ──> end the program, status 143
                                        │ deadline, or a second SIGTERM
                                        └──> kill what still runs, and say so ──┘

1. The handler runs in the main thread, amid anything it may be doing: it waits for nothing and
   starts nothing.  It marks the executors and tells a thread of ours, which is there beforehand,
   and as a rule has heard of the signal before (`_News`).
2. That thread keeps time, and does nothing that could block it: threads that it starts do.
3. The program ends by SystemExit in its main thread, so `finally` and `atexit` do their work.
   Where the program had a handler of its own for SIGTERM, that is called instead, and decides.
4. Once the program ends by itself, nothing is raised any more; the deadline still holds.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of what it returns
import os
import select
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import suppress

from unirun import _context, _ending
from unirun._deferral import resent
from unirun._errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from unirun._shutdown import Shutdown
    from unirun.backend import Backend

__all__ = ["Drain", "drain_on_sigterm", "forget"]

STATUS = 143
"""What a shell says of a program that SIGTERM ended: 128 + 15."""
PATIENCE = 5.0
"""Seconds for what should end at once, after which it is not waited for."""
LOOK = 0.02
"""Seconds between two looks at what tells nobody of its end."""
MOMENT = 0.5
"""Seconds for the main thread to take the results of the calls that have just ended."""
SOON = 0.3
"""Seconds within which a main thread that waits, or runs Python, notices a signal."""
REFUSAL = (
    "cannot schedule new futures: the executor drains since SIGTERM; let the calls it has end, "
    "and the program with them"
)

_SIGTERM = _signal.SIGTERM
# What the thread is told, beside the `_Draining` that have ended.
_SIGNAL, _BEGUN, _AGAIN, _STOP = "SIGTERM", "the handler has begun", "once more", "stop"


class Drain:
    """What `drain_on_sigterm` returns: `cancel()` it, or use it in a `with` block, to undo that."""

    def __init__(self, executor: Shutdown | None, timeout: float, wait_for_main: bool) -> None:
        self.timeout = timeout
        self._wait_for_main = wait_for_main
        self._executor = None if executor is None else weakref.ref(executor)

    @property
    def begun(self) -> bool:
        """Whether SIGTERM has come: a loop that makes work may look at this, and end."""
        return self in _watch.drains and _watch._draining is not None

    def cancel(self) -> None:
        """SIGTERM does again what it did before; no effect on a drain that has begun."""
        _watch.drop(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()

    def _executors(self) -> list[Shutdown]:
        """Those that it is about, and that have not ended."""
        found: list[Any] = list(_ending._open) if self._executor is None else [self._executor()]
        return [each for each in found if each is not None and not each._ended]


def drain_on_sigterm(
    executor: Shutdown | None, timeout: float, *, wait_for_main: bool = False
) -> Drain:
    """`Executor.drain_on_sigterm`; None: for all executors there are when it comes."""
    if _context.in_worker_process:
        raise ConfigError(
            "drain_on_sigterm() in a worker process, which SIGTERM kills; call it in the program"
        )
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "drain_on_sigterm() in a thread: Python sets signal handlers in the main thread only; "
            "call it there"
        )
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise ConfigError(f"timeout={timeout!r} is no number of seconds; use 0 or more")
    drain = Drain(executor, min(float(timeout), threading.TIMEOUT_MAX), wait_for_main)
    _watch.add(drain)
    if executor is not None:
        executor._has_drain = True
    return drain


def forget(executor: Shutdown) -> None:
    """It has ended: SIGTERM is no business of it any more."""
    for drain in _watch.drains:
        if drain._executor is not None and drain._executor() is executor:
            _watch.drop(drain)


class _News:
    """What the thread that keeps time is told: by other threads, the handler, and the system.

    The system writes the number of each signal into the pipe when it arrives, be the main thread
    deaf in a library or about to sleep; unless the program has another use for `set_wakeup_fd`.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self.heard = 0
        """So many SIGTERM the system has told of, without those that we have put off and resent."""
        self._bytes = resent[_SIGTERM]
        self._reader, self._writer = os.pipe()  # closed by the thread that reads, when told to stop
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        before = _signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if before != -1:
            _signal.set_wakeup_fd(before)

    @property
    def hears_signals(self) -> bool:
        """Whether the system tells us; in the main thread."""
        now = _signal.set_wakeup_fd(-1)
        if now != -1:
            _signal.set_wakeup_fd(now, warn_on_full_buffer=now != self._writer)
        return bool(now == self._writer)

    def put(self, item: Any) -> None:
        self._items.append(item)
        with suppress(BlockingIOError):  # full: it is being read
            os.write(self._writer, b"\0")

    def get(self, seconds: float | None = None) -> Any:
        """The next; None if there is none in that time."""
        if not self._items:
            self._poll.poll(None if seconds is None else max(0.0, min(seconds, 1e6)) * 1000)
            self.listen()
        return self._items.popleft() if self._items else None

    def listen(self) -> None:
        """To what the system has written by now."""
        with suppress(BlockingIOError):
            self._bytes += os.read(self._reader, 4096).count(bytes([_SIGTERM]))
        # One put off is told twice, and counted as resent before the second time.
        count = max(0, self._bytes - resent[_SIGTERM] - self.heard)
        self.heard += count
        self._items.extend([_SIGNAL] * count)

    def unhook(self) -> None:
        """In the main thread."""
        if self.hears_signals:
            _signal.set_wakeup_fd(-1)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class _Watch:
    """Handler and thread of this process; there while there is a drain to be begun."""

    def __init__(self) -> None:
        self.drains: tuple[Drain, ...] = ()  # never changed, only replaced: the handler reads it
        self._thread: threading.Thread | None = None  # ends when it is told to stop
        self._news: _News | None = None  # its own
        # Makes beginning one step. Reentrant: the handler may interrupt itself.
        self._beginning = threading.RLock()
        self._draining: list[_Draining] | None = None  # since it has begun
        self._over = False  # the next SIGTERM is ours, and ends the program
        self._told = False  # it has
        self._own = 0  # those of the SIGTERM heard that are from us, or were there before
        self._installed = self._registered = False
        self._exiting = False  # the interpreter has begun to exit
        self._previous: Any = None  # handler

    # -- in the main thread -----------------------------------------------------------------------

    def add(self, drain: Drain) -> None:
        if self._draining is not None:
            raise ConfigError("drain_on_sigterm() after SIGTERM; the program is about to end")
        if not self._registered:
            self._registered = True
            threading._register_atexit(self._note_exit)  # type: ignore[attr-defined]
        if self._news is None:
            self._news = _News()
            args = (self._news,)
            thread = threading.Thread(target=self._run, args=args, name="unirun-drain", daemon=True)
            thread.start()
            self._thread = thread
        self.drains = (*self.drains, drain)
        if _signal.getsignal(_SIGTERM) != self._handle:  # which may be somebody else's by now
            self._previous, self._installed = _signal.getsignal(_SIGTERM), True
            _signal.signal(_SIGTERM, self._handle)

    def drop(self, drain: Drain) -> None:
        """From any thread, also more than once."""
        if drain not in self.drains or self._draining is not None:
            return
        self.drains = tuple(each for each in self.drains if each is not drain)
        # A handler can be put back in the main thread only: elsewhere ours stays, and does what
        # the one before did.
        if self.drains or threading.current_thread() is not threading.main_thread():
            return
        self._put_back()
        news, self._news = self._news, None
        if news is not None:
            news.unhook()
            news.put(_STOP)
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _put_back(self) -> None:
        if self._installed and _signal.getsignal(_SIGTERM) == self._handle:
            self._installed = False
            _signal.signal(_SIGTERM, _signal.SIG_DFL if self._previous is None else self._previous)

    def _note_exit(self) -> None:
        self._exiting = True

    def _handle(self, number: int, frame: Any) -> None:
        """Rule 1."""
        news, again = self._news, self._draining is not None
        if self._over:
            self._end_program(number, frame)
        elif news is not None and self._begin(news):
            if not again:
                news.put(_BEGUN)
            elif not news.hears_signals:
                news.put(_AGAIN)
        elif callable(self._previous):  # nothing to drain
            self._previous(number, frame)
        elif self._previous != _signal.SIG_IGN:
            _die()

    def _end_program(self, number: int, frame: Any) -> None:
        self._told = True
        own = callable(self._previous)
        _signal.signal(_SIGTERM, self._previous if own else _die)
        if self._exiting:
            return
        if own:
            self._previous(number, frame)
        else:
            raise SystemExit(STATUS)

    # -- in a thread of ours: rule 2 --------------------------------------------------------------

    def _begin(self, news: _News) -> bool:
        """Have all executors refuse calls from now on; False if there is none. Here and there."""
        with self._beginning:
            if self._draining is None and any(drain._executors() for drain in self.drains):
                self._draining = [
                    _Draining(drain, executor, news)
                    for drain in self.drains
                    for executor in _refusing(drain)
                ]
            return self._draining is not None

    def _run(self, news: _News) -> None:
        signals = 0
        while self._draining is None:
            item = news.get()
            if item == _STOP:
                news.close()
                return
            if item == _SIGNAL:
                # Not where another handler has the say, for good or for a moment: it may call ours.
                ours = _signal.getsignal(_SIGTERM) == self._handle
                signals = int(not ours or self._begin(news))
        self._see_to_the_end(self._draining, news, signals)

    def _see_to_the_end(self, all_: list[_Draining], news: _News, signals: int) -> None:
        last = max(each.until for each in all_)
        at_once = self._wait_for_calls(all_, news, signals)
        waits = any(each.drain._wait_for_main for each in all_)
        enough = time.monotonic() + MOMENT
        while not (at_once or self._over or self._exiting) and time.monotonic() < last:
            in_use = waits or any(_is_read(each.executor) for each in all_)
            if not in_use and time.monotonic() >= enough:
                break
            at_once = news.get(LOOK) in (_AGAIN, _SIGNAL)
        self._tell_main_thread(news, PATIENCE)
        if not callable(self._previous):
            left = 0.0 if at_once or self._exiting else max(0.0, last - time.monotonic())
            self._insist(news, left + PATIENCE)

    def _wait_for_calls(self, all_: list[_Draining], news: _News, signals: int) -> bool:
        """Until all have ended; True if a second SIGTERM has ended them."""
        open_, at_once = set(all_), False
        for each in all_:
            each.begin()
        while open_:
            item = news.get(min(each.until for each in open_) - time.monotonic())
            if isinstance(item, _Draining):
                open_.discard(item)
                continue
            signals += item == _SIGNAL
            if not self._over and (item == _AGAIN or signals > 1):
                at_once = True
                self._kill(list(open_), open_, news, "SIGTERM came again", at_once=True)
                continue
            late = {each for each in open_ if each.until <= time.monotonic()}
            open_ -= {each for each in late if each.is_killed}  # nothing helps
            if late & open_:
                why = f"the {max(each.timeout for each in late):g} s to drain are over"
                self._kill(list(late & open_), open_, news, why)
        return at_once

    def _kill(
        self,
        these: list[_Draining],
        open_: set[_Draining],
        news: _News,
        why: str,
        *,
        at_once: bool = False,
    ) -> None:
        _say_what_ends(why, these)
        if all(each.is_killed or each in these for each in open_):
            # First, so that the program does not end by the failure of a call that it waits for.
            self._tell_main_thread(news, SOON)
        for each in these:
            each.kill(at_once=at_once)

    def _tell_main_thread(self, news: _News, patience: float) -> None:
        """Have the handler called there; again and again, as a signal may come amid nothing."""
        if not self._over:
            news.listen()
            self._own = news.heard
        self._over = True
        until = time.monotonic() + patience
        while not self._told and time.monotonic() < until:
            self._send()
            sent = time.monotonic()
            while not self._told and time.monotonic() < sent + 0.1:
                time.sleep(0.001)

    def _send(self) -> None:
        main = threading.main_thread().ident
        if main is not None:
            self._own += 1
            _signal.pthread_kill(main, _SIGTERM)

    def _insist(self, news: _News, seconds: float) -> None:
        """Somebody caught SystemExit, or waits for a thread that never ends."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            news.get(left)
            if news.heard > self._own:  # one of somebody else's, and the main thread was deaf
                self._send()
                time.sleep(min(left, 0.1))
        _say(f"the program did not end within {seconds:.1f} s of its calls; ended by force")
        os._exit(STATUS)

    def in_forked_child(self) -> None:
        """The thread stayed in the parent."""
        news = self._news
        self._put_back()
        self.__init__()  # type: ignore[misc]
        if news is not None:
            news.unhook()
            news.close()


class _Draining:
    """One executor that drains; the thread that keeps time has it."""

    def __init__(self, drain: Drain, executor: Shutdown, news: _News) -> None:
        self.drain = drain
        self.executor = executor
        self.timeout = drain.timeout
        self.until = time.monotonic() + drain.timeout
        self.is_killed = False
        self._news = news

    def begin(self) -> None:
        _aside(self._finish)

    def _finish(self) -> None:
        try:
            self.executor.shutdown()
            self.executor._kill_activities(wait=True)  # they are no calls, and may never end
        finally:
            self._news.put(self)

    def kill(self, *, at_once: bool) -> None:
        """`until` is moved to when that should have worked."""
        self.is_killed = True
        grace = max((each.spec.grace for each in self.backends()), default=0.0)
        self.until = time.monotonic() + PATIENCE + (0.0 if at_once else grace)
        _aside(self._kill_at_once if at_once else self._kill)

    def _kill(self) -> None:
        self.executor.shutdown(kill=True)

    def _kill_at_once(self) -> None:
        self.executor.shutdown(wait=False, kill=True)
        for backend in self.backends():
            if "killable" in backend.capabilities:
                backend.kill_workers()

    def backends(self) -> list[Backend]:
        return list(self.executor._backends.values())


def _say_what_ends(why: str, these: list[_Draining]) -> None:
    backends = [backend for each in these for backend in each.backends()]
    names = [name for backend in backends for name in backend.running_calls()]
    waiting = sum(backend.stats().pending for backend in backends)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    running = f"ended the calls that ran: {shown}" if names else "no call ran"
    _say(f"{why}; {running}" + (f"; cancelled {waiting} that waited" if waiting else ""))


def _refusing(drain: Drain) -> list[Shutdown]:
    """The executors that it is about; from now on they take no calls."""
    executors = drain._executors()
    for executor in executors:
        executor._why_closed = REFUSAL
        executor._drains = executor._closed = True
    return executors


def _is_read(executor: Shutdown) -> bool:
    """Whether somebody reads from a map that has results left."""
    return executor._maps is not None and executor._maps.are_read()


def _aside(do: Any) -> None:
    try:
        threading.Thread(target=do, name="unirun-drain", daemon=True).start()
    except RuntimeError:  # no thread to be had, or the interpreter exits
        do()


def _die(*_: Any) -> None:
    """As if SIGTERM had never been handled; the first process of a container does not die of it."""
    _signal.signal(_SIGTERM, _signal.SIG_DFL)
    os.kill(os.getpid(), _SIGTERM)
    os._exit(STATUS)


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"unirun: {text}\n")
        sys.stderr.flush()


_watch = _Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watch.in_forked_child)

Drain.__module__ = "unirun"
