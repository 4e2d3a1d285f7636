"""@task: a function together with what is known about it.

Calling it is a plain call.  Decorating starts nothing and imports no engine: a worker process
imports modules with tasks in them too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from unirun._choice import Explanation
    from unirun._future import Future
    from unirun._map import MapResult

__all__ = ["Task", "task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
C = TypeVar("C", bound=type)


class Task(Generic[P, R]):
    """A function with its hint and options; what `@task` makes.

    `f(x)` calls the function here and now. `f.submit(x)` and `f.map(xs)` run it on the current
    executor. Pickles by reference where the function can be imported.
    """

    __unirun_task__ = True
    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[P, R], options: Mapping[str, Any], *, derived: bool = False):
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.__unirun_options__: dict[str, Any] = dict(options)
        self._derived = derived

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run on the current executor; as `Executor.submit`."""
        from unirun._executor import current_submitter  # engines are imported at first use

        _check_bound(self)
        return current_submitter().submit(self, *args, **kwargs)

    def map(self, *iterables: Any, **options: Any) -> MapResult:
        """Map over iterables on the current executor; as `Executor.map`."""
        from unirun._executor import current_submitter

        _check_bound(self)
        return current_submitter().map(self, *iterables, **options)

    @overload
    def run(self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def run(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the current executor and wait for the result."""
        from unirun._api import finish

        return finish(self.submit(*args, **kwargs))

    def options(self, **options: Any) -> Task[P, R]:
        """The same task with other options; as `Executor.options`."""
        checked = _check(options)
        return Task(self.fn, {**self.__unirun_options__, **checked}, derived=True)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Where a call would run, and why; runs nothing."""
        from unirun._executor import explain

        return explain(self)

    @overload
    def __get__(self, obj: None, owner: type | None = None) -> Task[P, R]: ...
    @overload
    def __get__(
        self: Task[Concatenate[S, Q], R], obj: S, owner: type | None = None
    ) -> BoundTask[Q, R]: ...
    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else BoundTask(self, obj)

    def __reduce__(self) -> Any:
        reference = _reference(self)
        if reference is None:
            return _rebuild, (self.fn, self.__unirun_options__, self._derived)
        if self._derived:
            return _derive, (*reference, self.__unirun_options__)
        return _find, reference

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.__unirun_options__.items())
        return f"<unirun.task {self.__module__}.{self.__qualname__}({options})>"


class BoundTask(Generic[P, R]):
    """A task as a method of an object."""

    def __init__(self, task: Task[..., R], obj: Any) -> None:
        functools.update_wrapper(self, task.fn)
        self.__self__ = obj
        self.__func__ = task
        self.__unirun_options__: dict[str, Any] = task.__unirun_options__

    @property
    def fn(self) -> Callable[..., R]:
        return self.__func__.fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__func__.fn(self.__self__, *args, **kwargs)

    @overload
    def submit(
        self: BoundTask[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `Task.submit`, with the object as first argument."""
        return self.__func__.submit(self.__self__, *args, **kwargs)

    def map(self, *iterables: Any, **options: Any) -> MapResult:
        """As `Task.map`, with the object as first argument of each call."""
        from unirun._executor import current_submitter

        return current_submitter().map(self, *iterables, **options)

    @overload
    def run(self: BoundTask[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def run(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """As `Task.run`, with the object as first argument."""
        return self.__func__.run(self.__self__, *args, **kwargs)

    def options(self, **options: Any) -> BoundTask[P, R]:
        """As `Task.options`."""
        return BoundTask(self.__func__.options(**options), self.__self__)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """As `Task.explain`."""
        return self.__func__.explain()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundTask):
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), id(self.__func__)))

    def __reduce__(self) -> Any:
        if self.__func__._derived:
            return BoundTask, (self.__func__, self.__self__)
        return getattr, (self.__self__, self.__name__)

    __name__: str

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"


class ClassTask(classmethod):  # type: ignore[type-arg]
    """A task as a class method; since Python 3.13 a plain `classmethod` binds no task."""

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        function: Any = self.__func__
        return BoundTask(function, type(obj) if owner is None else owner)

    def __reduce__(self) -> Any:
        return ClassTask, (self.__func__,)


if TYPE_CHECKING:

    class TaskOfClass(Task[Concatenate[C, Q], R], Generic[C, Q, R]):
        """A class method. A type checker has taken @classmethod off before it comes to @task; what
        it sees is a method whose first parameter is a class."""

        def __get__(  # type: ignore[override]
            self, obj: object, owner: type | None = None
        ) -> BoundTask[Q, R]: ...

    class Decorator(Protocol):
        """What `task` is once it has its options."""

        @overload
        def __call__(self, fn: Callable[Concatenate[C, Q], R], /) -> TaskOfClass[C, Q, R]: ...
        @overload
        def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(fn: Callable[Concatenate[C, Q], R], /) -> TaskOfClass[C, Q, R]: ...
@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Decorator: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Make a function a task: `@task` or `@task(kind="cpu", timeout=30)`.

    Works on functions, coroutine functions, methods, and on static and class methods in either
    order of the decorators; but from Python 3.13 on, @task has to stand above @classmethod.

    Args:
        kind: "cpu", "io", "native", "async", "isolated" or "auto"; a hint that can be overruled.
        backend: name of the backend it must run on.
        require: what that place must offer: "killable", "isolation", "sharedmem".
        options: any of `Executor.options`.

    Raises:
        UnknownOption, ConfigError: at once, where the mistake is written.
        TypeError: `fn` is not callable.
    """
    if fn is None:
        checked = _check(options)
        return lambda function: _make(function, checked)
    return _make(fn, {})


def _make(fn: Any, options: Mapping[str, Any]) -> Any:
    if isinstance(fn, classmethod):
        return ClassTask(_make(fn.__func__, options))
    if isinstance(fn, staticmethod):
        return type(fn)(_make(fn.__func__, options))
    if isinstance(fn, Task):
        return fn.options(**options) if options else fn
    if not callable(fn):
        raise TypeError(f"@task needs a function, not {fn!r}")
    return Task(fn, options)


def _check(options: Mapping[str, Any]) -> dict[str, Any]:
    if not options:
        return {}
    from unirun._config import check_options
    from unirun._hints import Hint, check_hint, required

    checked = check_options(options, "@task")
    hint = Hint(str(checked.get("kind", "auto")), checked.get("backend"), required(checked))
    check_hint(hint)
    return checked


def _check_bound(called: Task[..., Any]) -> None:
    """Refuse a task that a plain `classmethod` handed out without its class (Python 3.13)."""
    if sys.version_info < (3, 13) or "." not in called.__qualname__:
        return
    owner: Any = sys.modules.get(called.__module__)
    for part in called.__qualname__.split(".")[:-1]:
        owner = getattr(owner, part, None)
    method = getattr(owner, "__dict__", {}).get(called.__name__)
    if type(method) is classmethod and method.__func__ is called:
        name = called.__qualname__
        raise TypeError(f"class method {name} lost its class; write @task above @classmethod")


# -- pickling -------------------------------------------------------------------------------------


def _reference(wanted: Task[..., Any]) -> tuple[str, str] | None:
    """Where another process finds the task; None if it cannot."""
    from unirun._payload import importable  # here: decorating does not need it

    module, qualname = wanted.__module__, wanted.__qualname__
    if "<locals>" in qualname or module not in sys.modules or not importable(module):
        return None
    try:
        found = _find(module, qualname)
    except AttributeError:
        return None
    return (module, qualname) if getattr(found, "fn", None) is wanted.fn else None


def _find(module: str, qualname: str) -> Any:
    __import__(module)
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.__func__ if isinstance(found, BoundTask) else found


def _derive(module: str, qualname: str, options: dict[str, Any]) -> Task[..., Any]:
    return Task(_find(module, qualname).fn, options, derived=True)


def _rebuild(fn: Any, options: dict[str, Any], derived: bool) -> Task[..., Any]:
    return Task(fn, options, derived=derived)


Task.__module__ = "unirun"
