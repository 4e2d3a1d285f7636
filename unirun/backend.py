"""The contract a backend keeps; public, for authors of backends.

A backend runs calls.  It is made by the executor at first need, with one `WorkerSpec`; it gets
calls through `submit` and answers with `unirun.Future` objects whose life it drives:

1. `future._begin()` right before the body starts; if that returns False the call was cancelled
   and must not run.
2. Exactly one end: `future._succeed(value)`, `future._fail(exception)` or
   `future._killed(TaskKilled(...))`.  The first wins, later ones are ignored.
3. What it cannot do it refuses in `check`, before anything is queued.
4. It keeps no reference to the executor: an executor that is dropped is shut down.

`unirun.testing` is this contract in executable form.
"""

from __future__ import annotations

import contextvars
import threading
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum

from unirun import _context, _observe
from unirun._context import TaskContext, Token, running
from unirun._dump_records import CallReport, Report
from unirun._errors import NotKillable, TaskTimeout, UnsupportedByBackend
from unirun._future import Future
from unirun._heirs import Heirs
from unirun._hints import default_workers
from unirun._machine import cpu_count
from unirun._records import record
from unirun._stats import Stats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

__all__ = ["DEFAULT_OPTIONS", "Backend", "CallOptions", "Capability", "FlagToken", "Patience"]
__all__ += ["Stats", "WorkerSpec", "abandoned", "context_of", "default_threads", "describe"]
__all__ += ["end_of_body", "left_behind", "next_call_id", "not_callable", "overtime"]
__all__ += ["run_in_context", "run_to_end", "without_caller_frames"]


class Capability(StrEnum):
    """What a backend can do; `unirun info` lists them."""

    KILLABLE = "killable"
    """A running call can be killed, and a time-out kills it."""
    ISOLATION = "isolation"
    """A crash of one call harms no other."""
    SHAREDMEM = "sharedmem"
    """Arguments and results are passed as the very objects."""
    COOPERATIVE = "cooperative"
    """Calls run at the same time, so they may wait for one another."""
    PRIORITY = "priority"
    """`priority=` decides who runs next."""
    MEMORY = "memory"
    """`memory=` limits what a call may use."""
    RESOURCES = "resources"
    """`resources=` are understood."""


@record
class WorkerSpec:
    """How the workers of one executor are to be made. Times in seconds; None: its default."""

    max_workers: int | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    blas_threads: int | str | None = "auto"
    """Threads that numerical libraries may use in each worker; see `_library_threads`."""
    start_method: str | None = None
    max_tasks_per_child: int | None = None
    max_worker_rss: int | None = None
    """Bytes; a worker process that has more after a call is replaced before its next."""
    thread_name_prefix: str = ""
    preload: tuple[str, ...] = ()
    idle_timeout: float | None = 60.0
    grace: float = 3.0
    manager: str = "thread"
    """What hosts objects that processes share: a "thread" of this process, or a "process"."""
    output: str = "relay"
    """Where what worker processes print goes: "relay" to our streams, or "direct" to theirs."""
    logs: bool = True
    """What worker processes log and warn of is handled in this one."""
    name: str = "unirun"
    home: tuple[Any, ...] | None = None
    """What tasks in workers are to know of their executor, to submit to it; of plain values."""
    ship: tuple[str, ...] = ()
    settings: bytes | None = None
    """The resolved settings for workers that read them, pickled by `_config`."""
    options: Mapping[str, Any] = types.MappingProxyType({})
    """Options only this backend understands."""


class _Plain:
    __slots__ = ("plain",)
    plain: bool
    """No limit, priority, seed, capture, sites nor number: one look instead of one at each."""


