"""Activity: a thread or process of its own, for what runs as long as the program does.

    Activity ── start ──▶ executor: kind, settings ──▶ backend's name
                              │
                              ├─ shares our memory ──▶ a `threading.Thread`
                              └─ does not ───────────▶ a backend of its own with one worker

No slot of a pool is taken.
"""

from __future__ import annotations

import itertools
from functools import partial

from unirun import _config, _registry
from unirun._bodies import Body, Elsewhere, ProcessBody, ThreadBody, passing
from unirun._errors import ConfigError, ExecutorShutdown
from unirun._lasting import Lasting, drop, keep
from unirun._prompt import in_slices
from unirun._records import replace
from unirun._settings import CALL_KEYS
from unirun.backend import run_to_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = ["Activity", "kill_all"]

_NOT_PICKLED = ("_body", "_started", "_submitter")
_ONLY_CALLS = frozenset(CALL_KEYS) - {"killable"}  # options that an activity cannot have


class Activity(Lasting):
    """A dedicated long-running thread or process, with the interface of `threading.Thread`.

    Give it a `target`, or override `run()` in a subclass. Its kind decides what it is, by the same
    rules and settings as for calls: "cpu" and "isolated" make a process, "io", "native" and "auto"
    a thread, unless `backend=`, `require=` or a setting says otherwise. A subclass may have its
    kind as a class attribute. What goes to a process is pickled by `start()`; a subclass with all
    its attributes. Shared objects may be among them, everywhere. It has the context variables of
    whoever calls `start()`; a process those that can be pickled.

    A process is none of its executor's workers; it comes with a thread here, and as a rule with a
    small process that looks after it. `Executor.shutdown()` neither waits for it nor
    ends it, but `shutdown(kill=True)`, and leaving `with` by an exception, kill it. A thread cannot
    be killed and goes on. At exit the interpreter waits for activities that are no daemons;
    daemons end with it. An activity that a task starts ends, at the latest, with the process that
    the task ran in. An uncaught exception is printed, as for a thread or process of the standard
    library.

    Args:
        target: what to call, with the positional arguments `args` and the keywords `kwargs`.
        name: for people; by default one with a number.
        kind: as for tasks; None: the class's, the target's, or that of its executor.
        daemon: None: that of the thread that makes it; in a task, False.

    Raises:
        RuntimeError: started twice; joined before it was started, or from inside.
    """

    _what = "an activity"
    _counter = itertools.count(1)

    kind: str | None = None
    _target: Callable[..., object] | None = None
    _args: tuple[Any, ...] = ()
    _kwargs: Mapping[str, Any] = {}
    _body: Body | None = None

    def __init__(
        self,
        target: Callable[..., object] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        kind: str | None = None,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(name, daemon)
        self._target = target
        self._args = tuple(args)
        self._kwargs = {} if kwargs is None else dict(kwargs)
        if kind is not None:
            self.kind = kind

    # -- as threading.Thread ----------------------------------------------------------------------

    def run(self) -> None:
        """What the activity does: calls the target. Override it in a subclass."""
        if self._target is not None:
            run_to_end(self._target, self._args, dict(self._kwargs))

    def start(self) -> None:
        """Begin to run; once.

        Raises:
            RuntimeError: it was started before; ExecutorShutdown if its executor was shut down.
            SerializationError: a process would have to get what cannot be pickled.
            UnsupportedByBackend: no backend can be what was required.
        """
        self._claim_start()
        running: dict[int, Activity] = {}
        try:
            submitter = self._find_submitter()
            self._body = body = self._make_body(submitter)
            running = submitter._owner._activities
            body.on_end = lambda: self._ended(running)
            running[id(self)] = self
            keep(self)
            body.start()
            if submitter._owner._killed:  # meanwhile, perhaps before it was known there
                body.end_now()
        except BaseException:
            self._leave(running)
            self._body, self._started = None, False
            raise

    def _ended(self, running: dict[int, Activity]) -> None:
        self._leave(running)
        self._target, self._args, self._kwargs = None, (), {}  # as `threading` does

    def _leave(self, running: dict[int, Activity]) -> None:
        drop(self)
        running.pop(id(self), None)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most `timeout` seconds; then look at `is_alive()`."""
        body = self._body
        self._check_joinable(inside=body is not None and body.is_here())
        if body is not None:
            in_slices(partial(_ended_within, body), timeout)

    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._body is not None and self._body.is_alive()

    @property
    def ident(self) -> int | None:
        """The number of its thread or process; None before it was started."""
        return None if self._body is None else self._body.ident()

    @property
    def pid(self) -> int | None:
        """The number of its process; None for a thread, and before it was started.

        Waits a moment for a process that has only just been started.
        """
        return None if self._body is None else self._body.pid()

    # -- more -------------------------------------------------------------------------------------

    @property
    def exitcode(self) -> int | None:
        """How its process ended, as in `multiprocessing`; None for a thread, and while it runs.

        0: it returned; 1: it raised, and the traceback was printed; that of `sys.exit()`; negative:
        the signal that ended it.
        """
        return None if self._body is None else self._body.exitcode()

    @property
    def exception(self) -> BaseException | None:
        """What ended it: its own exception, TaskKilled, WorkerCrashed; None if it returned.

        None while it runs, too, and after a `SystemExit`.
        """
        return None if self._body is None else self._body.exception()

    def kill(self, grace: float = 0.0) -> bool:
        """End its process and all that this has started; returns once they are dead.

        Args:
            grace: seconds between SIGTERM and SIGKILL; 0: SIGKILL at once.

        Returns:
            True if that ended it, False if it had ended by itself.

        Raises:
            NotKillable: it is a thread.
            RuntimeError: it was not started.
        """
        if self._body is None:
            raise RuntimeError("cannot kill an activity before it is started; call start()")
        return self._body.kill(grace)

    def _renamed(self) -> None:
        if self._body is not None:
            self._body.rename(self._name)

    def _end_now(self) -> None:
        if self._body is not None:
            self._body.end_now()

    def _see_it_end(self, until: float | None = None) -> None:
        if self._body is not None:
            self._body.see_it_end(until)

    def _stayed_in_parent(self) -> None:
        self._body = Elsewhere()

    def __getstate__(self) -> Any:
        if getattr(passing, "activity", None) is not self:
            raise TypeError(
                f"activity {self._name} cannot be pickled; what shall reach it is passed in args, "
                "or by a Queue or an Event"
            )
        state: Any = super().__getstate__()
        slots = state[1] if isinstance(state, tuple) else None
        state = state[0] if isinstance(state, tuple) else state
        state = {name: value for name, value in state.items() if name not in _NOT_PICKLED}
        return (state, slots) if slots else state

    # -- how it comes to life ---------------------------------------------------------------------

    def _make_body(self, submitter: Any) -> Body:
        executor, given = submitter._owner, submitter._given
        if executor._closed:
            raise ExecutorShutdown("cannot start an activity after the shutdown of its executor")
        for option in _ONLY_CALLS & set(given):
            raise ConfigError(f"options({option}=...) are for calls, not for an activity; drop it")
        if given.limit is not None:
            raise ConfigError("options(limit=...) are for calls, not for an activity; drop it")
        own, of_class = vars(self).get("kind"), type(self).kind
        if own is not None:
            given = {**given, **_config.check_options({"kind": own}, "Activity()")}
        subject: Any = self._target if type(self).run is Activity.run else type(self).run
        if of_class is not None:
            hint = _config.check_options({"kind": of_class}, f"{type(self).__qualname__}.kind")
            subject = _Hinted(subject, hint)
        _, decision = executor._chooser.decide(subject, given)
        made = _registry.load(decision.backend)
        spec = executor._spec(decision.backend)
        if not made.capabilities & {"killable", "isolation"}:
            return ThreadBody(self, spec)
        limits = {"max_workers": 1, "max_tasks_per_child": None, "max_worker_rss": None}
        return ProcessBody(self, made(replace(spec, name=self._name, **limits)))


class _Hinted:
    """A function with the kind of its class, as `_choice` looks at a task."""

    def __init__(self, fn: Any, hint: Mapping[str, Any]) -> None:
        self.fn = fn
        self.__module__ = getattr(fn, "__module__", "")
        self.__qualname__ = getattr(fn, "__qualname__", "")
        self.__unirun_options__ = {**hint, **getattr(fn, "__unirun_options__", {})}


Activity.__module__ = "unirun"


def _ended_within(body: Body, seconds: float | None) -> bool:
    body.join(seconds)
    return not body.is_alive()


def kill_all(activities: Iterable[Activity], wait: bool, until: float | None = None) -> None:
    """Those that can be killed, at that moment: their executor is shut down by force."""
    items = list(activities)
    for each in items if until is not None else ():
        each._see_it_end(until)
    for each in items:
        each._end_now()
    if wait:
        for each in items:
            each._see_it_end()
