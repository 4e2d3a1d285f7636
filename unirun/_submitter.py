"""What can be done with an executor and with a view of it: submit, map, options, explain."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable

from unirun import _config, _context
from unirun._choice import Explanation
from unirun._future import Future
from unirun._plan import Given
from unirun._records import record
from unirun._shared_names import SharedNames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar, overload

    from unirun._executor import Executor
    from unirun._map import MapResult
    from unirun._put import Reference
    from unirun._scope import Scope

    P = ParamSpec("P")
    R = TypeVar("R")
else:

    def overload(function):  # `typing` takes 3 ms to import
        return function


__all__ = ["MapWish", "Submitter", "View"]


_HARD = frozenset({"backend", "require", "killable", "memory"})
"""The options that not every backend can keep."""


class Submitter(SharedNames):
    """What an executor and a view of it have in common."""

    _given: Given
    if TYPE_CHECKING:

        @property
        def _owner(self) -> Executor: ...

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...  # noqa: F811
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: F811
        """Run `fn(*args, **kwargs)` where its kind belongs, and return its future.

        Every keyword reaches `fn`; options for the call itself go through `options()`. Returns at
        once, except on the inline backend. A bad argument does not raise here: it ends the future.

        Raises:
            ExecutorShutdown: after `shutdown()` (a RuntimeError, as in `concurrent.futures`).
            UnsupportedByBackend: the backend cannot do what was asked for.
        """
        # What is the same for nearly every call, spelled out: anything unusual goes the long way.
        known = self._given.known
        try:
            plan = known.get(fn) or known.get(id(getattr(fn, "__code__", fn)))
        except TypeError:  # an object without a hash
            plan = None
        if (
            plan is not None
            and plan.configured is _config._configured
            and plan.active is _config._active.get()
            and (
                (call := _context.running.get()) is None
                or (call.deadline is None and not call.seeded)
            )
            and not self._owner._closed
        ):
            return plan.submit(fn, args, kwargs, plan.options)
        return self._owner._submit(fn, args, kwargs, self._given)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        ordered: bool = True,
        errors: str = "raise",
        progress: bool | str | Callable[..., object] | None = None,
    ) -> MapResult:
        """Like `map(fn, *iterables)`, with the calls running at the same time; lazy.

        Inputs are taken as results are: memory stays flat and inputs may be endless. A map that is
        not iterated over is completed when the executor shuts down. Coroutines read it by
        `async for`, which alone can draw from inputs that are async iterables.

        Args:
            timeout: seconds from now until the last result must be there.
            chunksize: items per call; "auto" grows it from 1 while calls are short (processes).
            buffersize: how many items may be submitted and not yet taken; None: a few per worker.
            ordered: False yields results as they come.
            errors: "raise" the first, "return" exceptions as results, or "skip" them.
            progress: True for a bar on stderr, if that is a terminal or a notebook; the name of a
                bar ("rich", "tqdm", "plain") to have that one drawn anywhere; or a callable that
                gets (done, total or None).
        """
        settings = MapWish(timeout, chunksize, buffersize, ordered, errors, progress)
        return self._start_map(fn, iterables, settings)

    def _start_map(self, fn: Any, iterables: tuple[Any, ...], wish: MapWish) -> MapResult:
        return self._owner._map(fn, iterables, wish, self._given)

    def put(self, obj: R) -> Reference[R]:
        """Hand over `obj` once for many calls: they get it wherever they are given the reference.

        It may stand anywhere in an argument. Each process to which such calls come gets the object
        once, and machines of an engine that have it are preferred; a call in a thread gets `obj`
        itself. So it must not be changed as long as calls use it. It is let go with the reference.

        What cannot be pickled ends the calls that are given it with SerializationError, where they
        run in processes.
        """
        from unirun._put import put

        return put(obj)

    def options(self, *, limit: int | None = None, **options: Any) -> View:
        """A cheap view of this executor whose calls have these options.

        Args:
            limit: at most so many calls of this view, and of views made from it, run at a time;
                the others wait in it, those of higher priority before the rest. Calls made inside
                a call of the view are part of that one.
            kind, backend, require: where they run; see `unirun.task`.
            timeout: seconds a body may run; then it is killed (processes) or abandoned (threads).
            queue_timeout: seconds a call may wait to begin.
            deadline: moment on `time.monotonic()` when it must be over; nested calls inherit it.
            retries: how often a failed call is run again: an int or a `unirun.Retry`.
            priority: higher goes first; in its turn among equals (processes, threads).
            name: what the call is called in messages.
            memory: bytes ("2GiB") that the process of a call and its children may take; then it is
                killed (processes).
            capture: True: what a call prints is kept, see `Future.output`.
            resources: only where a backend offers them.
            killable: True: only run where a call can be killed.
            seed: what `current_task().seed` is for these calls, all of them; the items of a map
                have each their own, made from it.
            seed_libraries: True: `random` and numpy are seeded before each call (processes).
            context: False: no context variables are sent to other processes.

        Raises:
            UnknownOption: a TypeError that says what was probably meant.
            UnsupportedByBackend: no call of this executor could have all of these together.
        """
        checked = _config.check_options(options, "options()")
        if not _HARD.isdisjoint(checked):
            self._owner._chooser.check({**self._given, **checked})
        places = self._given.limit
        if limit is not None:
            from unirun._cuts import check_size
            from unirun._limited import Limit

            limited = Limit(check_size("limit", limit))
            places = limited if places is None else places.narrowed(limited)
        return self._view(self._owner._plans.given({**self._given, **checked}, places))

    def _view(self, given: Given) -> View:
        return View(self._owner, given)

    def explain(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
        """Where a call of `fn` would run, why, and where each setting came from; runs nothing."""
        owner = self._owner
        prepared = owner._initializer[0] is not None
        return owner._chooser.explain(fn, self._given, prepared=prepared)

    def _shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._owner._make_shared(kind, self._given, args, kwargs)

    def _lasting(self, what: str, /, *args: Any, **kwargs: Any) -> Any:
        """A Timer or an Activity that uses this executor or view."""
        made: Any
        if what == "Timer":
            from unirun._timer import Timer as made
        else:
            from unirun._activity import Activity as made
        item = made(*args, **kwargs)
        item._submitter = self
        return item


class View(Submitter, concurrent.futures.Executor):
    """An executor's calls with options; made by `Executor.options`. Owns nothing."""

    _owner: Executor

    def __init__(self, owner: Executor, given: Given) -> None:
        self._owner = owner
        self._given = given

    @property
    def _max_workers(self) -> int:
        return self._owner._max_workers

    def scope(
        self, timeout: float | None = None, on_error: str = "cancel", name: str | None = None
    ) -> Scope:
        """As `Executor.scope`; its calls have the options of this view."""
        return self._owner._scope_with(self._given, timeout, on_error, name)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        raise RuntimeError("a view owns no workers; shut down the executor it was made from")

    def __reduce__(self) -> Any:
        """As its executor: only in calls."""
        if self._given.limit is not None:
            raise TypeError("a view with a limit cannot be pickled; hand over its executor")
        return _view_of, (self._owner, dict(self._given))

    def __repr__(self) -> str:
        limit = self._given.limit
        options = dict(self._given) if limit is None else {**self._given, "limit": limit.most}
        return f"<options {options} of {self._owner!r}>"


def _view_of(owner: Executor, options: dict[str, Any]) -> View:
    return View(owner, owner._plans.given(options, None))


@record
class MapWish:
    """The arguments of a `map`."""

    timeout: float | None
    chunksize: int | str
    buffersize: int | None
    ordered: bool
    errors: str
    progress: Any

    def check(self) -> None:
        from unirun._cuts import check_size

        if self.errors not in ("raise", "return", "skip"):
            raise ValueError(f"errors must be 'raise', 'return' or 'skip', not {self.errors!r}")
        if self.chunksize != "auto":
            check_size("chunksize", self.chunksize)
        if self.buffersize is not None:
            check_size("buffersize", self.buffersize)