@record
class CallOptions(_Plain):
    """What was asked for one call; None: no limit. `retries` and routing are settled before."""

    timeout: float | None = None
    """Seconds from the start of the body."""
    queue_timeout: float | None = None
    """Seconds from submit to the start of the body."""
    deadline: float | None = None
    """Absolute, on `time.monotonic()`; covers waiting and running."""
    priority: int = 0
    name: str | None = None
    memory: int | None = None
    """Bytes."""
    resources: Mapping[str, Any] | None = None
    kind: str = "auto"
    copied: bool | None = None
    """For an inline call: whether it would get copies elsewhere; None: unknown."""
    attempt: int = 1
    call: int | None = None
    """Its number, if it has one before it is submitted here: that of its first attempt. It is
    `current_task().id` of each attempt, so a backend stores it as the `number` of its future."""
    seed: int | None = None
    """What `current_task().seed` is; None: nothing."""
    seed_libraries: bool = False
    """Seed the generators of `random` and numpy with it before the body; see `check`."""
    context: bool = True
    """Context variables travel to another process."""
    settings: bytes | None = None
    """The `with config()` blocks it was submitted in, for a worker that reads them; only where the
    backend `carries_settings`."""
    capture: bool = False
    """What it prints is kept: `Future.output`."""
    sites: bool = False
    """`submit` notes where the program is: `_sites.note(future)`."""
    chosen: Any = None
    """How it came that the call goes where it goes (a `_choice.Chosen`), for `Future.info`."""

    def __post_init__(self) -> None:
        unusual = self.timeout, self.queue_timeout, self.deadline, self.memory, self.seed, self.call
        plain = unusual.count(None) == 6 and not (self.priority or self.capture or self.sites)
        object.__setattr__(self, "plain", plain)


DEFAULT_OPTIONS = CallOptions()
next_call_id: Callable[[], int] = _observe.next_number


def number_for(options: CallOptions) -> int:
    """The number of a call that is submitted now: a new one, unless it has one already."""
    return next_call_id() if options.call is None else options.call


class Backend(ABC):
    """Runs calls somewhere. Everything here may be called from any thread."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    option_names: ClassVar[tuple[str, ...]] = ()
    """Options of its own, as `Executor(backend=..., **options)`; see `WorkerSpec.options`."""
    carries_settings: ClassVar[bool] = False
    """Its calls run in other processes, which it tells of `CallOptions.settings`."""
    captures: ClassVar[bool] = False
    """What its calls print can be kept: in this process, or by a backend that `carries_settings`
    itself, as what is told under "output" (see `_output`)."""
    takes_references: ClassVar[bool] = False
    """References (`Executor.put`) reach it as they are, and its calls unpickle them."""
    stays_in_parent = False
    """This process was forked from the one where it works."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.tally: _observe.Tally = _observe.Tally()

    @property
    @abstractmethod
    def max_workers(self) -> int:
        """How many calls can run at once, at most."""

    @abstractmethod
    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Future[Any]:
        """Queue one call. A bad argument ends its own future; only `ExecutorShutdown` and a
        broken initializer are raised here."""

    @abstractmethod
    def shutdown(self, *, cancel_futures: bool = False, kill: bool = False) -> None:
        """Take no more calls and let the rest end; does not wait. May be called again, with more.

        `cancel_futures` cancels what waits; `kill` ends what runs, too.
        """

    @abstractmethod
    def join(self, timeout: float | None = None) -> bool:
        """After `shutdown`: wait until everything has ended; False if `timeout` passed first."""

    @abstractmethod
    def stats(self) -> Stats:
        """A snapshot of the counters."""

    def size_of(self, future: Future[Any]) -> int:
        """Bytes of the encoded arguments of a call just submitted; 0 where nothing is encoded."""
        return 0

    def running_calls(self) -> list[str]:
        """Names of the calls that run now; for messages."""
        return []

    def report(self) -> Report:
        """What `Executor.dump` tells of it; must not wait for more than a moment."""
        stats = self.stats()
        calls = [CallReport(None, name, state="running") for name in self.running_calls()]
        calls += [CallReport(None, "a call")] * stats.pending
        return Report(self.name, self.max_workers, calls, [])

    @abstractmethod
    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        """A new shared object, usable in calls; `kind` is its class: "Queue", "Event", ..."""

    def check(self, options: CallOptions) -> None:
        """Refuse what this backend cannot do, before anything is queued."""
        if options.priority and Capability.PRIORITY not in self.capabilities:
            self._refuse("order calls by priority", "drop priority= or use backend='process'")
        if options.memory is not None and Capability.MEMORY not in self.capabilities:
            self._refuse("limit the memory of a call", "drop memory=")
        if options.capture and not self.captures:
            self._refuse("keep what a call prints", "drop capture=, or redirect it in the task")
        if options.resources and Capability.RESOURCES not in self.capabilities:
            self._refuse("reserve resources", "drop resources=")
        if options.seed_libraries and Capability.SHAREDMEM in self.capabilities:
            self._refuse(
                "seed random and numpy for one call: other calls use them at the same time",
                "take current_task().random or .rng(), or use backend='process'",
            )

    def _refuse(self, feature: str, remedy: str) -> None:
        raise UnsupportedByBackend(self.name, feature, remedy)

    # -- one call; the future calls these ------------------------------------------------------

    @abstractmethod
    def kill(self, future: Future[Any], grace: float | None) -> None:
        """Begin to end a running call by force and return; raises NotKillable where impossible."""

    def withdraw(self, future: Future[Any]) -> None:
        """`future` was cancelled before it began: forget it."""
        return

    def request_stop(self, future: Future[Any]) -> None:
        """Tell a running call that it is not wanted any more (its cooperative token)."""
        return

    def help_with(self, future: Future[Any], until: float | None = None) -> bool:
        """Called by a thread about to wait for `future`, until then on `time.monotonic()`; True if
        it ended the future by helping."""
        return False

    def awaited(self, future: Future[Any]) -> None:
        """Code in a call waits for `future`, or will, where `help_with` is of no use: in an event
        loop, or by a function of `concurrent.futures`."""
        return

    def runner(self, future: Future[Any]) -> int | None:
        """The thread of this process that alone can end that future, by going on with its body."""
        return None

    def resize(self, max_workers: int) -> None:
        """Have so many workers from now on; what runs goes on. Refused where that cannot be."""
        self._refuse("change its number of workers", "make another executor")

    # -- all workers ----------------------------------------------------------------------------

    def terminate_workers(self) -> None:
        """End all workers politely; the calls they run end as killed, the backend goes on."""
        self._refuse("terminate workers", "use backend='process'")

    def kill_workers(self) -> None:
        """End all workers at once; the calls they run end as killed, the backend goes on."""
        self._refuse("kill workers", "use backend='process'")


