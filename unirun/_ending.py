"""How executors end: by a shutdown, or when the interpreter exits.

At exit, as with `concurrent.futures`, nothing new is taken, and work that was submitted is finished
before the program ends; also that of executors which nobody holds any more.  But where nothing ends
for `exit_grace` seconds (10 by default), what is left is taken for hung: calls that run are killed,
or left behind where they are in a thread, those that wait are cancelled, and one line on stderr
names them.  That takes LAST at most, whatever they do.  So the exit is late by `exit_grace` and
LAST seconds, however many executors there are.  Its status is what it would have been.

A program that dies of Ctrl-C does not wait: what waits is cancelled, and what runs is killed.  The
same happens at a Ctrl-C while it waits here.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref

from unirun._prompt import in_slices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from unirun._executor import Executor
    from unirun._held import HeldCalls
    from unirun.backend import Backend

__all__ = ["around_exit", "close", "join", "leave", "living", "on_exit"]

LAST = 5.0
"""Seconds that what is killed at exit may take to end."""
LOOK = 0.2
"""Seconds after which is looked whether any call of any executor has ended."""

AT_EXIT = "cannot schedule new futures after interpreter shutdown"
"""What a submit is told then."""

_open: weakref.WeakSet[Executor] = weakref.WeakSet()
# Backends whose executor is gone, with what it held and its `exit_grace`. A backend that has
# something to do is kept alive by its threads.
_left: weakref.WeakKeyDictionary[Backend, tuple[HeldCalls, float]] = weakref.WeakKeyDictionary()
_registered = False
_over = False  # the interpreter ends: what comes now could not be finished any more
# What is called at exit before and after the executors end; the first is told of a Ctrl-C.
_before: Callable[[bool], None] | None = None
_after: Callable[[], None] | None = None


def close(backends: Iterable[Backend], **how: bool) -> None:
    """Shut all of them down; does not wait."""
    for backend in backends:
        backend.shutdown(**how)


def join(backends: Iterable[Backend], until: float | None) -> bool:
    """Wait for all of them, after `close`; False if the moment `until` passed first."""
    return all(
        in_slices(backend.join, None if until is None else max(0.0, until - time.monotonic()))
        for backend in backends
    )


def on_exit(executor: Executor) -> None:
    """Have `executor` ended when the interpreter exits, if it has not been by then."""
    global _registered, _over
    _open.add(executor)
    if not _registered:
        _registered = True
        try:
            # Runs before the threads of the program are joined, when ours can still work. The
            # standard library's executors use it too; atexit would be too late for either.
            threading._register_atexit(_end_all)  # type: ignore[attr-defined]
        except RuntimeError:
            _over = True  # the interpreter ends already, as it says
    if _over:  # looked at after the entry; `_end_all` does it the other way round
        executor._closed, executor._why_closed = True, AT_EXIT


def living() -> list[Executor]:
    """The executors of this process that were not shut down."""
    return [executor for executor in _executors() if not executor._closed]


def leave(backends: dict[str, Backend], held: HeldCalls, exit_grace: float) -> None:
    """Nobody holds the executor of these any more: have them finish, also if the program ends.

    Safe in a finalizer.
    """
    for backend in backends.values():
        _left[backend] = held, exit_grace
    held.then(lambda: close(backends.values()))


def around_exit(before: Callable[[bool], None], after: Callable[[], None]) -> None:
    """Have these called before and after the executors end at exit; for `_lasting` alone."""
    global _before, _after
    _before, _after = before, after


def _end_all() -> None:
    global _over
    try:
        interrupted = _ended_by_ctrl_c()
        if _before is not None:
            _before(interrupted)
        _over = True
        for executor in _executors():
            executor._why_closed = AT_EXIT
            executor.shutdown(wait=False, cancel_futures=interrupted, kill=interrupted)
        _wait_for(_remaining())
        for executor in _executors():
            executor._end_delivery()
    except BaseException:  # Ctrl-C: as if it had come before, but it is shown by the interpreter
        _over = True
        _give_up(_remaining())
        raise
    finally:
        if _after is not None:
            _after()


def _ended_by_ctrl_c() -> bool:
    """Whether the program dies of a KeyboardInterrupt: nobody wants its results any more."""
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return isinstance(last, KeyboardInterrupt) and not hasattr(sys, "ps1")  # a REPL lives on


def _executors() -> list[Executor]:
    """Those that have not ended; other threads may make and drop some meanwhile."""
    found = [reference() for reference in list(_open.data)]  # type: ignore[attr-defined]
    return [each for each in found if each is not None and (not each._closed or each._backends)]


def _remaining() -> list[_Remaining]:
    found = [
        _Remaining(backend, executor._held, executor._exit_grace)
        for executor in _executors()
        for backend in list(executor._backends.values())
    ]
    for reference, (held, patience) in list(_left.data.items()):  # type: ignore[attr-defined]
        if (dropped := reference()) is not None:
            found.append(_Remaining(dropped, held, patience))
    return found


class _Remaining:
    """A backend that still may have something to do."""

    def __init__(self, backend: Backend, held: HeldCalls, patience: float) -> None:
        self.backend = backend
        self.held = held
        self.patience = patience
        self._ended = backend.stats().finished
        self.until = time.monotonic() + patience

    def ended_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        if not self.held.wait(until):
            return False
        self.backend.shutdown()  # who waited may be here before `then` has done it
        return self.backend.join(max(0.0, until - time.monotonic()))

    def hangs(self) -> bool:
        """Whether no call of it has ended for so long."""
        before, self._ended = self._ended, self.backend.stats().finished
        if self._ended != before:
            self.until = time.monotonic() + self.patience  # slow, not hung
        return time.monotonic() >= self.until


def _wait_for(remaining: list[_Remaining]) -> None:
    while remaining:
        first = remaining[0]
        if first.ended_within(min(LOOK, max(0.0, first.until - time.monotonic()))):
            del remaining[0]
            continue
        hung = [each for each in remaining if each.hangs()]
        if hung:
            remaining = [each for each in remaining if each not in hung]
            _say(hung)
            _give_up(hung)


def _give_up(hung: list[_Remaining]) -> None:
    for each in hung:
        each.held.stop()
        each.backend.shutdown(cancel_futures=True, kill=True)
    join([each.backend for each in hung], time.monotonic() + LAST)


def _say(hung: list[_Remaining]) -> None:
    running = [name for each in hung for name in each.backend.running_calls()]
    waiting = sum(each.backend.stats().pending for each in hung)
    waiting += sum(each.held.count() for each in {id(each.held): each for each in hung}.values())
    seconds = f"{max(each.patience for each in hung):g} s"
    if running:
        said = f"ended calls that hung for {seconds}: " + ", ".join(running[:5])
        said += ", ..." if len(running) > 5 else ""
        said += f"; cancelled {waiting} that waited" if waiting else ""
    elif waiting:
        said = f"cancelled {waiting} that waited, as no call had ended for {seconds}"
    else:
        said = f"left a done-callback behind that took {seconds}"  # no call is open any more
    text = f"unirun: at exit, {said}\n"
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except (OSError, ValueError):
        return  # it was closed, or nobody reads it: there is nobody to be told


def _forget_in_forked_child() -> None:
    global _over
    _over = False
    for executor in _executors():
        executor._stayed_in_parent()
    for backend in list(_left):
        backend.stays_in_parent = True
    _open.clear()
    _left.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
