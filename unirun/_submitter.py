"""What can be done with an executor and with a view of it: submit, map, options, explain."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from unirun import _config
from unirun._choice import Explanation
from unirun._future import Future
from unirun._map import MapResult, check_size
from unirun._shared_names import SharedNames

if TYPE_CHECKING:
    from unirun._executor import Executor

__all__ = ["MapWish", "Submitter", "View"]

P = ParamSpec("P")
R = TypeVar("R")


class Submitter(SharedNames):
    """What an executor and a view of it have in common."""

    _owner: Executor
    _given: Mapping[str, Any]

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, **kwargs)` where its kind belongs, and return its future.

        Every keyword reaches `fn`; options for the call itself go through `options()`. Returns at
        once, except on the inline backend. A bad argument does not raise here: it ends the future.

        Raises:
            ExecutorShutdown: after `shutdown()` (a RuntimeError, as in `concurrent.futures`).
            UnsupportedByBackend: the backend cannot do what was asked for.
        """
        return self._owner._submit(fn, args, kwargs, self._given)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        ordered: bool = True,
        errors: str = "raise",
        progress: bool | Callable[[int, int | None], object] | None = None,
    ) -> MapResult:
        """Like `map(fn, *iterables)`, with the calls running at the same time; lazy.

        Inputs are taken as results are: memory stays flat and inputs may be endless. A map that is
        not iterated over is completed when the executor shuts down.

        Args:
            timeout: seconds from now until the last result must be there.
            chunksize: items per call; "auto" grows it from 1 while calls are short (processes).
            buffersize: how many items may be submitted and not yet taken; None: a few per worker.
            ordered: False yields results as they come.
            errors: "raise" the first, "return" exceptions as results, or "skip" them.
            progress: True for a line on stderr; or a callable that gets (done, total or None).
        """
        settings = MapWish(timeout, chunksize, buffersize, ordered, errors, progress)
        return self._owner._map(fn, iterables, settings, self._given)

    def options(self, **options: Any) -> View:
        """A cheap view of this executor whose calls have these options.

        Args:
            kind, backend, require: where they run; see `unirun.task`.
            timeout: seconds a body may run; then it is killed (processes) or abandoned (threads).
            queue_timeout: seconds a call may wait to begin.
            deadline: moment on `time.monotonic()` when it must be over; nested calls inherit it.
            retries: how often a failed call is run again: an int or a `unirun.Retry`.
            priority: higher goes first (processes).
            name: what the call is called in messages.
            memory, resources: only where a backend offers them.
            killable: True: only run where a call can be killed.

        Raises:
            UnknownOption: a TypeError that says what was probably meant.
        """
        checked = _config.check_options(options, "options()")
        return View(self._owner, {**self._given, **checked})

    def explain(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
        """Where a call of `fn` would run, why, and where each setting came from; runs nothing."""
        return self._owner._chooser.explain(fn, self._given)

    def _shared(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        return self._owner._make_shared(kind, self._given, args, kwargs)


class View(Submitter, concurrent.futures.Executor):
    """An executor's calls with options; made by `Executor.options`. Owns nothing."""

    def __init__(self, owner: Executor, given: Mapping[str, Any]) -> None:
        self._owner = owner
        self._given = given

    @property
    def _max_workers(self) -> int:
        return self._owner._max_workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        raise RuntimeError("a view owns no workers; shut down the executor it was made from")

    def __repr__(self) -> str:
        return f"<options {dict(self._given)} of {self._owner!r}>"


@dataclass(frozen=True, slots=True)
class MapWish:
    """The arguments of a `map`, checked."""

    timeout: float | None
    chunksize: int | str
    buffersize: int | None
    ordered: bool
    errors: str
    progress: Any

    def __post_init__(self) -> None:
        if self.errors not in ("raise", "return", "skip"):
            raise ValueError(f"errors must be 'raise', 'return' or 'skip', not {self.errors!r}")
        if self.chunksize != "auto":
            check_size("chunksize", self.chunksize)
        if self.buffersize is not None:
            check_size("buffersize", self.buffersize)
