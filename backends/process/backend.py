"""The contract of a backend on top of the pool: calls in, futures out."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import copy_context

from unirun import _context, _crowding, _observe
from unirun._carried import is_bare
from unirun._deferral import undisturbed
from unirun._dump_records import Report
from unirun._errors import (
    ConfigError,
    ExecutorShutdown,
    SerializationError,
    TaskKilled,
    UnsupportedByBackend,
)
from unirun._future import Future
from unirun._library_threads import lower_loaded, prepare, variables
from unirun._machine import cpu_count
from unirun._payload import dumps
from unirun._sites import note
from unirun.backend import (
    Backend,
    CallOptions,
    Capability,
    Patience,
    Stats,
    WorkerSpec,
    describe,
    number_for,
)

from . import forks, launch, outcomes, telling, wire
from .carried import accompany
from .exchange import OPTIONS, Exchange
from .functions import FunctionTable, payload
from .future import ProcessFuture, Profile
from .peer import authkey, relayed, text_of
from .pool import Pool
from .state import ALONE, PoolState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .inner import InnerCall

DEEPEST = 20
"""So many executors, each made in a task of the one before, may start workers: no endless fork."""


class ProcessBackend(Backend):
    """Runs calls in worker processes: killable, isolated from one another and from the caller.

    Options: `start_method` is "zygote" (default), "spawn" or "fork"; `window` is the most calls a
    worker may hold (default 2048; 1 hands over the next call when one is over, however short);
    `arrays` is "view" (default: large arrays arrive without a copy, writable unless their source
    was not) or "copy" (they arrive in memory of their own); `arena_limit` is how many bytes of
    shared memory large arguments may take (None: no limit), beyond which they travel in the pipe.
    """

    name = "process"
    capabilities = frozenset(
        {
            *(Capability.KILLABLE, Capability.ISOLATION, Capability.COOPERATIVE),
            *(Capability.PRIORITY, Capability.MEMORY),
        }
    )
    option_names = ("window", *OPTIONS)
    carries_settings = True
    takes_references = True
    captures = True

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._size = spec.max_workers or cpu_count()
        _check_window(spec.options.get("window", 1))
        self._functions = FunctionTable(shares=_shares(spec))
        method, initializer = _method_and_initializer(spec)
        self._method = method
        self._initializer = initializer
        self._state = PoolState(self._size)
        try:
            self._make_pool(method)
        except OSError as exc:  # no descriptor, no memory, no disk to be had
            raise outcomes.no_workers(exc) from exc
        # Guards _closed, _started and the making of _place.
        # Reentrant: a signal handler or a `__del__` may submit while its thread holds it.
        self._lock = threading.RLock()
        self._closed = False
        self._started = False
        self._patience = Patience()
        self._place: Any = None  # where shared objects live; ours until the last handle is dropped

        _crowding.pools.add(self)
        _observe.pools.add(self)

    def be_watched(self, watched: bool) -> None:
        """As `_observe.pools` says."""
        self._pool.be_watched()

    def pass_on(self, news: Any) -> None:
        """Have what its workers tell handed there, as `news.Heard` says; before the first call."""
        self._pool.news.pass_on = news

    def has_worker(self, pid: int) -> bool:
        """Likewise."""
        return pid in self._pool.snapshot()["pids"]

    def _make_pool(self, method: str) -> None:
        with forks.making, ExitStack() as undo:
            self._exchange = Exchange(self.spec.options, self._size)
            undo.callback(self._exchange.close)
            self._store = self._exchange.arena.pack
            imports = self.spec.preload, self._libraries()
            if method == "fork":
                prepare()
            launcher = launch.make(method, *imports, self._become_worker)
            undo.callback(launcher.close)
            parts = self._state, launcher, self._exchange
            self._pool = Pool(self.spec, *parts, self._setup_frame, self._let_go)
            self._pool.source = id(self)
            self._pool.inner.source, self._pool.inner.tally = id(self), self.tally
            undo.pop_all()

    def check(self, options: CallOptions) -> None:
        super().check(options)
        if options.capture and self.spec.output != "relay":
            self._refuse("keep what a call prints with output='direct'", "drop one of the two")

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
        if not self._pool.open:
            self._check_open()
        if not (plain := options.plain) and (
            options.timeout is not None
            or options.queue_timeout is not None
            or options.deadline is not None
            or options.memory is not None
            or options.capture
        ):
            return self._submit_limited(fn, args, kwargs, options, None)
        future = _new(ProcessFuture)
        future._backend = self
        future._since = time.monotonic()
        future.number = next(_observe._numbers)  # as `number_for`, likewise
        try:
            # As `is_bare`, but for the price of a call.
            if (plain or options.seed is None) and (
                not (context := copy_context()) or (len(context) == 1 and entered() is not None)
            ):
                profile = future._profile = self._functions.profile(fn, options)
            else:
                profile = future._profile = self._accompanied(future, fn, options)
            future._payload = payload(profile, fn, args, kwargs, self._store)
        except (SerializationError, UserWarning) as exc:  # that is a ContextWarning, by a filter
            return self._unsent(future, fn, options, exc)
        future.kind = profile.kind
        if not plain:
            future.priority = options.priority
            if options.call is not None:
                future.number = options.call
            if options.sites:
                note(future)
        if _observe.watchers:
            telling.submitted(future)
        self._pool.hand_in(future, plain=True)
        return future

    def _accompanied(self, future: ProcessFuture, fn: Any, options: CallOptions) -> Profile:
        """What calls have in common that context variables, a seed, or a caller come with."""
        find = self._functions.profile if options.seed is None else self._functions.profile_once
        return accompany(find(fn, options), future)

    def submit_with_parts(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        on_part: Callable[[bytes, memoryview], None] | None,
    ) -> ProcessFuture:
        """Submit a call that may `emit` bytes while it runs; `on_part` gets them."""
        if not self._pool.open:
            self._check_open()
        return self._submit_limited(fn, args, kwargs, options, on_part)

    def _submit_limited(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        on_part: Callable[[bytes, memoryview], None] | None,
    ) -> ProcessFuture:
        future = ProcessFuture()
        future._backend = self
        future._since = time.monotonic()
        if options.sites:
            note(future)
        future.number = number_for(options)
        future.on_part = on_part
        future.priority = options.priority
        if options.queue_timeout is not None:
            future._queued_until = time.monotonic() + options.queue_timeout
        try:
            profile = self._functions.profile_alone(fn, options)
            future._profile = profile = profile if is_bare(options) else accompany(profile, future)
            if options.deadline is not None and time.monotonic() >= options.deadline:
                future.expire_unsent()
                return future
            future._payload = payload(profile, fn, args, kwargs, self._store)
        except (SerializationError, UserWarning) as exc:
            return self._unsent(future, fn, options, exc)
        if _observe.watchers:
            telling.submitted(future)
        self._pool.hand_in(future, plain=False)
        return future

    def submit_inner(self, call: InnerCall) -> None:
        """A call that a task of another pool submits."""
        if not self._pool.open:
            self._check_open()
        call._backend, call.there = self, self._pool.inner
        self._pool.hand_in(call, plain=False)

    def _unsent(
        self, future: ProcessFuture, fn: Any, options: CallOptions, exc: Exception
    ) -> ProcessFuture:
        future._profile = Profile(0, None, options.name or describe(fn), options, ALONE)
        if _observe.watchers:
            telling.submitted(future)
        future._fail(exc)
        return future

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        assert isinstance(future, ProcessFuture)
        return self._pool.lead(future, until)

    def size_of(self, future: Future[Any]) -> int:
        assert isinstance(future, ProcessFuture)
        return telling.size_of_payload(future._payload)

    def _check_open(self) -> None:
        with self._lock:
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            if not self._started:
                undisturbed(self._start)  # lest a thread that runs be taken for one that does not
        if self._pool.refuses:
            raise self._pool.refusal()
        self._pool.open = True

    def _start(self) -> None:
        if _context.depth >= DEEPEST:
            raise UnsupportedByBackend(
                self.name,
                f"start workers in a task that is {DEEPEST} executors deep",
                "submit to the executor that runs the task (unirun.submit) instead of making one",
            )
        self._started = True
        try:
            self._pool.thread.start()
        except BaseException as exc:
            self._started = False
            if isinstance(exc, RuntimeError):  # no thread to be had
                raise outcomes.no_workers(exc) from exc
            raise
        from .hangs import Hangs

        self._pool.post(Hangs(self).look)

    def kill(self, future: Future[Any], grace: float | None) -> None:
        assert isinstance(future, ProcessFuture)
        self._pool.post(self._pool.kill, future, grace, TaskKilled(f"{future.name} was killed"))

    def withdraw(self, future: Future[Any]) -> None:
        assert isinstance(future, ProcessFuture)
        future._payload = None
        self._pool.post(self._pool.withdraw, future)

    def request_stop(self, future: Future[Any]) -> None:
        self._pool.post(self._pool.cancel_running, future)

    def call_back(self, run: Callable[[], None]) -> None:
        self._pool.callbacks.run(run)

    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        with self._lock:
            self._closed = True
            self._pool.open = False
            used, self._started = self._started, True
        if not used:  # it may have made shared objects; at exit its loop could not start any more
            self._pool.close_unused()
            return
        if kill:
            self._patience.begin()
        reason = TaskKilled("the call was killed: its executor was shut down")
        self._pool.post_in_turn(self._pool.close, cancel_futures, kill, reason)

    def join(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        thread = self._pool.thread
        if thread.ident is None or thread is threading.current_thread():
            return True  # it never ran a call; or a callback asks, which cannot wait for itself
        if not thread.ends_within(timeout):
            return False
        left = None if until is None else max(0.0, until - time.monotonic())
        return self._pool.callbacks.join(self._patience.within(left)) or self._patience.is_over

    def resize(self, max_workers: int) -> None:
        self._size = max_workers
        self._pool.post(self._pool.resize, max_workers)

    def terminate_workers(self) -> None:
        self._end_workers(None)

    def kill_workers(self) -> None:
        self._end_workers(0.0)

    def _end_workers(self, grace: float | None) -> None:
        reason = TaskKilled("the call was killed with all workers of its executor")
        self._pool.post_in_turn(self._pool.kill_all, grace, reason)

    def stats(self) -> Stats:
        objects = 0 if self._place is None else self._place.objects()
        counters = self._pool.snapshot()
        return Stats(backend=self.name, max_workers=self._size, objects=objects, **counters)

    def running_calls(self) -> list[str]:
        return self._pool.running_names()

    def report(self) -> Report:
        from .report import report_of

        return report_of(self)

    def crew(self) -> _crowding.Crew:
        seen = self._pool.snapshot()
        waiting = seen["pending"] + self._pool.role.do(self._sent_ahead)
        return _crowding.Crew([(pid, 0) for pid in seen["pids"]], waiting)

    def _sent_ahead(self) -> int:
        """Calls that wait behind another one, in a worker."""
        return len(self._state.calls()) - self._state.waiting - self._state.running

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if self._place is None:
                from unirun._connect import run_key
                from unirun._place import Place

                self._place = Place(self.spec.manager, run_key())
        return self._place.make(kind, *args, **kwargs)

    def _let_go(self) -> None:
        """No worker is left; who still holds a shared object keeps its manager alive."""
        self._pool.inner.errands.close()
        if self._place is not None:
            self._place.let_go()

    # -- what workers are told at their start -----------------------------------------------------

    def _setup_frame(self) -> bytes:
        return wire.pack(
            wire.SETUP,
            text_of(sys.path),
            text_of(getattr(sys, "argv", ())),
            _current_directory(),
            authkey(),
            (self.spec.home, _context.depth + 1),
            self.spec.settings,
            self.spec.preload,
            self._initializer,
            self._exchange.for_worker(),
            self._libraries(),
            relayed(self.spec, self._method),
        )

    def _libraries(self) -> dict[str, str]:
        """What is in a worker's environment, for the numerical libraries it will load."""
        return variables(self.spec.blas_threads, self._size, cpu_count(), os.environ)

    def _become_worker(self, number: int, fds: launch.Fds) -> None:
        """In a forked worker: it has our memory, so the initializer needs no pickle."""
        spec = self.spec
        lower_loaded(self._libraries())  # by those that are loaded, the environment was read
        setup = None if spec.initializer is None else (spec.initializer, spec.initargs)
        from . import worker  # which is there already, see `launch`

        worker.main(*fds, local_setup=setup)


_new = object.__new__  # a future has nothing to initialise
entered = _context.executor.get


def _check_window(window: Any) -> None:
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise ConfigError(f"window={window!r} is no number of calls; use an int from 1 on")


def _shares(spec: WorkerSpec) -> bool:
    """Whether a worker may hold several calls: not where it may be replaced after each."""
    return spec.max_tasks_per_child is None and spec.max_worker_rss is None


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
    stand_in: Any = _Spawning()
    set_spawning_popen(stand_in)
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
