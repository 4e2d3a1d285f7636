"""Waits that have lasted: who waits for what in this process, known only once it takes long.

A wait without a time-out first waits PATIENCE seconds as ever.  What has not ended by then is noted
here, and its own thread looks now and then whether it can end at all.  So short waits cost nothing,
and no thread is there only to watch.

`_crowding` knows what to look for, and is called by `look`.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "CALL",
    "PATIENCE",
    "HangWarning",
    "Wait",
    "first_pause",
    "lasting",
    "pause",
    "wait_on",
    "waits",
    "warn",
]

PATIENCE = 2.0
"""Seconds after which a wait is noted; and between two looks at it, at first."""
LONGEST_PAUSE = 30.0

warn_after: float | None = 5.0
"""Seconds for which all may wait for one another before people are warned; None: for ever."""


class HangWarning(RuntimeWarning):
    """Calls wait for one another, and nothing that unirun knows of will end that."""


HangWarning.__module__ = "unirun"


class Wait:
    """One wait of one thread, which alone writes it."""

    __slots__ = ("_runner", "active", "since", "subject", "what")

    def __init__(
        self, what: str, subject: Any, runner: Callable[[Any], int | None] | None = None
    ) -> None:
        self.what = what  # for people: "an item of", "the result of"
        self.subject = subject
        self.since = time.monotonic()
        self.active = True
        self._runner = runner

    def runner(self) -> int | None:
        """The one thread that can end this wait, if that is known."""
        return None if self._runner is None else self._runner(self.subject)

    @property
    def lasted(self) -> float:
        return time.monotonic() - self.since


# By thread. Each entry is written and dropped by its thread; of others, only read.
waits: dict[int, Wait] = {}

note: Callable[[int, int], None] | None = None
"""In a worker, how its pool is told of a wait (`_context.note_wait`); set once a task submits."""
CALL = 1 << 63
"""With this, what is noted is the number of a call that the task has submitted."""

look: Callable[[Wait], None] = lambda _: None  # noqa: E731  # until `_crowding` has a better one
"""Look whether that wait of this thread can end; raises DeadlockError if it cannot."""


def lasting(thread: int) -> Wait | None:
    """The wait of that thread, if it is in one that is noted here."""
    wait = waits.get(thread)
    return wait if wait is not None and wait.active else None


def pause(wait: Wait) -> float:
    """Seconds until the next look at that wait: soon at first, more rarely as it goes on."""
    return min(max(first_pause(), wait.lasted / 4), LONGEST_PAUSE)


def first_pause() -> float:
    """Seconds for which a wait goes unnoticed."""
    return PATIENCE if warn_after is None else max(0.05, min(PATIENCE, warn_after / 2))


def wait_on(wait_for: Callable[[float], bool], wait: Wait) -> bool:
    """`wait_for(seconds)` again and again until it is true, looking at the wait between."""
    me = get_ident()
    outer = waits.get(me)  # of what a signal handler has interrupted
    waits[me] = wait
    number = getattr(wait.subject, "number", 0) if note is not None else 0
    if note is not None and number:
        note(CALL | number, 0)
    try:
        while True:  # not with a condition: Python 3.13 turns it outside of the `try`
            if wait_for(pause(wait)):
                return True
            look(wait)
    finally:
        if note is not None and number:
            note(0, 0)
        if outer is None:
            waits.pop(me, None)
        else:
            waits[me] = outer


def warn(text: str) -> None:
    """Issue a HangWarning; a filter that makes an error of it ends nothing but this."""
    _Warning(text)


class _Warning:
    """Warns when it is dropped, which is at once: an error goes to `sys.unraisablehook`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        warnings.warn(self._text, HangWarning, stacklevel=2)


class WatchedCondition(threading.Condition):
    """A condition whose waits without a time-out are looked at once they have lasted.

    Its `wait` may return before it was notified, as those of the C library do: callers look again
    at what they wait for, since a notification may have come while this thread was looking.
    """

    def __init__(self, lock: Any, what: str, subject: Callable[[], Any]) -> None:
        super().__init__(lock)
        self._what = what
        self._subject = subject  # weak: a queue refers to its conditions

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        me = get_ident()
        wait = waits.get(me)
        if wait is None or wait.subject is not self:
            if super().wait(first_pause()):
                return True
            wait = waits[me] = Wait(self._what, self)
        wait.active = True
        notified = False
        try:
            notified = super().wait(pause(wait))
        finally:
            wait.active = False
            if notified:
                waits.pop(me, None)
        if not notified:
            self.release()  # a warning may call anything
            try:
                wait.active = True
                look(wait)
            finally:
                wait.active = False
                self.acquire()
        return notified

    def __repr__(self) -> str:
        of = self._subject()
        return "a queue" if of is None else f"a {type(of).__name__} with {len(of.queue)} items"


def _forget_in_forked_child() -> None:
    waits.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
