"""The process backend inside a worker: what tasks submit goes to the pool that runs them.

1. Whoever waits for a call that waits at home takes it back and runs it, in its own thread: so no
   depth of calls that wait for calls needs more workers than there are.
2. Unless it has limits that only a process of its own can keep (a time-out, a limit of memory,
   kind="isolated"), or is for another executor, which has an initializer: then home lends another
   worker for as long as the call lasts, one for each task that waits so.
3. Each call is encoded and decoded as if it ran elsewhere, wherever it runs.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED
from functools import partial

from unirun import _context, _observe
from unirun._aside import Asides, is_no_place, one_deeper
from unirun._carried import carry
from unirun._errors import ExecutorShutdown, NotKillable, SerializationError
from unirun._figures import Figures
from unirun._future import Future
from unirun._heirs import Heir
from unirun._payload import dumps
from unirun._records import replace
from unirun._sites import note
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    FlagToken,
    Stats,
    WorkerSpec,
    describe,
    number_for,
)

from . import outcomes, wire
from .about import WorkerToken, enter
from .functions import payload
from .future import Profile
from .state import ALONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._context import TaskContext

    from .home import Home
else:
    Any = object  # `typing` takes 3 ms to import

__all__ = ["NestedBackend", "NestedFuture"]


class NestedFuture(Future[Any]):
    """A call that a task has submitted, as that task sees it."""

    _observed = True
    _since = 0.0
    figures: Figures | None = None  # of the body, if it runs here
    number: int  # by which home knows it
    place: int = wire.WAITS  # where it is; guarded by the home's condition
    payload: Any = b""
    _kept: Any = None  # as `ProcessFuture`
    pass_on: None = None  # as `ProcessFuture`, for `outcomes`
    context: TaskContext | None = None  # of the body, if it runs here
    _backend: NestedBackend

    def __init__(self, backend: NestedBackend, fn: Any, options: CallOptions) -> None:
        self._backend = backend
        self.executor = backend.number
        self.name = options.name or describe(fn)
        self.options = options
        told = (options.timeout, options.queue_timeout, options.deadline, options.priority)
        self.carried, self.handles = carry(options)
        self.above = _context.current_task()
        self.call_id = number_for(options)
        limits = (*told, options.memory, options.kind, options.attempt)
        self.told = (*limits, self.call_id, self.carried)

    @property
    def is_told_here(self) -> bool:
        """To those who watch; else the pool tells what becomes of it."""
        return self.place == wire.TAKEN

    def running(self) -> bool:
        if not self.done() and self.context is None:
            return not self._backend.home.waits(self) and not self.done()
        return super().running()

    def cancel(self) -> bool:
        if not self.done() and self._backend.home.take(self):
            self.payload = None
            self._end(CANCELLED_AND_NOTIFIED, None, None)
        elif not self.done():
            self._backend.request_stop(self)
        return self.cancelled()

    def _tell_info(self) -> dict[str, Any]:
        told = {"options": self.options, "function": self.name, "queued": self._since}
        if self.figures is not None and self.context is not None:
            told |= self.figures.told()
            told |= {"worker": self.context.worker, "pid": os.getpid()}
        return told

    def arrive(self, what: int, outcome: Any) -> None:
        """What home says of its end."""
        if what == wire.ANSWERED:
            self.settle(outcome)
        elif what == wire.CANCELLED:
            self._end(CANCELLED_AND_NOTIFIED, None, None)
        else:
            from unirun._remote import decode

            error = decode(outcome)
            if what == wire.KILLED:
                self._killed(error)
            else:
                self._fail(error)
        self.payload = None

    def keep(self) -> None:
        """As `ProcessFuture.keep`."""
        from .again import keep

        self._kept = keep(self.payload)

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        if self._kept is None:
            return None
        from .again import rerun

        profile = Profile(0, None, self.name, self.options, ALONE)
        return partial(rerun, profile, self.carried, self.call_id, self._kept)

    def settle(self, answer: Any) -> None:
        if type(answer) is tuple:
            outcomes.settle(self, None, *answer)
        else:
            self._succeed(answer)

    def _invoke_callbacks(self) -> None:
        self._backend.home.callbacks.run(super()._invoke_callbacks)


class NestedBackend(Backend):
    """Sends calls home; made by `Worker.backend`, in a worker process."""

    name = "process"
    # Without ISOLATION, by which a map would bundle items: what it needs to lose none of them when
    # a worker dies is memory that only a pool shares with its workers.
    capabilities = frozenset(
        {
            *(Capability.KILLABLE, Capability.COOPERATIVE),
            *(Capability.PRIORITY, Capability.MEMORY),
        }
    )

    carries_settings = True
    takes_references = True

    def __init__(self, spec: WorkerSpec, home: Home) -> None:
        super().__init__(spec)
        assert spec.home is not None
        self.home = home
        self._size: int
        self.number, self._size = spec.home[1:3]
        self.is_prepared = spec.initializer is not None  # `_nesting`: its workers are, and not we
        self._asides = Asides(self._run_if_it_waits, "unirun-aside")
        # Guards what is below; notified when a call has ended. Reentrant, for a `__del__`.
        self._changed = threading.Condition(threading.RLock())
        self._open: set[NestedFuture] = set()
        self._finished = self._killed = 0
        self._closed = False
        self._place: Any = None  # where shared objects live; as in `ProcessBackend`

    @property
    def max_workers(self) -> int:
        return self._size

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> NestedFuture:
        if self._closed:
            raise ExecutorShutdown("cannot schedule new futures after shutdown")
        try:
            call = NestedFuture(self, fn, options)
        except UserWarning as exc:  # a ContextWarning, by a filter
            call = NestedFuture(self, fn, replace(options, context=False))
            call._fail(exc)
            return call
        if options.sites:
            note(call)
        try:
            profile = Profile(0, None, call.name, options, ALONE)
            call.payload = payload(profile, fn, args, kwargs, _no_store)
        except SerializationError as exc:
            call._fail(exc)
            return call
        call._since = time.monotonic()
        if _observe.watchers:
            _observe.submitted(call, call.name, options)
        with self._changed:
            self._open.add(call)
        call._on_end = self._ended
        try:
            self.home.submit(call)
        except (MemoryError, ValueError) as exc:  # as `outcomes.settle_unsent`
            call._fail(SerializationError(f"the call of {call.name} cannot be sent: {exc}"))
        except BaseException:
            self._ended(call)
            raise
        if call.above is not None:
            self._link(call, call.above)
        return call

    def _ended(self, call: Any) -> None:
        with self._changed:
            self._open.discard(call)
            self._finished += 1
            self._killed += call.cancelled() and call._exception is not None
            self._changed.notify_all()

    # -- waiting ----------------------------------------------------------------------------------

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        assert isinstance(future, NestedFuture)
        if future.place != wire.WAITS:
            return False
        if not _may_run_here(future):
            self.home.lend(future)
            return False
        if (until is not None or is_no_place()) and self._asides.add(_who(), future):
            return False
        return one_deeper(self._run_if_it_waits, future)

    def awaited(self, future: Future[Any]) -> None:
        assert isinstance(future, NestedFuture)
        if future.place != wire.WAITS:
            return
        if not _may_run_here(future) or not self._asides.add(_who(), future):
            self.home.lend(future)

    def _run_if_it_waits(self, call: Any) -> bool:
        """Rule 1; False if it runs elsewhere."""
        if not self.home.take(call):
            return False
        options = call.options
        call.context = context = _context.TaskContext(
            call.name,
            call.call_id,
            kind=options.kind,
            backend=_context.engine,
            worker=f"pid {self.home.pid}",
            token=FlagToken(),
            attempt=options.attempt,
            deadline=options.deadline,
            seed=options.seed,
            above=call.above,
        )
        context.belongs_to(call)
        call._begin()
        call.figures = Figures()
        if _observe.watchers:
            _observe.started(call)
        outcome = self.home.worker.outcome
        inside = contextvars.Context()
        if call.carried is not None:
            inside.run(enter, call.carried)
        answer = inside.run(outcome, context, 0, call.payload, dumps)
        call.figures.end()
        if os.getpid() != self.home.pid:
            from .worker import leave_forked_child

            leave_forked_child(answer)
        context.ended()
        call.above = None
        if _context.at_task_end is not None:
            _context.at_task_end(context)
        call.settle(answer)
        call.payload = None
        return True

    # -- ending -----------------------------------------------------------------------------------

    def kill(self, future: Future[Any], grace: float | None) -> None:
        assert isinstance(future, NestedFuture)
        if future.context is not None and not future.done():
            raise NotKillable(
                self.name,
                f"kill {future.name}, which runs in the process of the task that waits for it",
                "give it kind='isolated' or a timeout=, or kill that task",
            )
        self.home.end(future, grace, force=True)

    def request_stop(self, future: Future[Any]) -> None:
        assert isinstance(future, NestedFuture)
        if future.context is None:
            self.home.end(future, None, force=False)
        elif isinstance(future.context.token, FlagToken):
            future.context.token.set()

    def _link(self, call: NestedFuture, above: TaskContext) -> None:
        """Have it told when the call above is cancelled."""
        if not isinstance(above.token, WorkerToken):
            above.hand_down(Heir(call))
        elif above.token.has_heard:  # what it hears from now on home tells the call, too
            self.discourage(call)

    def discourage(self, future: NestedFuture) -> None:
        """As `request_stop`, also if it waits: as soon as it runs."""
        if future.context is not None:
            self.request_stop(future)
        else:
            self.home.end(future, None, force=wire.DISCOURAGE)

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._changed:
            self._closed = True
            calls = list(self._open) if cancel_futures or kill else []
        for call in calls:
            if not call.cancel() and kill and call.context is None and not call.done():
                self.kill(call, None)

    def join(self, timeout: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def stats(self) -> Stats:
        """Of the calls that were submitted here."""
        with self._changed:
            running = sum(call.place != wire.WAITS for call in self._open)
            return Stats(
                backend=self.name,
                max_workers=self._size,
                pending=len(self._open) - running,
                running=running,
                finished=self._finished,
                killed=self._killed,
            )

    def running_calls(self) -> list[str]:
        with self._changed:
            return [call.name for call in self._open]

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        with self._changed:
            if self._place is None:
                from unirun._connect import run_key
                from unirun._place import Place

                self._place = Place(self.spec.manager, run_key())
        return self._place.make(kind, *args, **kwargs)


def _may_run_here(call: NestedFuture) -> bool:
    """Rule 2: whether this process serves as well as another."""
    options = call.options
    if options.timeout is not None or options.memory is not None or options.kind == "isolated":
        return False
    if call._backend.is_prepared:
        return False
    if options.deadline is None or time.monotonic() >= options.deadline:
        return True
    task = _context.running.get()  # which is killed at its own deadline, with all that is in here
    return task is not None and task.deadline is not None and task.deadline <= options.deadline


def _who() -> object:
    """Whoever waits: a task, or a thread that belongs to none."""
    return _context.running.get() or threading.get_ident()


def _no_store(frames: list[bytes], buffers: list[memoryview]) -> bytes | None:
    """Large arguments travel in the pipe, as they pass through home."""
    return None
