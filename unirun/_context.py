"""What a running call knows about itself, and what a worker process knows about its parent.

Light by rule: every worker process imports this file, so it imports next to nothing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# -- what a worker process was told when it was launched --------------------------------------
# Written once by the worker's start-up code, before any task runs; read-only afterwards.

in_worker_process: bool = False
"""True in a process that unirun started to run calls."""

authkey: bytes | None = None
"""The key of this run for shared objects; None in the process that made it."""

inherited_settings: bytes | None = None
"""The parent's resolved settings, pickled; read by `_config` if a task ever needs it."""

blocks: ContextVar[Any] = ContextVar("unirun_config", default=())
"""The `with config()` blocks this code is in, outermost first; in a call that a worker process
runs, until one of its own is entered, the bytes that these were sent as. `_config` reads both."""

note_wait: Callable[[int, int], None] | None = None
"""In a worker, how to tell the pool of a wait without a time-out: the id of the shared object, and
what tells this wait from the next; (0, 0) when it is over."""

depth: int = 0
"""How many executors deep this process is: 1 in a worker of one that the program has made, 2 in a
worker of one that such a worker has made."""

home: Any = None
"""In a worker process, the way to the executor whose calls it runs: `facts` about that, as
`_nesting` makes them, and `backend(spec)`, which makes the backend of what goes there."""

at_task_end: Callable[[TaskContext | Unasked], None] | None = None
"""What a task that has ended is to be told to, before its outcome is; set by `_ownership` once
some task has used a shared lock or barrier."""


class TaskContext:
    """What the running task can ask about itself; get it from `unirun.current_task()`.

    Attributes: `name` (str), `id` (int, unique in the process that submitted it), `attempt`
    (int, from 1), `kind` (str), `backend` (str), `worker` (str: a thread's name or `pid N`),
    `deadline` (seconds on this process's `time.monotonic()` clock, or None).
    """

    __slots__ = ("attempt", "backend", "deadline", "emit", "id", "kind", "name", "token", "worker")

    def __init__(
        self,
        name: str,
        call_id: int,
        *,
        kind: str,
        backend: str,
        worker: str,
        token: Token,
        attempt: int = 1,
        deadline: float | None = None,
        emit: object = None,
    ) -> None:
        self.name = name
        self.id = call_id
        self.kind = kind
        self.backend = backend
        self.worker = worker
        self.attempt = attempt
        self.deadline = deadline
        self.token = token
        self.emit = emit

    @property
    def cancelled(self) -> bool:
        """True once the result is not wanted any more: `cancel()`, a timeout or the deadline."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or self.token.is_set()

    def check(self) -> None:
        """Raise `TaskCancelled` if the result is not wanted any more; else return at once."""
        if self.cancelled:
            from unirun._errors import TaskCancelled  # heavy, and rarely needed in a worker

            raise TaskCancelled(f"task {self.name} was cancelled while it ran")

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, but wake at once and raise `TaskCancelled` when cancelled."""
        if self.deadline is not None:
            seconds = min(seconds, max(0.0, self.deadline - time.monotonic()))
        self.token.wait(seconds)
        self.check()

    def __repr__(self) -> str:
        return f"<unirun task {self.name} #{self.id} on {self.backend}, {self.worker}>"


TaskContext.__module__ = "unirun"


class Token:
    """Whether a running call should stop; each backend brings its own way to be told."""

    __slots__ = ()

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class Unasked(ABC):
    """Stands for the TaskContext of a call that has not asked for it; most never do."""

    __slots__ = ("deadline",)

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline

    @abstractmethod
    def context(self) -> TaskContext:
        """The context: the same one however often it is asked for."""


# A ContextVar, not a thread-local: it follows the task into `asyncio` and copied contexts.
running: ContextVar[TaskContext | Unasked | None] = ContextVar("unirun_running", default=None)


def current_task() -> TaskContext | None:
    """The context of the call this code runs in, or None outside of any call."""
    call = running.get()
    return call.context() if isinstance(call, Unasked) else call
