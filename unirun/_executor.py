"""Executor: chooses the backend of each call, starts it at first need, and ends them all.

    submit / map ──> plan (settings + hint -> backend, limits; cached) ──> backend.submit ──> Future

The plan for a function depends on its hint, the options given, and the settings; it is made once
and kept until one of them changes.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from unirun import _config, _context, _hangs, _nesting, _payload, _registry, _sites
from unirun._arguments import as_settings, check_own_options
from unirun._choice import Chooser, Chosen, Explanation
from unirun._deferral import imported, in_finalizer, undisturbed
from unirun._ending import leave, on_exit
from unirun._entering import Entered, current
from unirun._errors import ExecutorShutdown
from unirun._future import Future
from unirun._held import HeldCalls, gate_for, hand_over
from unirun._machine import cpu_count
from unirun._named_backends import make
from unirun._plan import Given, Plan, Plans, inherit, retry_of
from unirun._records import replace
from unirun._scoping import Scopes
from unirun._seeds import Seeding, Seeds
from unirun._settings import PROGRAM_KEYS, worker_count
from unirun._shutdown import Shutdown
from unirun._submitter import MapWish, Submitter
from unirun._watching import Watched
from unirun.backend import Backend, CallOptions, WorkerSpec, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, TextIO

    from unirun._activity import Activity
    from unirun._auto import Course
    from unirun._map import MapResult
    from unirun._open_maps import OpenMaps

__all__ = ["Executor", "current_executor", "explain"]

_UNBOUNDED = 1 << 62
_OF_CALLS = ("options()", "@task")
"""Who says there what the seed is says it for a call, not for a run."""


class Executor(Submitter, Entered, Scopes, Watched, Shutdown, concurrent.futures.Executor):
    """Runs calls on threads, processes or an event loop, each where its kind belongs.

    A drop-in for `ThreadPoolExecutor` and `ProcessPoolExecutor`. With `backend=` every call goes
    there; with `kind=` that is the hint for functions without one; else each call is routed by
    its own hint. Backends start at first need and belong to this executor.

    Leaving a `with` block waits for all calls; leaving it by an exception cancels those that wait
    and kills those that run (threads cannot be killed: they are no longer waited for).

    Args:
        max_workers: workers of each backend; None: as many as cores for processes and for threads
            that compute (kind "cpu" or "native"), and more for threads that wait.
        kind: hint for functions that have none: "auto", "cpu", "io", "native", "async", "isolated".
        backend: name of the one backend to use, or None.
        initializer, initargs: called in each worker before its first call.
        mp_context: how processes start: "zygote" (default), "spawn", "fork", or a context of
            `multiprocessing`.
        max_tasks_per_child: calls after which a worker process is replaced.
        max_worker_rss: memory above which a worker process is replaced after a call, as "2GiB".
        thread_name_prefix: for worker threads.
        preload: names of modules that worker processes have imported before their first call.
        idle_timeout: seconds after which an idle worker ends; None: never.
        grace: seconds between SIGTERM and SIGKILL when a call is killed.
        max_pending: how many calls may be submitted and not ended: a number, bytes of encoded
            arguments ("64MiB"), or both ("1000, 64MiB"); None: no limit.
        when_full: what a submit does at that limit: "block" until there is room, or "raise"
            QueueFull. A submit from inside a call or a done-callback is always let in.
        manager: what hosts objects that processes share: a "thread" of this process (default), or a
            "process" of its own, which answers however busy this one is.
        blas_threads: threads that BLAS, OpenMP and the like may use in each worker process: a
            number, "auto" (default) for its share of the cores, or None for no limit.
        output: where what worker processes print goes: "relay" (default) to `sys.stdout` and
            `sys.stderr` of this process, line by line; "direct" to their own descriptors.
        logs: False: what worker processes log and warn of stays there (default True).
        name: for threads and messages.
        ship: names of modules to be sent to the machines of an engine, which need not have them.
        seed: of a run that can be repeated: each call has a seed made from it (`current_task()`).
        backend_options: what only the backend given by `backend=` understands.

    Raises:
        ValueError, TypeError: as the standard library's executors for the same mistakes.
    """

    _facts: _nesting.Facts | None = None  # for those who submit to it in a worker; made once
    _is_guest = False  # this process is a worker, and it lives at home

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
        max_worker_rss: int | str | None = None,
        thread_name_prefix: str | None = None,
        preload: Iterable[str] | None = None,
        idle_timeout: float | str | None = "default",
        grace: float | None = None,
        max_pending: int | str | Iterable[int | str] | None = None,
        when_full: str | None = None,
        manager: str | None = None,
        blas_threads: int | str | None = "default",
        output: str | None = None,
        logs: bool | None = None,
        name: str | None = None,
        seed: int | None = None,
        ship: Iterable[str] | None = None,
        **backend_options: Any,
    ) -> None:
        made_with = as_settings(
            initializer,
            mp_context,
            idle_timeout,
            max_workers=max_workers,
            kind=kind,
            backend=backend,
            max_tasks_per_child=max_tasks_per_child,
            max_worker_rss=max_worker_rss,
            thread_name_prefix=thread_name_prefix,
            preload=preload,
            grace=grace,
            max_pending=max_pending,
            when_full=when_full,
            manager=manager,
            blas_threads=blas_threads,
            output=output,
            logs=logs,
            seed=seed,
            ship=ship,
        )
        backend_options = check_own_options(Executor, made_with.get("backend"), backend_options)
        self._initializer = (initializer, initargs)
        self._name = name or "unirun"
        self._made_at = _outside()
        self._backend_options = backend_options
        # Before the backend is imported, so that what it needs comes up meanwhile.
        by_zygote = made_with.get("start_method") in (None, "zygote") and not self._is_guest
        self._ahead = _registry.begin(made_with.get("backend")) if by_zygote else None
        try:
            self._chooser = Chooser(made_with, backend_options, at_home=not self._is_guest)
            settings = self._chooser.settled()
        except BaseException:  # nobody else would end it
            if self._ahead is not None:
                self._ahead()
            raise
        self._exit_grace: float = settings["exit_grace"]
        self._call_sites: str = settings["call_sites"]
        _hangs.warn_after = settings["hang_warning"]
        self._bar: str = settings["progress"]
        if settings["dump"]:
            from unirun._dump_server import enable_by_setting

            enable_by_setting()
        if settings["monitor"]:
            imported("unirun._monitor").enable_by_setting()
        if settings["trace"] is not None:
            from unirun._trace import trace_by_setting

            trace_by_setting(settings["trace"])
        self._gate = gate_for(settings["max_pending"], settings["when_full"])
        # Guards _backends and _closed. A backend is made while it is held, so that there is one.
        self._lock = threading.RLock()
        self._backends: dict[str, Backend] = {}
        self._closed = self._killed = False
        self._plans = Plans(quick=self._gate is None)
        self._given = Given()
        self._seeds = Seeds(made_with.get("seed"))
        self._maps: OpenMaps | None = None
        self._activities: dict[int, Activity] = {}  # that run, by id; each adds and drops itself
        self._held = HeldCalls(self._name)
        self._tokens: list[Any] = []
        # A dropped executor ends its backends; they finish what they have.
        left = self._backends, self._held, self._ahead, self._exit_grace
        self._finalizer = weakref.finalize(self, in_finalizer, _close_dropped, *left)
        self._finalizer.atexit = False
        on_exit(self)

    @property
    def _owner(self) -> Self:  # kept, it would be a cycle, and a dropped executor freed late
        return self

    # -- choosing -------------------------------------------------------------------------------

    def _plan(self, fn: Any, given: Given) -> Plan:
        return self._plans.find(fn, given, self._make_plan)

    def _make_plan(self, fn: Any, given: Given, alike: Any) -> Plan:
        settings, decision = self._chooser.decide(fn, given)
        backend = self._backend(decision.backend, self._chooser.pool_of(decision))
        retry = retry_of(settings["retries"])
        options = CallOptions(
            timeout=settings["timeout"],
            queue_timeout=settings["queue_timeout"],
            deadline=settings["deadline"],
            priority=settings["priority"],
            name=settings["name"],
            memory=settings["memory"],
            capture=settings["capture"],
            resources=settings["resources"],
            kind=decision.kind,
            copied=self._chooser.is_copied(fn, given, settings, decision),
            seed=settings["seed"] if settings.source("seed") in _OF_CALLS else None,
            seed_libraries=settings["seed_libraries"],
            context=settings["context"],
            sites=_sites.are_noted(self._call_sites, backend.name),
            chosen=Chosen(describe(fn), decision, settings),
            settings=_config.carried() if backend.carries_settings else None,
        )
        backend.check(options)
        acts = (options.timeout, options.memory, options.resources, options.queue_timeout)
        plan = Plan(
            backend,
            options,
            retry=retry,
            single=options.capture or any(each is not None for each in (*acts, retry)),
            keep=(given, alike),
        )
        if options.seed is None and settings["seed"] is not None:
            plan.seed = settings["seed"], settings.source("seed")
        if self._initializer[0] is None and self._chooser.follows_measures(settings, decision):
            imported("unirun._auto_plan").learn(self, fn, plan, settings, decision)
        return plan

    def _backend(self, name: str, pool: str | None = None) -> Backend:
        """The backend of that name that has these workers; all but threads have one pool."""
        pool = pool or name
        backend = self._backends.get(pool)
        if backend is not None:
            return backend
        is_at_home = self._is_guest and name in _context.at_home
        made: Callable[[WorkerSpec], Backend]
        made = _context.home.backend if is_at_home else _registry.load(name)
        with self._lock:
            if self._closed:
                raise self._refusal()
            # Else Ctrl-C would leave it half-made, with a zygote and descriptors nobody closes;
            # and a handler that submits would make another one meanwhile.
            undisturbed(self._add_backend, pool, name, made)
            return self._backends[pool]

    def _add_backend(self, pool: str, name: str, made: Callable[[WorkerSpec], Backend]) -> None:
        if pool not in self._backends:
            spec = replace(self._spec(name), home=_nesting.enter(self))
            spec = self._chooser.for_pool(pool, name, spec)
            self._backends[pool] = make(made, name, spec, self._chooser.resolve())

    def _spec(self, name: str) -> WorkerSpec:
        settings, own = self._chooser.pool_settings(name)
        for kept in PROGRAM_KEYS:
            settings.pop(kept)
        return WorkerSpec(
            **{**settings, "max_workers": worker_count(settings["max_workers"], cpu_count())},
            initializer=self._initializer[0],
            initargs=self._initializer[1],
            name=self._name,
            settings=_config.snapshot(self._chooser.layers),
            options={**own, **(self._backend_options if name == self._chooser.fixed else {})},
        )

    # -- running --------------------------------------------------------------------------------

    def _submit(
        self,
        fn: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: Given,
        on_part: Callable[[bytes, memoryview], None] | None = None,
        about: Any = None,
        course: Course | None = None,
        seed: int | None = None,
    ) -> Future[Any]:
        if self._closed and about is None:  # a map may still have items; its backend decides
            raise self._refusal()
        plan = self._plan(fn if about is None else about, given)
        if (route := course or plan.route) is not None:
            plan, fn = route.at(fn, args, kwargs)
        if _payload.references_exist and not plan.backend.takes_references:
            args, kwargs = imported("unirun._put").resolved(args, kwargs)
        options = plan.options if about is None or fn is about else self._of_pieces(plan, about)
        options = inherit(options, self._seeds.next(plan) if about is None else seed)
        if options.seed_libraries:
            fn = Seeding.of(fn, options)
        start: Callable[[CallOptions], Future[Any]]
        start = partial(hand_over, plan, self._held, fn, args, kwargs, on_part)
        if given.limit is not None:
            start = partial(given.limit.submit, self._held.line, plan.backend.name, start)
        if options.sites and (given.limit is not None or plan.retry is not None):
            start = _sites.from_here(start)
        if self._gate is None:
            return start(options)
        size_of, of_map = plan.backend.size_of, about is not None
        return self._gate.submit(partial(start, options), size_of, of_map=of_map)

    def _of_pieces(self, plan: Plan, fn: Any) -> CallOptions:
        """The options of calls with several items for `fn`, whose name they have."""
        if plan.pieces is None:
            plan.pieces = replace(plan.options, name=plan.options.name or describe(fn))
        return plan.pieces

    def _map(
        self,
        fn: Any,
        iterables: tuple[Any, ...],
        wish: MapWish,
        given: Given,
    ) -> MapResult:
        from unirun._map import Chunker, MapResult
        from unirun._open_maps import OpenMaps
        from unirun._progress import make_progress
        from unirun._sending import Sending

        wish.check()
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        if self._closed:
            raise self._refusal()
        plan = self._plan(fn, given)
        if plan.options.capture:
            raise ValueError("map() has no futures to keep output on; submit() such calls")
        single = plan.single or wish.chunksize == 1
        course = None if plan.route is None else plan.route.course(fn, pieces=not single)
        if not (course and course.pieces):
            single |= not _chunks_pay(plan.backend, wish.chunksize)
        if plan.single and isinstance(wish.chunksize, int) and wish.chunksize > 1:
            raise ValueError(
                f"chunksize={wish.chunksize} cannot be combined with an option that acts on single "
                "calls (timeout, queue_timeout, retries); drop one of them"
            )
        workers = min(plan.backend.max_workers, 64)
        calls = _UNBOUNDED if wish.buffersize else max(16, 4 * workers)
        if self._gate is not None and self._gate.most is not None:
            calls = min(calls, self._gate.most)
        size = 1 if single else None if wish.chunksize == "auto" else int(wish.chunksize)

        result = MapResult(
            Sending(self, fn, given, plan, course),
            fn,
            iterables,
            chunker=course.chunker(size, workers) if course else Chunker(size, workers),
            single=single,
            window=wish.buffersize or _UNBOUNDED,
            calls=calls,
            timeout=wish.timeout,
            ordered=wish.ordered,
            errors=wish.errors,
            progress=make_progress(wish.progress, getattr(fn, "__name__", ""), self._bar),
        )
        if self._gate is not None:
            result._mapping.has_room = self._gate.has_room
        with self._lock:
            self._maps = self._maps or OpenMaps()
        self._maps.add(result)
        return result

    def _make_shared(
        self, kind: str, given: Mapping[str, Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """On an executor that may use processes, something that processes can share."""
        name = self._chooser.backend_for_sharing(given)
        return self._backend(name).shared(kind, *args, **kwargs)

    # -- while it runs --------------------------------------------------------------------------

    def resize(self, max_workers: int | str) -> None:
        """Have so many workers from now on, in each backend that runs and each that will.

        No call is disturbed: workers that are surplus end when they have nothing to do.

        Raises:
            ValueError: not a positive number.
            UnsupportedByBackend: a backend that runs cannot; others may have changed by then.
        """
        checked = _config.check_options({"max_workers": max_workers}, "resize()")
        with self._lock:
            if self._closed:
                raise ExecutorShutdown("cannot resize after shutdown")
            self._chooser.made_with = {**self._chooser.made_with, **checked}
            backends = list(self._backends.values())
        count = worker_count(checked["max_workers"], cpu_count())
        for backend in backends:
            backend.resize(count or cpu_count())

    def dump(self, file: TextIO | None = None) -> str:
        """What it is doing, for people: calls, workers, shared objects, who waits for what, stacks.

        Does not hang, whatever does: it takes about a second at the longest. `unirun.dump()` tells
        of all executors of this process. The text is written to `file` as well, if that is given.
        """
        from unirun._dump import text_about  # for who asks

        return text_about([self], file)

    @property
    def _max_workers(self) -> int:
        """Read by Dask, joblib and asyncio's users: the number of workers."""
        return self._chooser.usual_workers()

    def __repr__(self) -> str:
        made_with = self._chooser.made_with
        how = ", ".join(f"{key}={value!r}" for key, value in made_with.items())
        state = " shut down" if self._closed else ""
        return f"<unirun.Executor({how}){state}>"

    def __reduce__(self) -> Any:
        return _nesting.reduce(self, Executor)


