"""Threads of this process: for calls that wait, or that compute outside the GIL.

    submit ──> SimpleQueue ──> workers ──> future._end
                   │
                   └─ clock: time-outs, queue time-outs, deadlines (started when one is asked for)

1. A call that is open (queued or running) has a worker to run on, or there are `max_workers`.
2. A call that runs in a thread cannot be killed.  Past its time it is *abandoned*: its future
   ends, its cooperative token is set, and its worker no longer counts, so that another takes its
   place; the thread ends when the body does.
3. A worker about to wait for a call that has not begun runs that call itself, so nested calls
   cannot starve one another.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from unirun import _context
from unirun._clock import Appointment, Clock
from unirun._errors import (
    ExecutorShutdown,
    InitializerFailed,
    NotKillable,
    QueueTimeout,
    TaskTimeout,
)
from unirun._future import Future
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    Stats,
    WorkerSpec,
    default_threads,
    describe,
    end_of_body,
    next_call_id,
    not_callable,
    run_to_end,
    without_caller_frames,
)

_here = threading.local()  # .worker: the _Worker whose thread this is


class EventToken(_context.Token):
    """A cooperative token for calls that run in this process."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)


class ThreadFuture(Future[Any]):
    """A future that carries its call until it has run."""

    _call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None
    _copied: contextvars.Context
    _options: CallOptions
    _token: EventToken | None = None
    _is_open = True  # counted in ThreadBackend._open; guarded by its lock

    def _name(self) -> str:
        call = self._call
        return self._options.name or (describe(call[0]) if call is not None else "the call")


class _Worker:
    """One thread and the calls on its stack (more than one when it helped, rule 3)."""

    __slots__ = ("abandoned", "calls", "thread")

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.calls: list[ThreadFuture] = []
        self.abandoned = False


