"""What a call in a worker can ask about itself: `unirun.current_task()`.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import time

from unirun import _context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .worker import Worker


class WorkerToken(_context.Token):
    """Learns of a cancellation from the task pipe, which is silent otherwise while a call runs."""

    __slots__ = ("_index", "_worker")

    def __init__(self, worker: Worker, index: int) -> None:
        self._worker = worker
        self._index = index

    def is_set(self) -> bool:
        return self._worker.poll_cancelled(self._index, 0)

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._worker.poll_cancelled(self._index, until - time.monotonic()):
            if time.monotonic() >= until:
                return


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
        task, kind, attempt, deadline, wants_parts, _ = self._about
        super().__init__(
            task,
            self.id,
            kind=kind,
            backend="process",
            worker=f"pid {self._worker.pid}",
            token=WorkerToken(self._worker, self._index),
            attempt=attempt,
            deadline=deadline,
            emit=Emitter(self._worker, self._index) if wants_parts else None,
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
