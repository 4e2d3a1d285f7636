"""What other threads want the pool's loop to do, and the bell that wakes it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from .peer import make_pipe

Item: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]


class Inbox:
    """Any thread may put something in, also a signal handler or a `__del__`; the loop takes it out.

    The loop says `asleep` before it looks whether there is anything, and who puts something in
    looks at `asleep` afterwards, so one of the two always sees the other.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self.asleep = False  # written by the loop
        self.closed = False
        # Held while the bell is rung or taken down, so that nobody writes to a descriptor that has
        # become somebody else's. Guards `closed`. Reentrant, for signal handlers and `__del__`.
        self._bell = threading.RLock()
        self.fd, self._ringer = make_pipe([])  # ours until `close`
        for end in (self.fd, self._ringer):
            os.set_blocking(end, False)

    def put(self, do: Callable[..., None], args: tuple[Any, ...]) -> bool:
        """Have the loop call `do(*args)`; False if it has ended, and `leftovers` has it now."""
        self._items.append((do, args))
        if not self.closed and self.asleep:
            self._ring()
        return not self.closed

    def _ring(self) -> None:
        with self._bell:
            if self.closed:
                return
            try:
                os.write(self._ringer, b"\0")
            except BlockingIOError:
                return  # full: it is awake

    def __bool__(self) -> bool:
        return bool(self._items)

    def work(self) -> None:
        """Do everything that is in it."""
        while self._items:
            do, args = self._items.popleft()
            do(*args)

    def quiet(self) -> None:
        """The bell was heard."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        """The loop has ended: nothing will be done any more."""
        with self._bell:
            self.closed = True
            for end in (self.fd, self._ringer):
                os.close(end)

    def leftovers(self) -> Iterator[Item]:
        while self._items:
            try:
                yield self._items.popleft()
            except IndexError:
                return  # another thread was quicker

    def abandon(self) -> list[int]:
        """In a forked child, which has no loop; returns what it must close."""
        self.closed = True
        return [self.fd, self._ringer]
