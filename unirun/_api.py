"""The functions of the package that use the current executor."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, ParamSpec, TypeVar, overload

from unirun._executor import current_executor, current_submitter
from unirun._future import Future
from unirun._map import MapResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._drain import Drain
    from unirun._scope import Scope

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Dict", "Event", "LifoQueue", "List", "Lock"]
__all__ += ["PriorityQueue", "Queue", "RLock", "Semaphore", "SimpleQueue", "Value", "local"]
__all__ += ["drain_on_sigterm", "map", "run", "scope", "submit"]


@overload
def submit(
    fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Future[R]: ...
@overload
def submit(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
def submit(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    """`Executor.submit` of the current executor."""
    return current_submitter().submit(fn, *args, **kwargs)


def map(
    fn: Callable[..., Any], *iterables: Iterable[Any] | AsyncIterable[Any], **options: Any
) -> MapResult:
    """`Executor.map` of the current executor."""
    return current_submitter().map(fn, *iterables, **options)


@overload
def run(fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def run(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
def run(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run `fn` where its kind belongs and return its result.

    An exception that interrupts the wait, Ctrl-C for example, kills the call where it can be.
    """
    return finish(submit(fn, *args, **kwargs))


def scope(timeout: float | None = None, on_error: str = "cancel", name: str | None = None) -> Scope:
    """`Executor.scope` of the current executor."""
    return current_executor().scope(timeout, on_error, name)


def finish(future: Future[R]) -> R:
    """The result of `future`, which is not left behind if the wait is interrupted."""
    try:
        return future.result()
    except BaseException:
        if not future.done() and not future.cancel():
            future._stop_for_good()
        raise


def drain_on_sigterm(timeout: float, *, wait_for_main: bool = False) -> Drain:
    """`Executor.drain_on_sigterm` for all executors of this program that there are by then.

    The default executor is one of them; it is made now, if it does not exist.
    """
    Context().run(current_executor)  # outside of any `with` block this may be in
    from unirun._drain import drain_on_sigterm  # few programs want it

    return drain_on_sigterm(None, timeout, wait_for_main=wait_for_main)


def Queue(maxsize: int = 0) -> Any:
    """`Executor.Queue` of the current executor."""
    return current_executor().Queue(maxsize)


def LifoQueue(maxsize: int = 0) -> Any:
    """`Executor.LifoQueue` of the current executor."""
    return current_executor().LifoQueue(maxsize)


def PriorityQueue(maxsize: int = 0) -> Any:
    """`Executor.PriorityQueue` of the current executor."""
    return current_executor().PriorityQueue(maxsize)


def SimpleQueue() -> Any:
    """`Executor.SimpleQueue` of the current executor."""
    return current_executor().SimpleQueue()


def Event() -> Any:
    """`Executor.Event` of the current executor."""
    return current_executor().Event()


def Barrier(
    parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
) -> Any:
    """`Executor.Barrier` of the current executor."""
    return current_executor().Barrier(parties, action, timeout)


def Lock(*, on_abandoned: str = "flag") -> Any:
    """`Executor.Lock` of the current executor."""
    return current_executor().Lock(on_abandoned=on_abandoned)


def RLock(*, on_abandoned: str = "flag") -> Any:
    """`Executor.RLock` of the current executor."""
    return current_executor().RLock(on_abandoned=on_abandoned)


def Condition(lock: Any = None) -> Any:
    """`Executor.Condition` of the current executor."""
    return current_executor().Condition(lock)


def Semaphore(value: int = 1) -> Any:
    """`Executor.Semaphore` of the current executor."""
    return current_executor().Semaphore(value)


def BoundedSemaphore(value: int = 1) -> Any:
    """`Executor.BoundedSemaphore` of the current executor."""
    return current_executor().BoundedSemaphore(value)


def Value(*args: Any) -> Any:
    """`Executor.Value` of the current executor."""
    return current_executor().Value(*args)


def Dict(*args: Any, **kwargs: Any) -> Any:
    """`Executor.Dict` of the current executor."""
    return current_executor().Dict(*args, **kwargs)


def List(iterable: Iterable[Any] = ()) -> Any:
    """`Executor.List` of the current executor."""
    return current_executor().List(iterable)


def local() -> Any:
    """`Executor.local` of the current executor."""
    return current_executor().local()
