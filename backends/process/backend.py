"""The contract of a backend on top of the pool: calls in, futures out."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED
from multiprocessing.process import current_process
from typing import Any, cast

from unirun._errors import ExecutorShutdown, SerializationError, TaskKilled
from unirun._future import Future
from unirun._machine import cpu_count
from unirun._payload import dumps
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    Stats,
    WorkerSpec,
    describe,
    next_call_id,
)

from . import launch, outcomes, wire, worker
from .functions import FunctionTable
from .peer import Peer, text_of
from .pool import Pool
from .state import PoolState


class ProcessFuture(Future[Any]):
    """A future that carries its call, as bytes, until it is sent."""

    number: int
    options: CallOptions
    name: str
    reason: BaseException | None = None  # why it is being killed; written by the loop
    victim_of: Peer | None = None  # the worker that is being killed for it; likewise
    on_part: Callable[[bytes], None] | None = None
    _encoded: tuple[int, bytes | None, bytes] | None = None
    _queued_until: float | None = None
    _running_until: float | None = None
    _backend: ProcessBackend

    def message(self) -> tuple[int, bytes | None, tuple[Any, ...]]:
        """What is sent to the worker; the body starts now."""
        assert self._encoded is not None
        function_id, function, data = self._encoded
        self._encoded = None
        options = self.options
        end = options.deadline
        if options.timeout is not None:
            own = time.monotonic() + options.timeout
            end = own if end is None else min(own, end)
        self._running_until = end
        about = (self.name, options.kind, options.attempt, end, self.on_part is not None)
        return function_id, function, (self.number, data, about)

    def ends_of_waiting(self) -> list[float]:
        return [end for end in (self._queued_until, self.options.deadline) if end is not None]

    def end_of_running(self) -> float | None:
        return self._running_until

    def cancel_unsent(self) -> None:
        self._end(CANCELLED_AND_NOTIFIED, None, None, only_pending=True)

    def expire_unsent(self) -> bool:
        """Its time to wait is up; False if it does not wait any more."""
        return self._begin() and self._fail(outcomes.queue_timeout_of(self))

    def _invoke_callbacks(self) -> None:
        self._backend.call_back(super()._invoke_callbacks)


class ProcessBackend(Backend):
    """Runs calls in worker processes: killable, isolated from one another and from the caller.

    Options: none of its own yet; `start_method` is "zygote" (default), "spawn" or "fork".
    """

    name = "process"
    capabilities = frozenset(
        {Capability.KILLABLE, Capability.ISOLATION, Capability.COOPERATIVE, Capability.PRIORITY}
    )

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._size = spec.max_workers or cpu_count()
        self._functions = FunctionTable()
        self._authkey = bytes(current_process().authkey)
        method, initializer = _method_and_initializer(spec)
        self._initializer = initializer
        launcher = launch.make(method, spec.preload, self._become_worker)
        self._state = PoolState(self._size)
        self._pool = Pool(spec, self._state, launcher, setup=self._setup_frame, on_end=self._let_go)
        # Guards _closed, _started and the making of _manager.
        # Reentrant: a signal handler or a `__del__` may submit while its thread holds it.
        self._lock = threading.RLock()
        self._closed = False
        self._started = False
        self._manager: Any = None  # hosts shared objects; ours until the last handle is dropped

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
    ) -> ProcessFuture:
        return self.submit_with_parts(fn, args, kwargs, options, None)

    def submit_with_parts(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        on_part: Callable[[bytes], None] | None,
    ) -> ProcessFuture:
        """Submit a call that may `emit` bytes while it runs; `on_part` gets them, in the loop."""
        self._check_open()
        future = ProcessFuture()
        future._backend = self
        future.number = next_call_id()
        future.options = options
        future.name = options.name or describe(fn)
        future.on_part = on_part
        if options.queue_timeout is not None:
            future._queued_until = time.monotonic() + options.queue_timeout
        if options.deadline is not None and time.monotonic() >= options.deadline:
            future.expire_unsent()
            return future
        try:
            future._encoded = self._functions.encode(fn, args, kwargs)
        except SerializationError as exc:
            future._fail(exc)
            return future
        self._pool.post(self._pool.submit, future)
        self._pool.ensure_worker()
        return future

    def _check_open(self) -> None:
        with self._lock:
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            if not self._started:
                self._start()
        if self._pool.refuses:
            raise self._pool.refusal()

    def _start(self) -> None:
        self._started = True
        try:
            self._pool.thread.start()
        except BaseException:  # no threads to be had
            self._started = False
            raise

    def kill(self, future: Future[Any], grace: float | None) -> None:
        assert isinstance(future, ProcessFuture)
        self._pool.post(self._pool.kill, future, grace, TaskKilled(f"{future.name} was killed"))

    def withdraw(self, future: Future[Any]) -> None:
        self._pool.post(self._pool.withdraw, future)

    def request_stop(self, future: Future[Any]) -> None:
        self._pool.post(self._pool.cancel_running, future)

    def call_back(self, run: Callable[[], None]) -> None:
        self._pool.callbacks.run(run)

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
            used, self._started = self._started, True
        if not used:  # it may have made shared objects; at exit its loop could not start any more
            self._pool.close_unused()
            return
        reason = TaskKilled("the call was killed: its executor was shut down")
        self._pool.post(self._pool.close, cancel_futures, kill, reason)

    def join(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        thread = self._pool.thread
        if thread.ident is None or thread is threading.current_thread():
            return True  # it never ran a call; or a callback asks, which cannot wait for itself
        thread.join(timeout)
        if thread.is_alive():
            return False
        self._pool.callbacks.join(None if until is None else max(0.0, until - time.monotonic()))
        return True

    def terminate_workers(self) -> None:
        self._end_workers(None)

    def kill_workers(self) -> None:
        self._end_workers(0.0)

    def _end_workers(self, grace: float | None) -> None:
        reason = TaskKilled("the call was killed with all workers of its executor")
        self._pool.post(self._pool.kill_all, grace, reason)

    def stats(self) -> Stats:
        return Stats(backend=self.name, max_workers=self._size, **self._pool.snapshot())

    def running_calls(self) -> list[str]:
        return self._pool.running_names()

    def shared(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        from unirun._manager import Manager
        from unirun.sync import make_shared

        with self._lock:
            if self._manager is None:
                self._manager = Manager(key=self._authkey)
        return make_shared(self._manager, kind, *args, **kwargs)

    def _let_go(self) -> None:
        """No worker is left; who still holds a shared object keeps its manager alive."""
        with self._lock:
            self._manager = None

    # -- what workers are told at their start -----------------------------------------------------

    def _setup_frame(self) -> bytes:
        return wire.pack(
            wire.SETUP,
            text_of(sys.path),
            text_of(getattr(sys, "argv", ())),
            _current_directory(),
            self._authkey,
            self.spec.settings,
            self.spec.preload,
            self._initializer,
        )

    def _become_worker(self, number: int, fds: tuple[int, int, int]) -> None:
        """In a forked worker: it has our memory, so the initializer needs no pickle."""
        spec = self.spec
        setup = None if spec.initializer is None else (spec.initializer, spec.initargs)
        worker.main(*fds, local_setup=setup)


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed: workers stay where they are


def _method_and_initializer(spec: WorkerSpec) -> tuple[str, bytes | None]:
    """How to start workers, and the initializer as bytes unless they inherit it."""
    method = spec.start_method or "zygote"
    if method == "fork" or spec.initializer is None:
        return method, None
    try:
        what = "the initializer or its initargs"
        return method, dumps((spec.initializer, spec.initargs), what, ("initializer", "initargs"))
    except SerializationError:
        data = _while_spawning((spec.initializer, spec.initargs))
        if data is not None:
            return method, data
        if spec.start_method is None and _is_about_inheritance(spec):
            return "fork", None  # as ProcessPoolExecutor does: a multiprocessing lock is inherited
        raise


def _while_spawning(setup: Any) -> bytes | None:
    """Pickle what multiprocessing lets through only while it starts a process: locks by name."""
    from multiprocessing.context import get_spawning_popen, set_spawning_popen

    before = get_spawning_popen()
    set_spawning_popen(cast("Any", _Spawning()))
    try:
        return dumps(setup)
    except SerializationError:
        return None
    finally:
        set_spawning_popen(before)


class _Spawning:
    """Stands for a process that is being started; cannot pass descriptors on."""

    method = "spawn"


def _is_about_inheritance(spec: WorkerSpec) -> bool:
    """Whether something in initargs belongs to multiprocessing, and is inherited by a fork."""
    return any(type(arg).__module__.startswith("multiprocessing.") for arg in spec.initargs)
