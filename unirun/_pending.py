"""Back-pressure: how many calls of one executor may be submitted and not ended.

    submit ──> Gate: room? ──yes──> backend ──> future ──ends──> room for one more
                      └─no──> wait for it, or QueueFull

1. Counted are calls (a chunk of a map is one) and, where a backend encodes arguments, the bytes
   of those.  The size of a call is known only once it is encoded, so the last one may exceed the
   limit: a call is let in while there are fewer bytes than allowed.
2. Who could be what the others wait for is always let in, and counted: a submit from inside a call
   of this executor, or from inside a done-callback.  So no wait here can be for itself.
3. Room is free before callbacks hear of the end that made it.
"""

from __future__ import annotations

import threading
from queue import Full

from unirun import _context
from unirun._callbacks import in_callback
from unirun._errors import ExecutorShutdown, UnirunError
from unirun._prompt import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._future import Future

__all__ = ["Gate", "QueueFull", "called_inside", "hand_over_inside"]


class QueueFull(UnirunError, Full):
    """There are `max_pending` calls that have not ended, and `when_full` is "raise"."""


QueueFull.__module__ = "unirun"

_inside = _context.inside


def called_inside(place: object) -> bool:
    """Whether this code is part of a call that counts there."""
    return place in _inside.get()


def hand_over_inside(place: object, hand_over: Callable[[], Future[Any]]) -> Future[Any]:
    """`hand_over()`, so that the call it submits knows that it counts there."""
    token = _inside.set((*_inside.get(), place))
    try:
        return hand_over()
    finally:
        _inside.reset(token)


class Gate:
    """What all submits of one executor go through, if it has `max_pending`."""

    def __init__(self, most: tuple[int | None, int | None], when_full: str) -> None:
        self.most, self._most_bytes = most
        self._raises = when_full == "raise"
        # Guards all below; notified when there is room, or nobody is to wait any more. Reentrant,
        # since a __del__ run by a garbage collection in here may end a future.
        self._changed = threading.Condition(threading.RLock())
        self._pending: dict[Future[Any], None] = {}
        self._calls = self._bytes = 0  # some have not handed over yet
        self._open = False  # maps have room; who else waits is refused
        self._closed = False

    def submit(
        self, hand_over: Callable[[], Future[Any]], size_of: Callable[[Any], int], *, of_map: bool
    ) -> Future[Any]:
        """`hand_over()` once there is room; a map waits for it whatever `when_full` says."""
        self._enter(of_map)
        size = 0

        def leave(future: Future[Any] | None) -> None:
            with self._changed:
                if future is not None:
                    self._pending.pop(future, None)
                self._calls -= 1
                self._bytes -= size
                self._changed.notify()

        try:
            future = hand_over_inside(self, hand_over)
        except BaseException:
            leave(None)
            raise
        if self._most_bytes is not None:
            size = size_of(future)
        with self._changed:
            self._bytes += size
            self._pending[future] = None
        future._when_ended(leave)
        return future

    def _enter(self, of_map: bool) -> None:
        passes = called_inside(self) or in_callback()  # rule 2
        with self._changed:
            while True:  # not with a condition: Python 3.13 turns it outside of the `with`
                if passes or self._has_room():
                    break
                if of_map and (self._closed or self._open):
                    break  # a map finishes what it has begun
                if self._closed or self._open:
                    raise ExecutorShutdown("the executor was shut down while a submit waited")
                waits = of_map or not self._raises
                if not waits and not any(future.done() for future in self._pending):
                    raise QueueFull(
                        f"{self._calls} calls are pending ({self._bytes} bytes), and max_pending "
                        "allows no more; try again later, or set when_full='block'"
                    )
                self._wait()
            self._calls += 1
            self._changed.notify()  # there may be room for more than one

    def _wait(self) -> None:
        """Called with the lock held."""
        try:
            self._changed.wait(span(None))
        except BaseException:  # Ctrl-C: what this thread was told is for another
            self._changed.notify()
            raise

    def has_room(self) -> bool:
        """Whether a submit would not have to wait, as far as can be told."""
        with self._changed:
            return self._has_room()

    def _has_room(self) -> bool:
        """Called with the lock held."""
        return (self.most is None or self._calls < self.most) and (
            self._most_bytes is None or self._bytes < self._most_bytes
        )

    def open(self) -> None:
        """A shutdown begins: let in what is left of maps. Who else waits gets ExecutorShutdown."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Who waits gets ExecutorShutdown."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
