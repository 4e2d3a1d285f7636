"""What a running call knows about itself, and what a worker process knows about its parent.

Light by rule: every worker process imports this file, so it imports next to nothing.
"""

from __future__ import annotations

import time
from _weakref import ref  # `weakref` takes longer to import
from abc import ABC, abstractmethod
from contextvars import Context, ContextVar, copy_context
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random
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

executor: ContextVar[Any] = ContextVar("unirun_executor", default=None)
"""The innermost executor whose `with` block this code is in."""

inside: ContextVar[tuple[object, ...]] = ContextVar("unirun_inside", default=())
"""The gates and limits that the call running in this context counts for."""

runs: ContextVar[tuple[Any, ...]] = ContextVar("unirun_runs", default=())
"""The `with config(seed=)` blocks this code is in, and what numbers their calls: `_seeds`."""

note_wait: Callable[[int, int], None] | None = None
"""In a worker, how to tell the pool of a wait without a time-out: the id of the shared object, and
what tells this wait from the next; (0, 0) when it is over."""

tell: Callable[..., None] | None = None
"""In a worker, how to tell the program something at once, from any thread: `tell(topic, index,
value)`, with the index of the call that it is about, 0: of the one this code runs in; and a value
that marshal can write. It arrives at `_news`, before that call ends."""

follow: Callable[[tuple[Any, ...]], None] | None = None
"""In a worker that relays what it logs, how it is told of the program's levels and filters."""

engine: str = "process"
"""In a worker process, the backend whose calls it runs."""

is_far: bool = False
"""In a worker process at a place of an engine, whose pool is in a process that is not the
program's: how that one imports, and what it wants to hear of, is not to be followed."""

watched: bool = False
"""In a worker, whether somebody watches there what happens here: `_observe` passes it on."""

depth: int = 0
"""How many executors deep this process is: 1 in a worker of one that the program has made, 2 in a
worker of one that such a worker has made."""

home: Any = None
"""In a worker process, the way to the executor whose calls it runs: `facts` about that, as
`_nesting` makes them, and `backend(spec)`, which makes the backend of what goes there."""

at_home: frozenset[str] = frozenset({"process"})
"""In a worker process, the backends whose calls go home: those by which it came to be."""

at_task_end: Callable[[TaskContext | Unasked], None] | None = None
"""What a task that has ended is to be told to, before its outcome is; None as long as nobody has
asked for it by `when_task_ends`."""
_hooks: tuple[Callable[[TaskContext | Unasked], None], ...] = ()


def when_task_ends(hook: Callable[[TaskContext | Unasked], None]) -> None:
    """Have that called at the end of each task of this process; once, however often asked for."""
    global at_task_end, _hooks
    if hook not in _hooks:
        _hooks = (*_hooks, hook)
        at_task_end = hook if at_task_end is None else _task_ended


def _task_ended(task: TaskContext | Unasked) -> None:
    for hook in _hooks:
        hook(task)


