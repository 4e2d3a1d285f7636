"""Executor: chooses the backend of each call, starts it at first need, and ends them all.

    submit / map ──> plan (settings + hint -> backend, limits; cached) ──> backend.submit ──> Future

The plan for a function depends on its hint, the options given, and the settings; it is made once
and kept until one of them changes.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from unirun import _config, _context, _registry
from unirun._choice import Chooser, Explanation
from unirun._ending import close, join, on_exit
from unirun._errors import ConfigError, ExecutorShutdown
from unirun._future import Future
from unirun._machine import cpu_count
from unirun._map import Chunker, MapResult, OpenMaps
from unirun._progress import make_progress
from unirun._retry import RetriedCalls, Retry
from unirun._settings import unknown, worker_count
from unirun._submitter import MapWish, Submitter
from unirun.backend import Backend, CallOptions, Stats, WorkerSpec

__all__ = ["Executor", "current_executor", "explain"]

_START_METHOD_OF = {"fork": "fork", "spawn": "spawn", "forkserver": "zygote", "zygote": "zygote"}
_UNBOUNDED = 1 << 62


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided for calls that look alike."""

    backend: Backend
    options: CallOptions
    retry: Retry | None
    single: bool
    """An option acts on single calls, so a map must not bundle items."""
    keep: tuple[Any, ...]
    """What the key of this plan was made of: kept, so that its id stays taken."""


