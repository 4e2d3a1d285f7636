"""What a worker says while a call runs, into the pipe of its answers: news, and what is behind it.

Made when something is told for the first time; from then on all of the worker's frames go here.

1. Any thread may tell something, in a signal handler too.  Who finds that it has interrupted itself
   in the middle of a frame leaves its own to whoever it has interrupted.
2. A handler may raise in the middle of a frame; the rest of that is written before anything else.
   So what is left of it is known at each moment: to write and to note how much was written is one
   step, between whose parts no handler runs (see `_deferral`).
3. The program may be slow to take news up.  Then a worker waits: as a print would that goes to a
   slow terminal.  But if nothing at all is taken up for PATIENCE, news is dropped, and counted,
   until something is.
4. What a call has told is in the pipe before its answer, so it is heard before.
"""

from __future__ import annotations

import itertools
import os
import time
from _thread import get_ident
from collections import deque
from functools import partial
from operator import methodcaller

from unirun import _context

from . import wire
from .control import HEARD, LOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .control import Control
    from .worker import Worker

PATIENCE = 1.0
"""Seconds for which a worker waits for news to be taken up."""
PAUSE = 0.0005
"""Seconds between two looks whether there is room again."""
WINDOW, FEW = 256, 4
"""So many messages may be on their way; so many if the next is longer than LONG."""
LONG, TOO_LONG = 1 << 16, 1 << 26
"""Bytes of one message; those longer still are dropped."""


class Upward:
    """For all threads of the worker."""

    # Looking at this writes: rule 2.
    _written = property(methodcaller("_write"))
    _write: Callable[[], int]

    def __init__(self, worker: Worker, fd: int, control: Control) -> None:
        self._worker = worker  # its `writing` is held while a frame is written, by its `writer`
        self._fd = fd
        self._words = control.words
        self._frames: deque[memoryview] = deque()  # the first may be written in part
        self._numbers = itertools.count(1)
        self._told = 0  # news so far
        self._losses = itertools.count(1)
        self._patience = PATIENCE

    def tell(self, topic: str, index: int, value: Any, origin: tuple[Any, ...] | None) -> None:
        """`index`: of the call that it is about; 0: the one this code runs in, if any.

        Raises ValueError for a value that marshal cannot write.
        """
        if not index:
            index = getattr(_context.running.get(), "_index", 0) or self._worker.running
        frame = wire.pack(wire.NEWS, index, topic, value, origin)
        if not self._has_room(len(frame)):
            self._words[LOST] = next(self._losses)
            return
        self._told = next(self._numbers)
        self._frames.append(memoryview(frame))
        try:
            self.pump()
        except (OSError, IndexError):  # IndexError: another thread has just done the same
            self._frames.clear()  # nobody is left to be told; what ends us is on its way

    def _has_room(self, size: int) -> bool:
        """Rule 3."""
        if size > TOO_LONG:
            return False
        words, window = self._words, WINDOW if size <= LONG else FEW
        if self._told - words[HEARD] < window:
            self._patience = PATIENCE
            return True
        heard, since = words[HEARD], time.monotonic()
        while self._told - words[HEARD] >= window:
            if heard != words[HEARD]:
                heard, since, self._patience = words[HEARD], time.monotonic(), PATIENCE
            elif time.monotonic() - since >= self._patience:
                self._patience = 0.0  # until something is heard again
                return False
            time.sleep(PAUSE)
        return True

    def write(self, frame: bytes) -> None:
        """What is no news, and never dropped; behind what was told before."""
        self._frames.append(memoryview(frame))
        self.pump()

    def pump(self) -> None:
        """Write all there is."""
        worker, me, frames = self._worker, get_ident(), self._frames
        if worker.writer == me:
            return  # rule 1
        while frames:
            with worker.writing:
                worker.writer = me
                try:
                    self._write_frames(frames)
                finally:
                    worker.writer = 0

    def _write_frames(self, frames: deque[memoryview]) -> None:
        """Apart from the `try`: what a handler raises as a loop begins anew is not seen by a `try`
        around the loop in Python 3.13, nor by a `with`, and both would be left half done."""
        while frames:
            self._write = partial(os.write, self._fd, frames[0])
            frames[0] = frames[0][self._written :]
            if not frames[0]:
                frames.popleft()