class ThreadBackend(Backend):
    """Runs calls in a pool of daemon threads, made on demand."""

    name = "thread"
    capabilities = frozenset({Capability.SHAREDMEM, Capability.COOPERATIVE})

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._size = spec.max_workers or default_threads()
        self._queue: queue.SimpleQueue[ThreadFuture | None] = queue.SimpleQueue()
        self._clock = Clock(f"{spec.name}-clock")  # ours to close: by the last worker
        # Guards everything below; `_changed` is notified when a worker leaves.
        # Invariant (rule 1): len(_workers) >= min(_size, _open) whenever the lock is free.
        # Reentrant, since a __del__ run by a garbage collection in here may submit.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._workers: set[_Worker] = set()  # without the abandoned
        self._started = self._open = self._running = 0
        self._finished = self._abandoned = 0
        self._closed = False
        self._broken: InitializerFailed | None = None

    @property
    def max_workers(self) -> int:
        return self._size

    # -- contract -------------------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> ThreadFuture:
        future = ThreadFuture()
        future._backend = self
        future._call = (fn, args, kwargs)
        future._copied = contextvars.copy_context()
        future._options = options
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            self._open += 1
            try:
                self._ensure_workers()
            except BaseException:
                self._open -= 1
                raise
            self._queue.put(future)
        self._limit_waiting(future, options)
        return future

    def kill(self, future: Future[Any], grace: float | None) -> None:
        raise NotKillable(
            self.name,
            "kill a call that runs: threads cannot be killed",
            "use kind='isolated' or backend='process', or let the task look at "
            "unirun.current_task().cancelled",
        )

    def withdraw(self, future: Future[Any]) -> None:
        assert isinstance(future, ThreadFuture)
        future._call = None  # its arguments go now; the empty shell leaves the queue in its turn
        self._leave(future)

    def request_stop(self, future: Future[Any]) -> None:
        token = getattr(future, "_token", None)
        if token is not None:
            token.set()

    def help_with(self, future: Future[Any]) -> bool:
        worker: _Worker | None = getattr(_here, "worker", None)
        if worker is None or worker not in self._workers or not isinstance(future, ThreadFuture):
            return False
        if not future._begin():
            return False
        self._run(worker, future)  # the queue still holds it, and will see that it has begun
        return True

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
        if cancel_futures or kill:
            self._end_waiting(lambda future: future.cancel())
        if first:
            self._queue.put(None)  # behind every call; each worker that finds it passes it on
        if kill:
            self._give_up_running()
        with self._lock:
            if not self._workers:
                self._clock.close()

    def join(self, timeout: float | None = None) -> bool:
        me = getattr(_here, "worker", None)
        with self._lock:
            mine = {me} if me in self._workers else set()
            ended = self._changed.wait_for(lambda: self._workers <= mine, timeout)
        if ended and not mine:
            self._clock.close()
            self._clock.join(5)
        return ended

    def stats(self) -> Stats:
        with self._lock:
            return Stats(
                backend=self.name,
                max_workers=self._size,
                workers=len(self._workers),
                pending=max(0, self._open - self._running),
                running=self._running,
                finished=self._finished,
                abandoned=self._abandoned,
            )

    def running_calls(self) -> list[str]:
        with self._lock:
            return [call._name() for worker in self._workers for call in worker.calls]

    def shared(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        from unirun.sync import make_thread

        return make_thread(kind, *args, **kwargs)

    # -- workers --------------------------------------------------------------------------------

    def _ensure_workers(self) -> None:
        """Keep rule 1; called with the lock held."""
        if len(self._workers) >= min(self._size, self._open):
            return
        worker = _Worker()
        name = f"{self.spec.thread_name_prefix or self.spec.name}_{self._started}"
        worker.thread = threading.Thread(target=self._work, name=name, args=(worker,), daemon=True)
        worker.thread.start()
        self._started += 1
        self._workers.add(worker)

    def _work(self, worker: _Worker) -> None:
        _here.worker = worker
        if self._initialize():
            while (future := self._next(worker)) is not None:
                if future._begin():
                    self._run(worker, future)
                del future  # an idle worker keeps nothing alive
                if worker.abandoned:
                    break
        self._dismiss(worker)

    def _next(self, worker: _Worker) -> ThreadFuture | None:
        """The next call, or None if this worker should end."""
        while True:
            try:
                future = self._queue.get(timeout=self.spec.idle_timeout)
            except queue.Empty:
                if self._retire(worker):
                    return None
                continue
            if future is None:
                self._queue.put(None)
            return future

    def _retire(self, worker: _Worker) -> bool:
        """Whether an idle worker may leave without breaking rule 1."""
        with self._lock:
            if self._open >= len(self._workers) and not self._closed:
                return False
            self._workers.discard(worker)
            return True

    def _dismiss(self, worker: _Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
            self._abandoned -= worker.abandoned
            self._changed.notify_all()
            if self._closed and not self._workers:
                self._clock.close()

    def _give_up(self, worker: _Worker) -> None:
        """Rule 2: this worker no longer counts. Called with the lock held."""
        if worker in self._workers:
            worker.abandoned = True
            self._running -= len(worker.calls)
            self._workers.discard(worker)
            self._abandoned += 1
            self._changed.notify_all()
            self._ensure_workers()

    def _give_up_running(self) -> None:
        with self._lock:
            for worker in [w for w in self._workers if w.calls]:
                for call in worker.calls:
                    self.request_stop(call)
                self._give_up(worker)

    def _initialize(self) -> bool:
        if self.spec.initializer is None:
            return True
        try:
            self.spec.initializer(*self.spec.initargs)
        except BaseException as exc:  # user code; every caller is told  # noqa: BLE001
            error = InitializerFailed(f"a thread initializer failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            with self._lock:
                self._broken = error
            self._end_waiting(lambda future: future._begin() and future._fail(error))
            return False
        return True

    def _end_waiting(self, end: Callable[[ThreadFuture], object]) -> None:
        """Take every call that waits from the queue and end it."""
        while True:
            try:
                future = self._queue.get_nowait()
            except queue.Empty:
                return
            if future is None:
                self._queue.put(None)
                return
            end(future)
            self._leave(future)

    # -- one call ---------------------------------------------------------------------------------

    def _leave(self, future: ThreadFuture) -> None:
        """The call has ended, whatever way; counted once."""
        with self._lock:
            self._open -= future._is_open
            future._is_open = False

    def _run(self, worker: _Worker, future: ThreadFuture) -> None:
        """Run a call that has begun."""
        assert future._call is not None
        fn, args, kwargs = future._call
        options = future._options
        future._token = token = EventToken()
        context = _context.TaskContext(
            future._name(),
            next_call_id(),
            kind=options.kind,
            backend=self.name,
            worker=worker.thread.name,
            token=token,
            attempt=options.attempt,
            deadline=end_of_body(options),
        )
        with self._lock:
            worker.calls.append(future)
            self._running += 1
        alarm = self._limit_running(worker, future, context)
        value, error = future._copied.run(_outcome, context, fn, args, kwargs)
        if alarm is not None:
            alarm.cancel()
        with self._lock:
            worker.calls.remove(future)
            self._running -= not worker.abandoned
            self._finished += 1
        future._call = None  # a future that is kept keeps no arguments alive
        self._leave(future)
        if error is None:
            future._succeed(value)
        else:
            future._fail(error)

    # -- time -------------------------------------------------------------------------------------

    def _limit_waiting(self, future: ThreadFuture, options: CallOptions) -> None:
        ends = [] if options.deadline is None else [options.deadline]
        if options.queue_timeout is not None:
            ends.append(time.monotonic() + options.queue_timeout)
        if ends:
            alarm = self._clock.call_at(min(ends), lambda: self._expire(future))
            future._on_end = lambda _: alarm.cancel()

    def _expire(self, future: ThreadFuture) -> None:
        if future._begin():
            future._call = None
            self._leave(future)
            future._fail(QueueTimeout("the call still waited for a thread when its time was up"))

    def _limit_running(
        self, worker: _Worker, future: ThreadFuture, context: _context.TaskContext
    ) -> Appointment | None:
        if context.deadline is None:
            return None
        return self._clock.call_at(context.deadline, lambda: self._abandon(worker, future))

    def _abandon(self, worker: _Worker, future: ThreadFuture) -> None:
        limit = future._options.timeout
        how = "past its deadline" if limit is None else f"longer than its {limit:g} s"
        text = f"{future._name()} ran {how}; its thread cannot be killed and was abandoned"
        with self._lock:
            if future not in worker.calls:
                return  # it has just ended
            self._give_up(worker)
        self._leave(future)
        self.request_stop(future)
        future._fail(TaskTimeout(text, abandoned=True))


def _outcome(
    context: _context.TaskContext, fn: Any, args: Any, kwargs: Any
) -> tuple[Any, BaseException | None]:
    """The body, inside the context that was copied at submit."""
    if not callable(fn):
        return None, not_callable(fn)
    _context.running.set(context)
    try:
        return run_to_end(fn, args, kwargs), None
    except BaseException as exc:  # whatever a task raises is its outcome  # noqa: BLE001
        return None, without_caller_frames(exc, 2)