class TaskContext:
    """What the running task can ask about itself; get it from `unirun.current_task()`.

    Attributes: `name` (str), `id` (int, unique in the process that submitted it), `attempt`
    (int, from 1), `kind` (str), `backend` (str), `worker` (str: a thread's name or `pid N`),
    `deadline` (seconds on this process's `time.monotonic()` clock, or None).
    """

    __slots__ = (
        *("attempt", "backend", "deadline", "emit", "id", "kind", "name", "origin", "token"),
        *("_above", "_hears", "_nested", "_parent", "_random", "_rng", "_seed", "worker"),
    )
    _random: Random | None
    _rng: Any

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
        seed: int | None = None,
        parent: int | None = None,
        above: object = None,
    ) -> None:
        """`above`: the call that has submitted this one, where it is of this process."""
        self.name = name
        self.id = call_id
        self.kind = kind
        self.backend = backend
        self.worker = worker
        self.attempt = attempt
        self.deadline = deadline
        self.token = token
        self.emit = emit
        self.origin: Callable[[], Any] | None = None
        self._above = above if isinstance(above, TaskContext | Unasked) else None
        self._parent = parent
        self._hears = False  # its token is set with those above
        self.reseed(seed)

    def belongs_to(self, future: Any) -> None:
        """The call runs in the process that has its future."""
        self.origin = ref(future)  # what a task keeps of itself must not keep its result

    @property
    def cancelled(self) -> bool:
        """True once the result is not wanted any more: `cancel()`, a timeout or the deadline, of
        this call, or of one that waits for it because it has submitted it."""
        task: TaskContext | None = self
        while task is not None:
            if task.token.is_set():
                return True
            if task.deadline is not None and time.monotonic() >= task.deadline:
                return True
            task = task._next_above()
        return False

    def check(self) -> None:
        """Raise `TaskCancelled` if the result is not wanted any more; else return at once."""
        if self.cancelled:
            from unirun._errors import TaskCancelled  # heavy, and rarely needed in a worker

            raise TaskCancelled(f"task {self.name} was cancelled while it ran")

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, but wake at once and raise `TaskCancelled` when cancelled."""
        if self.deadline is not None:
            seconds = min(seconds, max(0.0, self.deadline - time.monotonic()))
        self._hear()
        self.token.wait(seconds)
        self.check()

    def ended(self) -> None:
        """The call is over: who keeps this keeps no others, be the chain of calls ever so long."""
        if self._above is not None:
            self._parent = self.parent
            self._above = None
        self.token.retire()

    @property
    def parent(self) -> int | None:
        """The `id` of the call that has submitted this one; None if no call has."""
        above = self._next_above()
        return self._parent if above is None else above.id

    def _next_above(self) -> TaskContext | None:
        above = self._above
        return above.context() if isinstance(above, Unasked) else above

    def hand_down(self, heir: Callable[[], object]) -> None:
        """Call `heir()`, which does not wait, once this call is cancelled or one above it is."""
        self.token.also(heir)
        self._hear()

    def _hear(self) -> None:
        """Have the token set when one above is. No recursion: calls of calls go deep."""
        task = self
        while not task._hears:
            task._hears = True
            above = task._next_above()
            if above is None:
                return
            above.token.also(task.token)
            task = above

    @property
    def seed(self) -> int | None:
        """A number for generators of random numbers, below 2**63; None if the run has no seed.

        It comes from the seed of the run (`Executor(seed=)`, `config(seed=)`, `UNIRUN_SEED`) and
        the place of the call among those submitted, or of the item in the inputs of a map: the
        same whatever runs at the same time, on any backend, and for each attempt.
        """
        return self._seed

    @property
    def seeded(self) -> bool:
        """Whether what it submits takes its seeds from this one's."""
        return self._seed is not None

    @property
    def random(self) -> Random:
        """A `random.Random` of this call's own, made with its seed; unlike all others without."""
        if self._random is None:
            from random import Random  # a millisecond, for who asks

            self._random = Random(self._seed)
        return self._random

    def rng(self) -> Any:
        """A `numpy.random.Generator` of this call's own, made with its seed; each time the same.

        Raises ImportError where numpy is not installed.
        """
        if self._rng is None:
            from unirun._deferral import imported

            self._rng = imported("numpy.random").default_rng(self._seed)
        return self._rng

    def reseed(self, seed: int | None) -> None:
        """From now on it runs what has that seed: the next item of a map's piece."""
        self._seed = seed
        self._nested = None if seed is None else count()  # drawn from by any thread of the task
        self._random = self._rng = None

    def seed_of_next(self) -> int:
        """Of the next call that it submits."""
        from unirun._deferral import imported

        assert self._nested is not None
        seed: int = imported("unirun._seeds").derive(self._seed, next(self._nested))
        return seed

    def report(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the task is: `future.progress`, progress bars and `unirun top` show it.

        May be called as often as one likes, from any thread of the task: a worker process sends
        about ten a second, and the last one. After the end of the task it does nothing.

        Args:
            done: how much is done, in whatever unit.
            total: how much there is to do; None: not known.
            message: what it is at, in a few words.

        Raises:
            TypeError: done or total is no number.
        """
        from unirun._deferral import imported  # only tasks that tell pay for it

        imported("unirun._reports").report(self, done, total, message)

    def __repr__(self) -> str:
        return f"<unirun task {self.name} #{self.id} on {self.backend}, {self.worker}>"


TaskContext.__module__ = "unirun"


class Token:
    """Whether a running call should stop; each backend brings its own way to be told."""

    __slots__ = ()

    def is_set(self) -> bool:
        """Whether the call should stop."""
        return False

    def also(self, heir: Callable[[], object] | Token) -> None:
        """Call `heir()` too once it is set, or set that token; at once if it is, perhaps twice."""

    def retire(self) -> None:
        """Its call has ended."""

    def wait(self, seconds: float) -> None:
        """Wait until it is set, so many seconds at most."""
        time.sleep(seconds)


class Unasked(ABC):
    """Stands for the TaskContext of a call that has not asked for it; most never do."""

    __slots__ = ("deadline",)

    def __init__(self, deadline: float | None) -> None:
        self.deadline: float | None = deadline

    @property
    def seeded(self) -> bool:
        """As in TaskContext."""
        return self.context().seeded

    @abstractmethod
    def context(self) -> TaskContext:
        """The context: the same one however often it is asked for."""


# A ContextVar, not a thread-local: it follows the task into `asyncio` and copied contexts.
running: ContextVar[TaskContext | Unasked | None] = ContextVar("unirun_running", default=None)


def apart() -> Context:
    """A copy of this context for what begins here, and is no part of the call that runs here."""
    context = copy_context()
    context.run(running.set, None)
    context.run(inside.set, ())
    return context


def current_task() -> TaskContext | None:
    """The context of the call this code runs in, or None outside of any call."""
    call = running.get()
    return call.context() if isinstance(call, Unasked) else call