def run_to_end(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `fn`, and if that made a coroutine run it to its end here.

    So that `async def` tasks run on every backend.
    """
    value = fn(*args, **kwargs)
    if type(value) is types.CoroutineType:
        return _run_coroutine(value)
    return value


def _run_coroutine(coroutine: types.CoroutineType[Any, Any, Any]) -> Any:
    import asyncio  # 60 ms to import; only who runs coroutines pays

    if asyncio._get_running_loop() is None:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    # Inline, in a thread that is inside a loop already: its own loop needs a thread of its own.
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()


class FlagToken(Token):
    """The cooperative token of a call that runs in this process.

    Most calls never look at theirs, so it costs no lock until somebody waits for it.
    """

    __slots__ = ("_event", "_heirs", "_is_set", "is_over")

    def __init__(self) -> None:
        self._is_set = False
        self._event: threading.Event | None = None
        self._heirs: Heirs | None = None
        self.is_over: bool = False  # its call has ended: what that has left behind goes on

    def set(self) -> None:
        """The call is to stop, and what it has submitted with it."""
        todo: list[Callable[[], object] | Token] = [self]
        while todo:  # no recursion: calls of calls go deep
            heir = todo.pop()
            if not isinstance(heir, FlagToken):
                assert not isinstance(heir, Token)
                heir()
                continue
            heir._is_set = True  # before the look at the rest: who makes them looks here after that
            if heir._event is not None:
                heir._event.set()
            if heir._heirs is not None:
                todo += heir._heirs.living()

    def retire(self) -> None:
        self.is_over = True

    def also(self, heir: Callable[[], object] | Token) -> None:
        with _making_event:
            if self._heirs is None:
                self._heirs = Heirs()
        self._heirs.add(heir)
        if self._is_set:
            self.set()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> None:
        with _making_event:
            if self._event is None:
                self._event = threading.Event()
        if not self._is_set:
            self._event.wait(seconds)


_making_event = threading.Lock()  # one event for each token, however many threads wait


def context_of(
    backend: str,
    name: str,
    options: CallOptions,
    token: Token,
    worker: str = "",
    number: int = 0,
    context: contextvars.Context | None = None,
) -> TaskContext:
    """What a call that begins now, in this thread, can know about itself; its `number`, where it
    has one.

    `context` is what it was submitted in; None: this one.
    """
    return TaskContext(
        name,
        number or next_call_id(),
        kind=options.kind,
        backend=backend,
        worker=worker or threading.current_thread().name,
        token=token,
        attempt=options.attempt,
        deadline=end_of_body(options),
        seed=options.seed,
        above=running.get() if context is None else context.get(running, None),
    )


def run_in_context(
    context: TaskContext, fn: Any, args: Any, kwargs: Any
) -> tuple[Any, BaseException | None]:
    """The outcome of a body: (value, None) or (None, exception)."""
    if not callable(fn):
        return None, not_callable(fn)
    running.set(context)
    try:
        return run_to_end(fn, args, kwargs), None
    except BaseException as exc:  # noqa: BLE001  # whatever a task raises is its outcome
        return None, without_caller_frames(exc, 2)
    finally:
        context.ended()
        if _context.at_task_end is not None:
            _context.at_task_end(context)


def overtime(name: str, options: CallOptions) -> str:
    """How a call exceeded its time, for messages."""
    limit = options.timeout
    return (
        f"{name} ran past its deadline" if limit is None else f"{name} ran longer than {limit:g} s"
    )


def abandoned(name: str, options: CallOptions) -> TaskTimeout:
    """The outcome of a call that ran too long in a thread, where it goes on unobserved."""
    text = f"{overtime(name, options)}; its thread cannot be killed and was abandoned"
    return TaskTimeout(text, abandoned=True)


class Patience:
    """How long a shutdown that kills waits for what it cannot end; then that is left behind.

    It may be a done-callback, an initializer, or an event loop.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def begin(self) -> None:
        """The kill is ordered now; later ones count no more."""
        if self._until is None:
            self._until = time.monotonic() + self._seconds

    @property
    def is_over(self) -> bool:
        """Whether that long has passed since the kill was ordered."""
        return self._until is not None and time.monotonic() >= self._until

    def within(self, timeout: float | None) -> float | None:
        """Seconds to wait, where somebody wants to wait for `timeout`."""
        if self._until is None:
            return timeout
        left = max(0.0, self._until - time.monotonic())
        return left if timeout is None else min(timeout, left)


def left_behind(backend: str, name: str) -> NotKillable:
    """The outcome of a call that ran on in this process when it was to be ended by force."""
    return NotKillable(
        backend,
        f"end {name}, which was left behind and runs on",
        "use kind='isolated' or backend='process', or let the task look at "
        "unirun.current_task().cancelled",
    )


def end_of_body(options: CallOptions) -> float | None:
    """When a body that starts now must have ended, on `time.monotonic()`; None: no limit."""
    if options.timeout is None:
        return options.deadline
    end = time.monotonic() + options.timeout
    return end if options.deadline is None else min(end, options.deadline)


def without_caller_frames(exc: BaseException, count: int) -> BaseException:
    """`exc` without the outermost `count` frames: how we called the task helps nobody."""
    tb = exc.__traceback__
    for _ in range(count):
        if tb is not None and tb.tb_next is not None:
            tb = tb.tb_next
    return exc.with_traceback(tb)


def default_threads() -> int:
    """How many threads a backend takes by default: they mostly wait, so more than cores."""
    threads = default_workers("thread", "io", cpu_count())
    assert threads is not None
    return threads


def describe(fn: Any) -> str:
    """How a function is called in messages."""
    module = getattr(fn, "__module__", None) or type(fn).__module__
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return f"{module}.{name}"


def not_callable(fn: Any) -> TypeError:
    """The outcome of a call whose function is none."""
    return TypeError(f"{fn!r} is not callable; submit(fn, *args) takes the function first")
