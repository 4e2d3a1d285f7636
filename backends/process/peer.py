"""A worker process as the pool's loop sees it: its pipes, what it has, how it is to end."""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable

from . import wire
from .functions import MAX_KNOWN
from .limits import Doomed


class Peer:
    """Loop thread only. Owns our ends of the two pipes; `close` or the end of a pipe shuts them.

    Writing never blocks: what the pipe does not take waits in `_out` until the selector says so.
    """

    def __init__(
        self, number: int, tasks: int, results: int, selector: selectors.BaseSelector
    ) -> None:
        self.number = number
        self.tasks = tasks  # -1 once closed
        self.results = results  # likewise
        self.pid: int | None = None
        self.calls = 0  # sent so far
        self.idle_since = time.monotonic()
        self.doomed: Doomed | None = None
        self.grace: float | None = None  # set once it was told to die
        self.orphan = False  # its zygote died: nobody will tell how it ends
        self._selector = selector
        self._reader = wire.FrameReader()
        self._out: deque[memoryview] = deque()
        self._known: set[int] = set()  # functions it has
        self._path = list(sys.path)  # the sys.path it has; it is told right after this
        self._deafness = select.poll()  # tells when nobody can read `tasks` any more

    def listen(self, on_readable: Callable[[], object]) -> None:
        os.set_blocking(self.tasks, False)
        os.set_blocking(self.results, False)
        self._deafness.register(self.tasks, 0)
        self._selector.register(self.results, selectors.EVENT_READ, on_readable)

    def receive(self) -> list[wire.Message]:
        """As `FrameReader.receive`."""
        return self._reader.receive(self.results)

    def is_deaf(self) -> bool:
        """Whether what is written now would be lost for certain."""
        return self.tasks < 0 or bool(self._deafness.poll(0))

    def send_call(self, function_id: int, function: bytes | None, rest: tuple[object, ...]) -> None:
        """A call, and before it whatever the worker lacks to run it."""
        self._update_path()
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self.write(wire.pack(wire.FORGET))
        if function_id in self._known:
            function = None
        frame = wire.pack(wire.CALL, rest[0], function_id, function, *rest[1:])
        if function_id:
            self._known.add(function_id)
        self.calls += 1
        self.write(frame)

    def _update_path(self) -> None:
        if self._path != sys.path:
            self._path = list(sys.path)
            self.write(wire.pack(wire.PATH, text_of(self._path)))

    def write(self, frame: bytes) -> None:
        if self.tasks < 0:
            return
        view = memoryview(frame)
        if not self._out:
            view = view[self._try_write(view) :]
            if not view:
                return
            self._selector.register(self.tasks, selectors.EVENT_WRITE, self._flush)
        self._out.append(view)

    def _try_write(self, view: memoryview) -> int:
        try:
            return os.write(self.tasks, view)
        except BlockingIOError:
            return 0
        except OSError:
            return len(view)  # it is gone: the launcher will tell, nothing is lost by this

    def _flush(self) -> None:
        while self._out:
            view = self._out[0]
            count = self._try_write(view)
            if count < len(view):
                self._out[0] = view[count:]
                return
            self._out.popleft()
        self._selector.unregister(self.tasks)

    def close_tasks(self) -> None:
        """The worker reads what is in the pipe, and then leaves."""
        if self.tasks >= 0:
            if self._out:
                self._selector.unregister(self.tasks)
                self._out.clear()
            fd, self.tasks = self.tasks, -1  # first, so that nobody closes it a second time
            os.close(fd)

    def close_results(self) -> None:
        if self.results >= 0:
            if self.results in self._selector.get_map():
                self._selector.unregister(self.results)
            fd, self.results = self.results, -1
            os.close(fd)


def text_of(path: Iterable[object]) -> list[str]:
    return [str(entry) for entry in path]


def make_pipe(made: list[int]) -> tuple[int, int]:
    """A pipe; its ends are noted in `made`, and are no standard streams.

    Where the program has closed its own, a worker would take ours for them.
    """
    reader, writer = os.pipe()
    pair = (_above_standard(reader), _above_standard(writer))
    made += pair
    return pair


def _above_standard(fd: int) -> int:
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
