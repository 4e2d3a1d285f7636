"""Any executor of `concurrent.futures` as a backend: `backend="futures:module:factory"`.

    Executor(backend="futures:loky:get_reusable_executor")
    Executor(backend="futures:mpi4py.futures:MPIPoolExecutor")
    Executor(4, backend="futures:concurrent.futures:ProcessPoolExecutor")

The engine gets nothing but `run` below and bytes, and never more calls than it has workers: so what
waits can be cancelled, has its order, and does not go down with an engine that breaks.

1. What such an engine cannot do is no capability of ours: nothing that runs can be killed, and a
   crash takes along whatever the engine loses with it.
2. An engine that has broken is replaced by another one from the same factory, for what waits.
3. A call past its time is abandoned, and its engine takes no more calls: it ends with what it has,
   and another one takes its place.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import os
import threading
import time
import weakref
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from unirun import _context, _opaque
from unirun._errors import BackendUnavailable, InitializerFailed, NotKillable, UnknownBackend
from unirun._future import Future
from unirun._machine import cpu_count
from unirun._opaque_calls import OpaqueBackend, OpaqueFuture
from unirun._payload import dumps, loads
from unirun.backend import (
    Capability,
    FlagToken,
    WorkerSpec,
    abandoned,
    end_of_body,
    left_behind,
)

__all__ = ["FuturesBackend"]


_WARMED = 8
"""Workers of an engine that are waited for, at most."""


class FuturesBackend(OpaqueBackend):
    """Runs calls on an executor that somebody else wrote; see the module."""

    name = "futures"
    capabilities = frozenset({Capability.COOPERATIVE, Capability.PRIORITY})
    carries_settings = True
    target: ClassVar[str] = ""
    """What stands behind "futures:"."""

    @classmethod
    def named(cls, name: str) -> type[FuturesBackend]:
        """The class for "futures:module:factory"."""

        class Named(cls):  # type: ignore[misc, valid-type]
            target = name.partition(":")[2]

        Named.name = name
        Named.__name__ = Named.__qualname__ = cls.__name__
        return Named

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._factory = _find(self.target)
        for feature, value in (
            ("replace workers after max_tasks_per_child calls", spec.max_tasks_per_child),
            ("replace workers by their memory (max_worker_rss)", spec.max_worker_rss),
            ("choose how processes start (mp_context)", spec.start_method),
            ("import modules ahead (preload)", spec.preload or None),
        ):
            if value is not None:
                self._refuse(feature, "leave it out; the factory may do it")
        self._initializer = None
        if spec.initializer is not None:
            setup = spec.initializer, spec.initargs
            self._initializer = dumps(setup, "the initializer or its initargs")
        self._run = os.urandom(8)  # by which workers know whose initializer they have run
        self._engine: _Engine | None = None  # guarded by the lock, as is the rest
        self._retired: list[_Engine] = []
        self._place: Any = None

    @property
    def max_workers(self) -> int:
        engine = self._engine
        return self.spec.max_workers or (engine.size if engine else cpu_count())

    def _start(self) -> None:
        self._clock.start()
        self._engine = self._make()

    def _make(self) -> _Engine:
        size = self.spec.max_workers
        try:
            made = self._factory() if size is None else self._factory(max_workers=size)
        except TypeError as exc:
            if size is None or "max_workers" not in str(exc):
                raise
            self._refuse("choose its number of workers", "leave max_workers out")
        engine = _Engine(made, size or int(getattr(made, "_max_workers", 0)) or cpu_count())
        self._warm_up(engine)
        return engine

    def _warm_up(self, engine: _Engine) -> None:
        """Have its workers started before it gets calls, whose time-outs count from then on."""
        count = min(engine.size, _WARMED)
        for _ in range(count):
            try:
                theirs = engine.executor.submit(pow, 2, 2)
            except BaseException:  # noqa: BLE001  # so will the first call, which says so
                engine.takes = True
                return
            theirs.add_done_callback(partial(self._warmed, engine, count))

    def _warmed(self, engine: _Engine, count: int, theirs: object) -> None:
        with self._lock:
            engine.warmed += 1
            engine.takes = engine.takes or (engine.warmed >= count and engine not in self._retired)
        self._pump()

    # -- handing over -----------------------------------------------------------------------------

    def _pump(self) -> None:
        while (handed := self._draw()) is not None:
            self._hand_over(*handed)

    def _draw(self) -> tuple[_Engine, OpaqueFuture] | None:
        """The next call, if there is room for it."""
        with self._lock:
            engine = self._engine
            if engine is None or len(engine.calls) >= engine.size:
                return None
            future = self._next(()) if engine.takes else None
            if future is None:
                return None
            engine.calls.add(future)
            future.place = engine
            return engine, future

    def _hand_over(self, engine: _Engine, future: OpaqueFuture) -> None:
        options = future.options
        end = end_of_body(options)
        about = (
            self.name,
            future.name,
            future.number,
            options.kind,
            options.attempt,
            end,
            future.carried,
            self._authkey(),
            (self._run, self.spec.settings, self._initializer),
            _process,
        )
        _futures[future.number] = future
        try:
            theirs = engine.executor.submit(run, future.payload, about)
        except BaseException as exc:  # it has broken, or cannot start  # noqa: BLE001
            self._answered(engine, future, _broken(exc))
            return
        if end is not None:
            future._expiry = self._clock.call_at(end, partial(self._expire, engine, future))
        theirs.add_done_callback(partial(self._arrive, engine, future))

    def _authkey(self) -> bytes:
        """By which handles on shared objects are let in, wherever they are unpickled."""
        from unirun._connect import run_key

        return run_key()

    def _arrive(self, engine: _Engine, future: OpaqueFuture, theirs: Any) -> None:
        try:
            outcome = theirs.result()
        except BaseException as exc:  # the engine's, or that of a call that was cancelled in it  # noqa: BLE001
            outcome = _broken(exc)
        self._answered(engine, future, outcome)

    def _answered(self, engine: _Engine, future: OpaqueFuture, outcome: Any) -> None:
        over = isinstance(outcome, BaseException)
        with self._lock:
            engine.calls.discard(future)
            if over and self._engine is engine:
                self._replace(engine)  # rule 2
            elif not engine.calls and engine in self._retired:
                self._stir()
        if over:
            future._fail(outcome)
        else:
            *ended, figures = outcome
            _measured(future, *figures)
            _opaque.settle(future, future.name, *ended)
        self._pump()

    def _replace(self, engine: _Engine) -> None:
        """With the lock held."""
        engine.takes = False
        self._retired.append(engine)
        try:
            self._engine = self._make()
        except BaseException:
            self._engine = engine
            raise
        self._stir()

    def _expire(self, engine: _Engine, future: OpaqueFuture) -> None:
        """Rule 3."""
        if not future._fail(abandoned(future.name, future.options)):
            return
        with self._lock:
            if self._engine is engine:
                self._replace(engine)
        self._pump()

    def _tick(self) -> None:
        """End engines that have been replaced, once they have no more calls."""
        with self._lock:
            over = [engine for engine in self._retired if not engine.calls]
            self._retired = [engine for engine in self._retired if engine.calls]
        for engine in over:
            engine.executor.shutdown(wait=False)

    # -- one call, and the end --------------------------------------------------------------------

    def kill(self, future: Future[Any], grace: float | None) -> None:
        name = getattr(future, "name", "the call")
        raise NotKillable(
            self.name,
            f"kill {name}, which runs in a worker of {self.target}",
            "use kind='isolated' or backend='process', or let the task end by itself",
        )

    def request_stop(self, future: Future[Any]) -> None:
        """Only a body in this process hears of it: there is no way to another one."""
        assert isinstance(future, OpaqueFuture)
        if (token := _tokens.get(future.number)) is not None:
            token.set()

    def _end_running(self, future: OpaqueFuture) -> None:
        future._fail(left_behind(self.name, future.name))

    def _release(self) -> None:
        with self._lock:
            engines, self._engine = [*self._retired, self._engine], None
            self._retired = []
        patient = self._patience.within(None) is None
        for engine in engines:
            if engine is not None:
                engine.executor.shutdown(wait=patient and not engine.calls)
        if self._place is not None:
            self._place.let_go()

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        """Hosted in this process; for workers of this machine."""
        with self._lock:
            if self._place is None:
                from unirun._place import Place

                self._place = Place(self.spec.manager, self._authkey())
        return self._place.make(kind, *args, **kwargs)


class _Engine:
    """One executor from the factory; its `calls` are guarded by the lock of the backend."""

    def __init__(self, executor: concurrent.futures.Executor, size: int) -> None:
        self.executor = executor
        self.size = size
        self.calls: set[OpaqueFuture] = set()
        self.warmed = 0
        self.takes = False


def _find(target: str) -> Any:
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise UnknownBackend(
            f"'futures:{target}' names no executor; write 'futures:module:factory', such as "
            "'futures:concurrent.futures:ProcessPoolExecutor'"
        )
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as exc:
        raise BackendUnavailable(
            f"the backend 'futures:{target}' needs {exc.name!r}; install it"
        ) from exc
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UnknownBackend(f"{module!r} has no callable {attribute!r}; named as a factory")
    return found


def _measured(
    future: OpaqueFuture, worker: str, pid: int, took: float | None, cpu: float | None
) -> None:
    """The clock there may be another one, so it ended when its outcome came."""
    future.worker, future.pid = worker, pid
    if took is not None:
        ended = time.monotonic()
        future.begun = ended - took
        future.figures = {"ended": ended, "cpu": cpu}


def _broken(exc: BaseException) -> BaseException:
    """What the engine has raised, one object for each call; a map must not run items again."""
    if isinstance(exc, concurrent.futures.BrokenExecutor):
        error: BaseException = type(exc)(*exc.args)
        error.__cause__ = exc.__cause__
    else:
        error = concurrent.futures.BrokenExecutor(
            f"the engine failed ({type(exc).__name__}: {exc})"
        )
        error.__cause__ = exc
    error.unaccounted = True  # type: ignore[attr-defined]
    return error


# -- in a worker of the engine --------------------------------------------------------------------

_tokens: dict[int, FlagToken] = {}  # of calls that run in this process, by number
# Of all that were handed over from here, likewise: those that run here tell their progress.
_futures: weakref.WeakValueDictionary[int, OpaqueFuture] = weakref.WeakValueDictionary()
_prepared: dict[Any, tuple[int, bytes] | None] = {}  # by run: how its initializer has failed
_preparing = threading.Lock()  # one initializer at a time, and each once


def run(payload: bytes, about: tuple[Any, ...]) -> tuple[Any, ...]:
    """Run one call: all that an engine ever gets to see of it. Its outcome, and figures of it.

    What travels with calls is in `about`, and in the context made here.
    """
    name, task, number, kind, attempt, deadline, carried, authkey, setup, caller = about
    elsewhere = caller != _process
    if elsewhere:
        _context.authkey, _context.in_worker_process = authkey, True
    worker = f"pid {os.getpid()}" if elsewhere else threading.current_thread().name
    if (failure := _prepare(elsewhere, *setup)) is not None:
        return *failure, (worker, os.getpid(), None, None)
    _, _, seed, parent = carried or (None, None, None, None)
    context = _context.TaskContext(
        task,
        number,
        kind=kind,
        backend=name,
        worker=worker,
        token=_context.Token() if elsewhere else _tokens.setdefault(number, FlagToken()),
        attempt=attempt,
        deadline=deadline,
        seed=seed,
        parent=parent,
    )
    if not elsewhere and (future := _futures.get(number)) is not None:
        context.belongs_to(future)
        del future
    begun, used = time.perf_counter(), time.thread_time()
    try:
        outcome = contextvars.Context().run(_run_in, context, carried, payload)
    finally:
        _tokens.pop(number, None)
    took, cpu = time.perf_counter() - begun, time.thread_time() - used
    return *outcome, (worker, os.getpid(), took, cpu)


def _run_in(context: Any, carried: Any, payload: bytes) -> tuple[int, bytes]:
    _context.running.set(context)
    _opaque.settle_in(carried)
    try:
        return _opaque.run(payload)
    finally:
        if _context.at_task_end is not None:
            _context.at_task_end(context)


def _prepare(
    elsewhere: bool, run_key: bytes, settings: bytes | None, initializer: bytes | None
) -> tuple[int, bytes] | None:
    """How the initializer of that run has failed here; None if it has not."""
    if elsewhere and settings is not None:
        _context.inherited_settings = settings
    if initializer is None:
        return None
    worker = run_key, os.getpid() if elsewhere else threading.get_ident()
    with _preparing:
        if worker in _prepared:
            return _prepared[worker]
        _prepared[worker] = failure = _initialize(initializer)
        return failure


def _initialize(initializer: bytes) -> tuple[int, bytes] | None:
    try:
        fn, args = loads(initializer)
        fn(*args)
    except BaseException as exc:  # the user's  # noqa: BLE001
        failure = InitializerFailed(
            f"the initializer failed in a worker: {type(exc).__name__}: {exc}"
        )
        failure.__cause__ = exc
        return _opaque.FAILED, _opaque.encode_error(failure)
    return None


_process = os.urandom(8)
"""Stands for this process, which may be on any machine; a fork is another one."""


def _become_another() -> None:
    global _process, _preparing
    _process, _preparing = os.urandom(8), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_another)
