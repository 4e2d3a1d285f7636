"""What a call in a worker can ask about itself: `unirun.current_task()`; and what it finds there.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import sys
import time
from _thread import get_ident

from unirun import _context

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable
    from typing import Any

    from unirun._heirs import Heirs

    from .home import Home
    from .worker import Worker

_NOTHING = (None, None, None, None)


def enter(carried: tuple[Any, ...]) -> None:
    """In the context of a call that is about to begin: be where it was submitted."""
    settings, variables = carried[:2]
    if settings is not None:
        _context.blocks.set(settings)
    if variables is not None:
        from unirun._deferral import imported  # few calls come with some

        imported("unirun._variables").arrive(variables)


class WorkerToken(_context.Token):
    """Learns of a cancellation from the task pipe, which is silent otherwise while a call runs."""

    __slots__ = ("_index", "_worker")

    def __init__(self, worker: Worker, index: int) -> None:
        self._worker = worker
        self._index = index

    def is_set(self) -> bool:
        return self._worker.poll_cancelled(self._index, 0)

    def also(self, heir: Callable[[], object] | _context.Token) -> None:
        self._worker.tell_when_cancelled(self._index, heir)

    @property
    def has_heard(self) -> bool:
        """Whether it is known already, without a look into the pipe."""
        return self._index in self._worker._cancelled

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._worker.poll_cancelled(self._index, until - time.monotonic()):
            if time.monotonic() >= until:
                return


class Cancellations:
    """The part of a worker that learns which of its calls are not wanted any more."""

    _home: Home | None
    _tasks: int
    _reader: wire.FrameReader
    _inbox: list[wire.Message]
    _pipe: LockType
    _running: int
    _asked: bool
    _main_thread: int

    def __init__(self) -> None:
        self._cancelled: set[int] = set()
        self._heirs: dict[int, Heirs] = {}  # who is told, too

    def home(self) -> Home:
        raise TypeError("a part of a worker, and no worker")

    def stop_call(self, index: int) -> None:
        """The call with that index was cancelled."""
        self._cancelled.add(index)
        if (heirs := self._heirs.get(index)) is not None:
            for heir in heirs.living():
                getattr(heir, "set", heir)()

    def tell_when_cancelled(self, index: int, heir: Any) -> None:
        """As `Token.also`, for a call that runs."""
        from unirun._deferral import imported

        self.home()  # its thread hears of it
        self._asked = True
        heirs = self._heirs.get(index)
        if heirs is None:
            heirs = self._heirs.setdefault(index, imported("unirun._heirs").Heirs())
        heirs.add(heir)
        if index in self._cancelled:
            self.stop_call(index)

    def forget_cancelled(self, index: int) -> None:
        """It has ended."""
        self._cancelled.discard(index)
        self._heirs.pop(index, None)

    def poll_cancelled(self, index: int, seconds: float) -> bool:
        """Whether that call, if it runs still, was cancelled; waits up to `seconds` for news."""
        import select

        if self._home is not None:
            return self._home.wait_for(lambda: index in self._cancelled, seconds)
        self._asked = True
        for message in self._inbox:  # what came together with the call
            if message[0] == wire.CANCEL:
                self.stop_call(message[1])
        # Its answer must not wait for a thread of the task, nor such a thread long for its `home`.
        seconds = min(seconds, 0.05 if get_ident() != self._main_thread else 0.25)
        with self._pipe:
            if self._running == index and index not in self._cancelled:
                poll = select.poll()
                poll.register(self._tasks, select.POLLIN)
                if poll.poll(max(0.0, seconds) * 1000):
                    self._hear()
            elif self._running != index:
                time.sleep(max(0.0, seconds))
            return index in self._cancelled

    def _hear(self) -> None:
        try:
            messages = self._reader.receive(self._tasks)
        except EOFError:
            self.stop_call(self._running)  # nobody is left to answer to
            return
        for message in messages:
            if message[0] == wire.CANCEL:
                self.stop_call(message[1])
            else:
                self._inbox.append(message)


class WorkerContext(_context.TaskContext):
    """The context of a call; most calls never ask, so it is worked out when they do."""

    __slots__ = ("_about", "_index", "_worker")

    def __init__(self, worker: Worker, about: tuple[Any, ...], call_id: int, index: int) -> None:
        self._worker = worker
        self._about = about
        self.id = call_id
        self._index = index

    def __getattr__(self, name: str) -> Any:
        """For the slots of the base class that nobody has asked for yet."""
        if name not in _context.TaskContext.__slots__:
            raise AttributeError(name)
        task, kind, attempt, deadline, wants_parts, carried = self._about
        _, _, seed, parent = carried or _NOTHING
        super().__init__(
            task,
            self.id,
            kind=kind,
            backend=_context.engine,
            worker=f"pid {self._worker.pid}",
            token=WorkerToken(self._worker, self._index),
            attempt=attempt,
            deadline=deadline,
            emit=Emitter(self._worker, self._index) if wants_parts else None,
            seed=seed,
            parent=parent,
        )
        return getattr(self, name)


class Emitter:
    """How a call with many items tells of those that are done: `unirun._record`."""

    __slots__ = ("_worker", "index", "memory")

    def __init__(self, worker: Worker, index: int) -> None:
        self._worker = worker
        self.index = index
        self.memory = worker._control.record

    def __call__(self, part: bytes) -> None:
        self._worker.send_part(self.index, part)


def surround(path: list[str], key: bytes, heard: tuple[Any, ...] | None) -> None:
    """Between calls: how the program imports now, its key, and what it wants to hear of."""
    if _context.is_far:
        return
    sys.path[:] = path
    _context.authkey = key or None
    if heard is not None:
        from .relays import follow

        follow(heard)


def relay(what: tuple[bool, bool, bool, tuple[Any, ...]] | None) -> None:
    """At the beginning: whether what is printed is relayed, what is logged, and what of that."""
    if what is None or _context.tell is None:
        return
    from .relays import begin, follow

    output, logs, forked, heard = what
    begin(output, logs, forked)
    if logs:
        _context.follow = follow
        follow(heard)