class Executor(Submitter, concurrent.futures.Executor):
    """Runs calls on threads, processes or an event loop, each where its kind belongs.

    A drop-in for `ThreadPoolExecutor` and `ProcessPoolExecutor`. With `backend=` every call goes
    there; with `kind=` that is the hint for functions without one; else each call is routed by
    its own hint. Backends start at first need and belong to this executor.

    Leaving a `with` block waits for all calls; leaving it by an exception cancels those that wait
    and kills those that run (threads cannot be killed: they are no longer waited for).

    Args:
        max_workers: workers of each backend; None: cores for processes, more for threads.
        kind: hint for functions that have none: "auto", "cpu", "io", "native", "async", "isolated".
        backend: name of the one backend to use, or None.
        initializer, initargs: called in each worker before its first call.
        mp_context: how processes start: "zygote" (default), "spawn", "fork", or a context of
            `multiprocessing`.
        max_tasks_per_child: calls after which a worker process is replaced.
        thread_name_prefix: for worker threads.
        preload: names of modules that worker processes have imported before their first call.
        idle_timeout: seconds after which an idle worker ends; None: never.
        grace: seconds between SIGTERM and SIGKILL when a call is killed.
        name: for threads and messages.
        backend_options: what only the backend given by `backend=` understands.

    Raises:
        ValueError, TypeError: as the standard library's executors for the same mistakes.
    """

    def __init__(
        self,
        max_workers: int | str | None = None,
        *,
        kind: str | None = None,
        backend: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        mp_context: Any = None,
        max_tasks_per_child: int | None = None,
        thread_name_prefix: str | None = None,
        preload: Iterable[str] | None = None,
        idle_timeout: float | str | None = "default",
        grace: float | None = None,
        name: str | None = None,
        **backend_options: Any,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None and not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        given = {
            "max_workers": max_workers,
            "kind": kind,
            "backend": backend,
            "start_method": _start_method(mp_context),
            "max_tasks_per_child": max_tasks_per_child,
            "thread_name_prefix": thread_name_prefix,
            "preload": preload,
            "grace": grace,
        }
        given = {key: value for key, value in given.items() if value is not None}
        if idle_timeout != "default":
            given["idle_timeout"] = idle_timeout
        self._owner = self
        self._given: Mapping[str, Any] = {}
        made_with = _config.check_options(given, "Executor()")
        _check_own_options(made_with.get("backend"), backend_options)
        self._initializer = (initializer, initargs)
        self._name = name or "unirun"
        self._backend_options = backend_options
        self._chooser = Chooser(made_with)
        self._exit_grace: float = self._chooser.resolve()["exit_grace"]
        # Guards _backends and _closed. A backend is made while it is held, so that there is one.
        self._lock = threading.RLock()
        self._backends: dict[str, Backend] = {}
        self._closed = False
        self._plans: dict[tuple[Any, ...], Plan] = {}  # replaced or added to, never mutated within
        self._maps = OpenMaps()
        self._retried = RetriedCalls(f"{self._name}-retries")
        self._tokens: list[Any] = []
        # A dropped executor ends its backends; they finish what they have.
        self._finalizer = weakref.finalize(self, _close_dropped, self._backends, self._retried)
        self._finalizer.atexit = False
        on_exit(self)

    # -- choosing -------------------------------------------------------------------------------

    def _plan(self, fn: Any, given: Mapping[str, Any]) -> Plan:
        alike = _alike(fn)
        key = (_config.stamp(), id(given), id(alike))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._make_plan(fn, given, alike)
            if len(self._plans) > 500:
                self._plans = {}
            self._plans[key] = plan
        return plan

    def _make_plan(self, fn: Any, given: Mapping[str, Any], alike: Any) -> Plan:
        settings, decision = self._chooser.decide(fn, given)
        backend = self._backend(decision.backend)
        retries = settings["retries"]
        retry = Retry(retries) if isinstance(retries, int) else retries
        options = CallOptions(
            timeout=settings["timeout"],
            queue_timeout=settings["queue_timeout"],
            deadline=settings["deadline"],
            priority=settings["priority"],
            name=settings["name"],
            memory=settings["memory"],
            resources=settings["resources"],
            kind=str(settings["kind"]),
        )
        backend.check(options)
        acts = (options.timeout, options.memory, options.resources, options.queue_timeout)
        return Plan(
            backend,
            options,
            retry if retry.times or retry.crashes else None,
            any(each is not None for each in acts) or bool(retry.times or retry.crashes),
            (given, alike),
        )

    def _backend(self, name: str) -> Backend:
        backend = self._backends.get(name)
        if backend is not None:
            return backend
        made = _registry.load(name)
        with self._lock:
            if self._closed:
                raise ExecutorShutdown("cannot schedule new futures after shutdown")
            if name not in self._backends:
                self._backends[name] = made(self._spec(name))
            return self._backends[name]

    def _spec(self, name: str) -> WorkerSpec:
        settings, own = self._chooser.pool_settings(name)
        settings.pop("exit_grace")
        return WorkerSpec(
            **{**settings, "max_workers": worker_count(settings["max_workers"], cpu_count())},
            initializer=self._initializer[0],
            initargs=self._initializer[1],
            name=self._name,
            # In an empty context: a with config() block that happens to be open now is not for
            # the workers, which outlive it.
            settings=Context().run(_config.snapshot, self._chooser.layers),
            options={**own, **(self._backend_options if name == self._chooser.fixed else {})},
        )

    # -- running --------------------------------------------------------------------------------

    def _submit(
        self,
        fn: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: Mapping[str, Any],
        on_part: Callable[[bytes], None] | None = None,
        about: Any = None,
    ) -> Future[Any]:
        if self._closed and about is None:  # a map may still have items; its backend decides
            raise ExecutorShutdown("cannot schedule new futures after shutdown")
        plan = self._plan(fn if about is None else about, given)
        options = _inherit_deadline(plan.options)
        if plan.retry is not None:
            return self._submit_retried(plan, options, fn, args, kwargs)
        if on_part is not None and hasattr(plan.backend, "submit_with_parts"):
            future: Future[Any] = plan.backend.submit_with_parts(fn, args, kwargs, options, on_part)
            return future
        return plan.backend.submit(fn, args, kwargs, options)

    def _submit_retried(
        self, plan: Plan, options: CallOptions, fn: Any, args: Any, kwargs: Any
    ) -> Future[Any]:
        def attempt(number: int) -> Future[Any]:
            return plan.backend.submit(fn, args, kwargs, replace(options, attempt=number))

        assert plan.retry is not None
        return self._retried.submit(attempt, plan.retry, options.deadline)

    def _map(
        self,
        fn: Any,
        iterables: tuple[Iterable[Any], ...],
        wish: MapWish,
        given: Mapping[str, Any],
    ) -> MapResult:
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        if self._closed:
            raise ExecutorShutdown("cannot schedule new futures after shutdown")
        plan = self._plan(fn, given)
        single = plan.single or wish.chunksize == 1 or not _chunks_pay(plan.backend, wish.chunksize)
        if plan.single and isinstance(wish.chunksize, int) and wish.chunksize > 1:
            raise ValueError(
                f"chunksize={wish.chunksize} cannot be combined with an option that acts on single "
                "calls (timeout, queue_timeout, retries); drop one of them"
            )
        workers = min(plan.backend.max_workers, 64)
        size = 1 if single else None if wish.chunksize == "auto" else int(wish.chunksize)

        target = fn

        def submit(fn: Any, *args: Any, on_part: Any = None) -> Future[Any]:
            return self._submit(fn, args, {}, given, on_part, target)

        result = MapResult(
            submit,
            fn,
            iterables,
            chunker=Chunker(size, workers),
            single=single,
            window=wish.buffersize or _UNBOUNDED,
            calls=_UNBOUNDED if wish.buffersize else max(16, 4 * workers),
            timeout=wish.timeout,
            ordered=wish.ordered,
            errors=wish.errors,
            progress=make_progress(wish.progress, getattr(fn, "__name__", "")),
        )
        self._maps.add(result)
        return result

    def _make_shared(
        self, kind: str, given: Mapping[str, Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """On an executor that may use processes, something that processes can share."""
        name = self._chooser.backend_for_sharing(given)
        return self._backend(name).shared(kind, *args, **kwargs)

    # -- ending ---------------------------------------------------------------------------------

    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
        kill: bool = False,
    ) -> None:
        """Take no more calls; may be called again, from any thread.

        Args:
            wait: return when all calls have ended and all workers are gone.
            cancel_futures: cancel the calls that have not begun.
            timeout: seconds to wait at most.
            kill: kill what still runs: at once, or after `timeout` if that is given.

        Raises:
            TimeoutError: `timeout` passed and `kill` was not set; calls go on.
        """
        at_once = kill and timeout is None
        if not (cancel_futures or at_once):
            self._maps.complete(endless=wait)
        with self._lock:
            self._closed = True
            backends = list(self._backends.values())
        if cancel_futures or at_once:
            self._retried.stop()
            close(backends, cancel_futures=True, kill=at_once)
        if not wait:
            self._retried.then(lambda: close(backends))
        else:
            try:
                self._wait_for(backends, timeout, kill)
            except KeyboardInterrupt:  # the second Ctrl-C, or the first with nobody else to stop
                close(backends)
                for backend in self._process_backends():
                    backend.kill_workers()
                raise

    def _wait_for(self, backends: list[Backend], timeout: float | None, kill: bool) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        settled = self._maps.settle(until)
        self._retried.then(lambda: close(backends))
        if settled and self._retried.wait(until):
            close(backends)  # who waited may be here before `then` has done it
            if join(backends, until):
                return
        if not kill:
            running = [name for backend in backends for name in backend.running_calls()]
            raise TimeoutError(f"calls still run after {timeout:g} s: {', '.join(running)}")
        self._retried.stop()
        close(backends, cancel_futures=True, kill=True)
        join(backends, None)

    def terminate_workers(self) -> None:
        """End all worker processes politely (SIGTERM, grace, SIGKILL); the executor goes on.

        The calls they run end as killed; those that wait run in new workers.
        """
        for backend in self._process_backends():
            backend.terminate_workers()

    def kill_workers(self) -> None:
        """End all worker processes at once; the executor goes on, as after `terminate_workers`."""
        for backend in self._process_backends():
            backend.kill_workers()

    def _process_backends(self) -> list[Backend]:
        backends = list(self._backends.values())
        killable = [each for each in backends if "killable" in each.capabilities]
        return killable or ([] if self._chooser.fixed is None else backends)

    def stats(self) -> dict[str, Stats]:
        """A snapshot of counters for each backend that has started, by name."""
        return {name: backend.stats() for name, backend in list(self._backends.items())}

    @property
    def _max_workers(self) -> int:
        """Read by Dask, joblib and asyncio's users: the number of workers."""
        return self._chooser.max_workers(cpu_count())

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _leave(self._tokens.pop())
        failed = exc_type is not None
        self.shutdown(wait=True, cancel_futures=failed, kill=failed)

    def __repr__(self) -> str:
        made_with = self._chooser.made_with
        how = ", ".join(f"{key}={value!r}" for key, value in made_with.items())
        state = " shut down" if self._closed else ""
        return f"<unirun.Executor({how}){state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "an Executor cannot be pickled; inside a task use unirun.submit or a task's .submit"
        )


# -- the current executor -----------------------------------------------------------------------

_current: ContextVar[Executor | None] = ContextVar("unirun_executor", default=None)
_default: Executor | None = None  # the one module-level state of the house; ended at exit
_default_lock = threading.Lock()


def current_executor() -> Executor:
    """The innermost `with Executor(...)` of this context, else the default executor.

    The default one is made at first use, shared by the whole process, and ended at its exit.
    """
    global _default
    executor = _current.get()
    if executor is not None and not executor._closed:
        return executor
    with _default_lock:
        if _default is None or _default._closed:
            _default = Executor(name="unirun-default")
        return _default


def explain(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Where a call of `fn` would run, why, and where each setting came from; runs nothing."""
    return current_executor().explain(fn)


def _leave(token: Any) -> None:
    try:
        _current.reset(token)
    except ValueError:
        return  # entered in another context: it was never current in this one


# -- pieces ---------------------------------------------------------------------------------------


def _check_own_options(backend: str | None, options: Mapping[str, Any]) -> None:
    known = () if backend is None or not options else _registry.load(backend).option_names
    for name in options:
        if name not in known:
            from inspect import signature  # only mistakes pay for it

            words = [*list(signature(Executor).parameters)[:-1], *known]
            raise _config.UnknownOption(f"Executor(): {unknown('option', name, words)}")


def _alike(fn: Any) -> Any:
    """What all functions that get the same plan have in common.

    The code of a lambda or closure that is made anew for each call, the task of a bound one, the
    type of a nameless callable such as a partial.
    """
    code = getattr(fn, "__code__", None)
    if code is not None:
        return code
    if hasattr(fn, "__unirun_options__"):
        return getattr(fn, "__func__", fn)
    return fn if hasattr(fn, "__qualname__") else type(fn)


def _start_method(context: Any) -> str | None:
    if context is None:
        return None
    method = context if isinstance(context, str) else context.get_start_method()
    if method not in _START_METHOD_OF:
        known = ", ".join(sorted(_START_METHOD_OF))
        raise ConfigError(f"unknown start method {method!r} for mp_context; known: {known}")
    return _START_METHOD_OF[method]


def _inherit_deadline(options: CallOptions) -> CallOptions:
    """A call made inside a call must not outlive it."""
    context = _context.running.get()
    if context is None or context.deadline is None:
        return options
    if options.deadline is not None and options.deadline <= context.deadline:
        return options
    return replace(options, deadline=context.deadline)


def _chunks_pay(backend: Backend, chunksize: int | str) -> bool:
    return chunksize != "auto" or "isolation" in backend.capabilities


def _close_dropped(backends: dict[str, Backend], retried: RetriedCalls) -> None:
    retried.then(lambda: close(backends.values()))


def _forget_in_forked_child() -> None:
    """The threads and pipes of these executors stayed in the parent."""
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)

Executor.__module__ = "unirun"
