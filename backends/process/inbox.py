"""What other threads want the pool's loop to do, and the bell that wakes it."""

from __future__ import annotations

import os
import threading
from collections import deque

from .peer import make_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Item: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]


class Inbox:
    """Any thread may put something in, also a signal handler or a `__del__`; the loop takes it out.

    The loop says `asleep` before it looks whether there is anything, and who puts something in
    looks at `asleep` afterwards, so one of the two always sees the other.
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self.asleep = False  # written by the loop
        self.until = 0.0  # until when it sleeps, on `time.monotonic()`; written by the loop
        self.closed = False
        # Held while the bell is rung or taken down, so that nobody writes to a descriptor that has
        # become somebody else's. Guards `closed`. Reentrant, for signal handlers and `__del__`.
        self._bell = threading.RLock()
        self.fd, self._ringer = make_pipe([])  # ours until `close`
        for end in (self.fd, self._ringer):
            os.set_blocking(end, False)

    def put(self, do: Callable[..., None], args: tuple[Any, ...]) -> bool:
        """Have the loop call `do(*args)`; False if it has ended, and nothing will be done."""
        self._items.append((do, args))
        self.wake()
        return not self.closed

    def wake(self) -> None:
        """Have the loop look, if it is asleep."""
        if not self.asleep:
            return
        with self._bell:
            if self.closed:
                return
            try:
                os.write(self._ringer, b"\0")
            except BlockingIOError:
                return  # full: it is awake

    def __bool__(self) -> bool:
        return bool(self._items)

    def work(self, first: Callable[[], None]) -> None:
        """Do everything that is in it, and `first` before each."""
        while self._items:
            do, args = self._items.popleft()
            first()
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

    def __del__(self) -> None:
        """Of a pool that could not be made; every other closes it."""
        if not self.closed and hasattr(self, "_ringer"):
            self.close()

    def abandon(self) -> list[int]:
        """In a forked child, which has no loop; returns what it must close."""
        self.closed = True
        return [self.fd, self._ringer]
