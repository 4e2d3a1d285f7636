"""Threads beside a call: they run what it waits for, where the thread that waits cannot.

A thread that waits in `result()` runs a call that has not begun itself.  But not endlessly deep,
as its stack ends; nor with a time-out, which would pass meanwhile; nor can an event loop do so, nor
a function of `concurrent.futures`.  For these there is a thread beside, one for each call that
waits, which runs one after the other: so never more bodies run than workers and calls that wait.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

    from unirun._future import Future

__all__ = ["Asides", "is_no_place", "one_deeper"]

DEEPEST = 20
"""So many calls may be run within one another by a thread: some 200 frames, of 1000."""


class _OfThread(threading.local):
    depth = 0


_mine = _OfThread()


def is_no_place() -> bool:
    """Whether this thread had better not run a call: it is deep in calls within calls already, or
    inside an event loop, where none that is a coroutine can be run."""
    if _mine.depth >= DEEPEST:
        return True
    asyncio = sys.modules.get("_asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def one_deeper(run: Callable[..., T], *args: Any) -> T:
    """`run(*args)`, which runs a call within the one this thread is in."""
    _mine.depth += 1
    try:
        return run(*args)
    finally:
        _mine.depth -= 1


class Asides:
    """The threads beside the calls of one backend; each ends when nothing is left for it."""

    def __init__(self, run: Callable[[Any], bool], name: str) -> None:
        """`run(future)` runs a call to its end if it has not begun; False if it has."""
        self._run = run
        self._name = name
        # Guards _lines. Reentrant, since a __del__ run by a garbage collection may wait for a call.
        self._lock = threading.RLock()
        # By who waits: the calls it waits for, still to be looked at. There is a thread for each.
        self._lines: dict[object, deque[Future[Any]]] = {}

    def add(self, who: object, future: Future[Any]) -> bool:
        """Have a thread beside `who` run it, unless it begins elsewhere before.

        False if there is no thread to be had.
        """
        with self._lock:
            line = self._lines.get(who)
            if line is not None:
                if future not in line:
                    line.append(future)
                return True
            self._lines[who] = deque((future,))
        return self._start(who)

    def _start(self, who: object) -> bool:
        try:
            threading.Thread(target=self._work, args=(who,), name=self._name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                del self._lines[who]
            return False
        return True

    def _work(self, who: object) -> None:
        while (future := self._next(who)) is not None:
            turn = _Turn(partial(self._start, who))
            future._when_ended(turn.ended)
            self._run(future)
            if turn.is_over():
                return

    def _next(self, who: object) -> Future[Any] | None:
        with self._lock:
            line = self._lines[who]
            if not line:
                del self._lines[who]
                return None
            return line.popleft()


class _Turn:
    """The time in which a thread runs one call; if that is abandoned, another thread goes on."""

    __slots__ = ("_go_on", "_left", "_thread")

    def __init__(self, go_on: Callable[[], object]) -> None:
        self._go_on: Callable[[], object] | None = go_on
        self._thread = threading.get_ident()
        self._left = False

    def ended(self, _: object) -> None:
        """The future has: if not by this thread, its body may go on."""
        go_on, self._go_on = self._go_on, None
        if go_on is not None and threading.get_ident() != self._thread:
            self._left = True
            go_on()

    def is_over(self) -> bool:
        """This thread has run it, or not; True if another one has gone on meanwhile."""
        self._go_on = None
        return self._left
