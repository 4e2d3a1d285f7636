"""Waits in which the main thread notices a signal however it falls.

Python runs the handlers of signals in the main thread, between two bytecodes or when a system call
is interrupted.  A signal that comes in between, after the last look and before the call has begun,
interrupts nothing: whoever waits for a lock without end is deaf to that Ctrl-C.  It is rare by
itself, and common right after a program has begun to wait.  So the main thread looks again every
SLICE seconds; other threads, which never run handlers, wait as ever.
"""

from __future__ import annotations

import os
import threading
import time
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
else:
    Any = object  # `typing` takes 3 ms to import

__all__ = ["SLICE", "PromptWaiters", "Thread", "in_slices", "span"]

SLICE = 0.2
"""Seconds after which the main thread looks whether there was a signal."""

_main = threading.main_thread().ident


def span(left: float | None) -> float | None:
    """How long to wait before one looks again: `left`, or less in the main thread."""
    if get_ident() != _main:
        return left
    return SLICE if left is None else min(left, SLICE)


def in_slices(wait: Callable[[Any], bool], timeout: float | None, forever: Any = None) -> bool:
    """`wait(seconds)` until it is true, at most `timeout` seconds; `forever`: what it takes for no
    limit."""
    if get_ident() != _main:
        return wait(forever if timeout is None else timeout)
    if timeout is not None and timeout <= SLICE:
        return wait(timeout)
    until = None if timeout is None else time.monotonic() + timeout
    while not wait(SLICE if until is None else max(0.0, min(SLICE, until - time.monotonic()))):
        if until is not None and time.monotonic() >= until:
            return False
    return True


class Thread(threading.Thread):
    """A daemon whose end can be waited for: Python up to 3.12 takes a thread for ended when Ctrl-C
    hits its `join`."""

    def __init__(
        self, target: Callable[..., object], name: str, args: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
        self._over = threading.Event()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._over.set()

    def ends_within(self, seconds: float | None) -> bool:
        """Wait for its end; False if that takes longer. True if it was never started."""
        if self.ident is None or threading.current_thread() is self:
            return True
        if not in_slices(self._over.wait, seconds):
            return False
        self.join()  # a few steps
        return True


class _PromptEvent(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return in_slices(super().wait, timeout)


class PromptWaiters(list[Any]):
    """The waiters that `wait` and `as_completed` of `concurrent.futures` leave with a future.

    They wait for an event that nobody can have set yet, since who leaves a waiter holds the
    conditions of all its futures.
    """

    def append(self, waiter: Any) -> None:
        if get_ident() == _main and type(getattr(waiter, "event", None)) is threading.Event:
            waiter.event = _PromptEvent()
        super().append(waiter)


def _learn_main_thread() -> None:
    """In a forked child: the thread that forked is its main thread."""
    global _main
    _main = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_learn_main_thread)