# -- the current executor -----------------------------------------------------------------------

_default: Executor | None = None  # the one module-level state of the house; ended at exit
_default_lock = threading.Lock()


def current_executor() -> Executor:
    """The innermost `with Executor(...)` of this context, else the default executor.

    The default one is made at first use, shared by the whole process, and ended at its exit. In a
    task that runs in a worker process it is the executor that runs the task.
    """
    return current_submitter()._owner


def current_submitter() -> Executor:
    """Where `unirun.submit` hands calls in: as `current_executor`, or the innermost open scope."""
    global _default
    executor = current.get()
    if executor is not None:
        if executor._drains or not executor._closed:
            return executor
        if executor._owner is not executor and not executor._owner._closed:
            return executor._owner  # the scope of a context that has outlived it
    with _default_lock:
        if _default is None or (_default._closed and not _default._drains):
            _default = _nesting.current(Executor) or Executor(name="unirun-default")
        return _default


def explain(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Where a call of `fn` would run, why, and where each setting came from; runs nothing."""
    return current_executor().explain(fn)


# -- pieces ---------------------------------------------------------------------------------------


def _outside() -> tuple[str, int]:
    """The file and line of the program that has led here, for people."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("unirun."):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _chunks_pay(backend: Backend, chunksize: int | str) -> bool:
    return chunksize != "auto" or "isolation" in backend.capabilities


def _close_dropped(
    backends: dict[str, Backend],
    held: HeldCalls,
    ahead: Callable[[], None] | None,
    exit_grace: float,
) -> None:
    if ahead is not None:
        ahead()
    leave(backends, held, exit_grace)


def _forget_in_forked_child() -> None:
    """The threads and pipes of these executors stayed in the parent."""
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)

Executor.__module__ = "unirun"
