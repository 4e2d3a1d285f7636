"""Threads of this process: for calls that wait, or that compute outside the GIL.

    submit ──> SimpleQueue ──> workers ──> future._end
                   │
                   └─ clock: time-outs, queue time-outs, deadlines (started when one is asked for)

1. Every call in the queue or running has a worker to run on, or there are `max_workers`.  Once
   there are that many, nothing is counted any more: submitting is a put, running a get.
2. A call that runs in a thread cannot be killed.  Past its time it is *abandoned*: its future
   ends, its cooperative token is set, and its worker no longer counts, so that another takes its
   place; the thread ends when the body does.
3. A call about to wait for one that has not begun has that run by its own thread, or by one beside
   it (`nested`), so calls that wait for calls cannot starve one another.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from contextvars import copy_context
from time import monotonic
from typing import Any

from unirun import (
    _context,
    _crowding,
    _dump_hangs,  # noqa: F401  # which looks at long waits
    _observe,
)
from unirun._clock import Appointment, Clock
from unirun._dump_records import Report
from unirun._errors import ExecutorShutdown, InitializerFailed, NotKillable
from unirun._future import Future
from unirun._machine import cpu_count
from unirun._remedies import no_thread
from unirun._sites import note
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    Patience,
    Stats,
    WorkerSpec,
    abandoned,
    default_threads,
    end_of_body,
    left_behind,
    not_callable,
    without_caller_frames,
)

from .barriers import PoolBarrier
from .calls import Keywords, RunningCall, ThreadFuture, Worker, run
from .failures import note_failure
from .figures import begin, end, note_gone, stats_of
from .nested import Helpers, here
from .queued import empty, end_waiting
from .ranks import TURN, Ranks, Turn


class ThreadBackend(Backend):
    """Runs calls in a pool of daemon threads, made on demand."""

    name = "thread"
    captures = True
    capabilities = frozenset({Capability.SHAREDMEM, Capability.COOPERATIVE, Capability.PRIORITY})

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._size = spec.max_workers or default_threads()
        # Futures and Turns; None: shut down; False: look whether you are surplus.
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._put = self._queue.put
        self._ranks: Ranks | None = None  # from the first call with a priority on
        self._clock = Clock(f"{spec.name}-clock")  # ours to close: by the last worker
        self._number = itertools.count()  # drawn by each call that is put, and by _open; atomic
        # Guards the set of workers and all below; `_changed` is notified when a worker leaves.
        # Invariant (rule 1), whenever the lock is free and a put has been followed by its check:
        # len(_workers) >= min(_size, calls that are open). _full: there are _size, and more calls
        # are taken, so that a submit needs nothing but its put.
        # Reentrant, since a __del__ run by a garbage collection in here may submit.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._workers: set[Worker] = set()  # without the abandoned
        self._full = False
        self._started = self._taken_by_gone = self._abandoned = self._looks = 0
        self.replaced = 0
        self.busy_of_gone = self.life_of_gone = self.told_busy = 0.0  # for `figures`, which see
        self._surplus = False  # there are more workers than `_size`, since that has shrunk
        self._closed = False
        self._patience = Patience()
        self._killed = False
        self._broken: InitializerFailed | None = None
        self._helpers = Helpers(self)
        self._crowding = _crowding.Crowding(self._clock)
        _crowding.pools.add(self)
        _observe.pools.add(self)

    def be_watched(self, watched: bool) -> None:
        """As `_observe.pools` says."""
        for worker in tuple(self._workers):
            worker.brisk = None

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
        if self._closed or self._broken is not None:
            raise self._refusal()
        future: ThreadFuture = ThreadFuture()
        future._state = PENDING
        future._exception = future._listeners = None
        future._backend = self
        future._fn = fn
        future._args = Keywords.of(args, kwargs) if kwargs else args
        future._copied = copy_context()
        future._options = options
        future._asked = False
        future._since = monotonic()
        if _observe.watchers:
            future.number = _observe.next_number()
            _observe.submitted(future, future.name, options)
        if not options.plain:
            if options.sites:
                note(future)  # here, which looks who has called
            self._see_to(future, options)
        next(self._number)
        if self._ranks is None:
            self._put(future)
        else:
            self._ranks.add(future)
            self._put(TURN)
        if not self._full:  # looked at after the put; who clears it looks after
            self._after_put(future)
        return future

    def _see_to(self, future: ThreadFuture, options: CallOptions) -> None:
        """What few calls ask for, before they are put."""
        if options.call is not None:
            future.number = options.call
        if options.deadline is not None or options.queue_timeout is not None:
            future.limit_waiting(self._clock)
        if options.priority and self._ranks is None:
            with self._lock:
                if self._ranks is None:
                    self._ranks = Ranks()  # what is in the queue is found there when it is drawn

    def _call_for(self, drawn: ThreadFuture | Turn) -> ThreadFuture:
        if self._ranks is not None:
            return self._ranks.first(drawn)
        assert not isinstance(drawn, Turn)
        return drawn

    def _refusal(self) -> Exception:
        broken = self._broken
        if broken is None:
            return ExecutorShutdown("cannot schedule new futures after shutdown")
        fresh = InitializerFailed(*broken.args)  # one exception object for each caller
        fresh.__cause__ = broken.__cause__
        return fresh

    def kill(self, future: Future[Any], grace: float | None) -> None:
        raise NotKillable(
            self.name,
            "kill a call that runs: threads cannot be killed",
            "use kind='isolated' or backend='process', or let the task look at "
            "unirun.current_task().cancelled",
        )

    def withdraw(self, future: Future[Any]) -> None:
        assert isinstance(future, ThreadFuture)
        future.let_go()  # its arguments go now; the empty shell leaves the queue in its turn

    def request_stop(self, future: Future[Any]) -> None:
        assert isinstance(future, ThreadFuture)
        future.stop()

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        assert isinstance(future, ThreadFuture)
        return self._helpers.help_with(future, until)

    def awaited(self, future: Future[Any]) -> None:
        assert isinstance(future, ThreadFuture)
        self._helpers.awaited(future)

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            first, self._closed, self._killed = not self._closed, True, self._killed or kill
            self._full = False
        if cancel_futures or kill:
            end_waiting(self, lambda future: future.cancel())
        if first:
            self._queue.put(None)  # behind every call; each worker that finds it passes it on
        if kill:
            self._patience.begin()
            self._give_up_running()
        with self._lock:
            if not self._workers:
                self._clock.close()

    def join(self, timeout: float | None = None) -> bool:
        me = getattr(here, "worker", None)
        with self._lock:
            mine = {me} if me in self._workers else set()
            ended = self._changed.wait_for(
                lambda: self._helpers.all() <= mine, self._patience.within(timeout)
            )
            if not ended and self._patience.is_over:
                for worker in self._workers - mine:  # in an initializer, or a done-callback
                    self._give_up(worker)
                ended = True
        if ended and not mine:
            self._clock.close()
            self._clock.join(5)
        return ended

    def stats(self) -> Stats:
        return stats_of(self)

    def running_calls(self) -> list[str]:
        with self._lock:
            return [call.name() for worker in self._helpers.all() for call in worker.futures()]

    def runner(self, future: Future[Any]) -> int | None:
        from .report import runner_of

        return runner_of(future)

    def report(self) -> Report:
        from .report import report_of

        return report_of(self)

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        from unirun.sync import make_thread

        made = make_thread(kind, *args, **kwargs)
        # Those of a smaller pool, which the executor may have beside this one, may wait there, too.
        if isinstance(made, threading.Barrier) and made.parties > min(self._size, cpu_count()):
            return PoolBarrier(self._crowding, *args, **kwargs)
        return made

    def crew(self) -> _crowding.Crew:
        with self._lock:
            pid = os.getpid()
            idents = [(pid, worker.thread.ident) for worker in self._workers]
            busy = sum(worker.call is not None for worker in self._workers)
            return _crowding.Crew(idents, max(0, self._open() - busy))

    # -- workers --------------------------------------------------------------------------------

    def _open(self) -> int:
        """Calls in the queue or running; called with the lock held."""
        put = next(self._number) - self._looks  # the only way to read the counter is to draw
        self._looks += 1
        return put - self._taken_by_gone - sum(worker.taken for worker in self._workers)

    def _after_put(self, future: ThreadFuture) -> None:
        """Keep rule 1, and leave no call in a queue that nobody empties any more."""
        try:
            with self._lock:
                if not self._closed:
                    self._ensure_workers()
                    return
                left = not self._workers
        except RuntimeError as exc:  # no thread to be had; this call may be the only one to know
            if self._workers:
                return
            if future.cancel():
                raise no_thread(exc) from exc
            return
        if left:
            empty(self)
        if future.cancelled():  # it came too late
            raise self._refusal()

    def _ensure_workers(self) -> None:
        """Called with the lock held."""
        if len(self._workers) < min(self._size, self._open()):
            worker = Worker(self)
            name = f"{self.spec.thread_name_prefix or self.spec.name}_{self._started}"
            worker.thread = threading.Thread(
                target=self._work, name=name, args=(worker,), daemon=True
            )
            worker.thread.start()
            self._started += 1
            self._workers.add(worker)
        self._look_whether_full()

    def _look_whether_full(self) -> None:
        """Called with the lock held."""
        self._full = len(self._workers) >= self._size and not self._closed

    def _work(self, worker: Worker) -> None:
        here.worker = worker
        worker.tell("worker_started")
        with self._lock:  # Ctrl-C may have hit whoever started us before they could count us
            self._workers.add(worker)
        if self.initialize():
            self._serve(worker)
        self._dismiss(worker)

    def _serve(self, worker: Worker) -> None:
        """Run calls until this worker should end."""
        get, get_nowait, patience = self._queue.get, self._queue.get_nowait, self.spec.idle_timeout
        while not worker.abandoned and not (self._surplus and self._is_surplus(worker)):
            try:
                try:
                    drawn = get_nowait()  # half the price of a wait
                except queue.Empty:
                    worker.brisk = None
                    drawn = get(True, patience)
            except queue.Empty:
                if self._retire(worker):
                    return
                continue
            if not drawn:
                if drawn is None:  # shut down: the others are to see it, too
                    self._put(None)
                    return
                continue  # woken to look whether it is surplus
            # From here to the end of `run_in`, what every call goes through is spelled out; a call
            # of a method more is a fifth of its price. For the rules see `calls`.
            future: Any = drawn if self._ranks is None else self._ranks.first(drawn)
            future._taken = True
            if future._asked:  # rule 1
                if future._begin_taken():
                    self.run_in(worker, future)
            else:
                future._state = RUNNING
                self.run_in(worker, future)
            worker.taken += 1
            del drawn, future  # an idle worker keeps nothing alive

    def resize(self, max_workers: int) -> None:
        with self._lock:
            self._size = max_workers
            surplus = len(self._workers) - max_workers
            self._surplus = surplus > 0
            missing = min(-surplus, self._open() - len(self._workers))
            for _ in range(0 if self._closed else max(1, missing)):
                self._ensure_workers()
        for _ in range(surplus):
            self._put(False)

    def _is_surplus(self, worker: Worker) -> bool:
        """Whether it has to leave now, and does not count any more."""
        with self._lock:
            leaves = len(self._workers) > self._size
            if leaves:
                self._remove(worker)
            self._surplus = len(self._workers) > self._size
            self._look_whether_full()
            return leaves

    def _retire(self, worker: Worker) -> bool:
        """Whether an idle worker may leave without breaking rule 1."""
        with self._lock:
            self._full = False  # from now on a submit looks at the workers after its put ...
            if not self._queue.empty() or self._open() >= len(self._workers):
                self._look_whether_full()
                return False  # ... and a put before that is seen here
            self._remove(worker)
            return True

    def _remove(self, worker: Worker) -> None:
        """Called with the lock held."""
        if worker in self._workers:
            self._workers.discard(worker)
            self._taken_by_gone += worker.taken
            note_gone(self, worker)
            self._full = False
            self._changed.notify_all()

    def _dismiss(self, worker: Worker) -> None:
        with self._lock:
            self._remove(worker)
            self._abandoned -= worker.abandoned
            last = self._closed and not self._workers
        worker.tell("worker_ended")
        if last:
            empty(self)
            self._clock.close()

    def _give_up(self, worker: Worker) -> None:
        """Rule 2: this worker no longer counts."""
        with self._lock:
            self._abandoned += self._helpers.give_up(worker)
            if worker in self._workers:
                worker.abandoned = True
                self._remove(worker)
                self._taken_by_gone += 1  # what it is stuck in
                self._abandoned += 1
                self.replaced += 1
                if not self._killed:
                    self._ensure_workers()

    def _give_up_running(self) -> None:
        with self._lock:
            busy = [worker for worker in self._helpers.all() if worker.call is not None]
        for worker in busy:
            futures = worker.futures()
            self._give_up(worker)
            for future in futures:  # who waits for it shall not wait for ever
                future.stop()
                future._listen()  # now its worker would end it under the lock: rule 2 of `calls`
                future._fail(left_behind(self.name, future.name()))

    def initialize(self) -> bool:
        """In a thread that is to run calls, before the first; False if it cannot."""
        if self.spec.initializer is None:
            return True
        try:
            self.spec.initializer(*self.spec.initargs)
        except BaseException as exc:  # noqa: BLE001  # user code; every caller is told
            error = InitializerFailed(f"a thread initializer failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            with self._lock:
                self._broken = error
            end_waiting(self, lambda future: future._begin() and future._fail(self._refusal()))
            return False
        return True

    # -- one call -------------------------------------------------------------------------------

    def run_in(self, worker: Worker, future: ThreadFuture) -> None:
        """Run a call that has begun."""
        call: RunningCall = RunningCall()
        call.future = future
        call.fn = fn = future._fn
        call.options = options = future._options
        call.worker = worker
        call.before = worker.call
        call.ending = False
        call.deadline = call._made = None
        worker.call = future._running = call
        if options is not worker.brisk:
            begin(worker, call)
        alarm = None
        if options.timeout is not None or options.deadline is not None:
            alarm = self._limit_running(worker, future, call)
        copied = future._copied
        assert copied is not None
        error: BaseException | None = None
        try:
            value = copied.run(run, call, fn, future._args)
        except BaseException as exc:  # noqa: BLE001  # whatever a task raises is its outcome
            ours = 2 + getattr(fn, "__unirun_frames__", 0)
            error = without_caller_frames(exc, ours) if callable(fn) else not_callable(fn)
            note_failure(future, call, error)
        if options is not worker.brisk:
            end(worker, call)
        if _context.at_task_end is not None:
            _context.at_task_end(call)
        worker.call, call.future = call.before, None
        if alarm is not None:
            alarm.cancel()
        if error is not None:
            future._fail(error)
            del future, error  # whoever keeps that error keeps this frame
            return
        future._fn = future._args = future._copied = None  # as `let_go`
        # Not where an alarm may be about to end it, too.
        call.ending = alarm is None and not _observe.watchers
        if call.ending and future._listeners is None and future._state is RUNNING:  # rule 2
            future._result = value
            future._state = FINISHED
        else:
            call.ending = False
            worker.brisk = None
            future._succeed(value)

    def _limit_running(
        self, worker: Worker, future: ThreadFuture, call: RunningCall
    ) -> Appointment:
        call.deadline = end_of_body(future._options)
        assert call.deadline is not None
        return self._clock.call_at(call.deadline, lambda: self._abandon(worker, future))

    def _abandon(self, worker: Worker, future: ThreadFuture) -> None:
        error = abandoned(future.name(), future._options)
        # Its place is taken before its callbacks run: they may submit, and wait.
        future._on_end = lambda _: self._give_up(worker)
        if future._fail(error):
            future.stop()
