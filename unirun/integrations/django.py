"""Tasks of Django 6 on unirun: background work in workers of the process that enqueues it.

    TASKS = {"default": {"BACKEND": "unirun.integrations.django.UnirunBackend",
                         "OPTIONS": {"executor": {"max_workers": 4}, "call": {"timeout": 300}}}}

    enqueue ──> entry of the book ──> executor ──> run_task, in a worker with Django set up
                   ▲                     │
                   └── teller: status, signals, one after the other

1. There is one executor and one book of results for each alias in a process, whichever thread asks.
2. Signals are sent in the process that enqueued, in one thread: first that a task was enqueued (by
   `enqueue` itself), then that it has started, then that it has finished, however it did.
3. What has not ended when the process does is gone: there is no `run_after`, which promises more.

`OPTIONS`: "executor", arguments of `unirun.Executor` (kind="isolated" unless said otherwise);
"call", options of `Executor.options`; "keep", how many results are remembered after their end
(1000); "cache", the alias of a cache in which results are kept besides, for other processes.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from traceback import format_exception
from typing import Any

import django
from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core import checks
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.json import normalize_json

from unirun import _context
from unirun._executor import Executor, current_executor

__all__ = ["UnirunBackend"]

_KEPT = 1000
_SECONDS_IN_CACHE = 24 * 3600


class UnirunBackend(BaseTaskBackend):  # type: ignore[misc]
    """Runs tasks in workers of the process that enqueues them; see the module for `OPTIONS`."""

    supports_async_task = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        # Of results from any process, as Django means it; of its own, each process has them.
        self.supports_get_result = "cache" in self.options

    @property
    def executor(self) -> Executor:
        """The executor of this alias in this process: for `stats()`, `dump()`, `on()`."""
        return self._office.executor

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Have a worker run the task; returns its result, READY.

        Raises:
            InvalidTask: the task asks for what this backend has not, as `run_after`.
            TypeError: an argument is not JSON.
            ImproperlyConfigured: `OPTIONS` are wrong; `manage.py check` says so, too.
            ExecutorShutdown, QueueFull: it cannot be taken now.
        """
        self.validate_task(task)
        return self._office.enqueue(type(self), task, args, kwargs)

    def get_result(self, result_id: str) -> Any:
        """The result as it is now: of a task that this process enqueued, or one in the cache.

        Raises:
            TaskResultDoesNotExist: nobody here knows it, or not any more.
        """
        return self._office.result(result_id)

    def wait(self, result_id: str, timeout: float | None = None) -> Any:
        """The result of a task of this process once it has finished and everybody was told.

        Raises:
            TimeoutError: it has not within `timeout` seconds.
            TaskResultDoesNotExist: no task of this process has that result.
        """
        entry = self._office.entry(result_id)
        if not entry.told.wait(timeout):
            raise TimeoutError(f"task {result_id} has not finished within {timeout} s")
        return self._office.result(result_id)

    def kill(self, result_id: str) -> bool:
        """End a task of this process, even if it runs; False if it had ended.

        Raises:
            NotKillable: it runs in a thread.
            TaskResultDoesNotExist: no task of this process has that result.
        """
        killed: bool = self._office.entry(result_id).future.kill()
        return killed

    def check(self, **kwargs: Any) -> list[Any]:
        """What is wrong with `OPTIONS`, for `manage.py check`."""
        try:
            _Office(self.alias, self.options).close()
        except ImproperlyConfigured as exc:
            return [checks.Error(str(exc), obj=f"TASKS[{self.alias!r}]", id="unirun.E001")]
        return []

    @property
    def _office(self) -> _Office:
        return _office_of(self.alias, self.options)


@dataclasses.dataclass(eq=False)
class _Entry:
    """A task that was enqueued here, and who is to be told of it."""

    sender: Any
    result: Any  # changed and copied with the office's lock held
    future: Any = None
    # Guarded by the office's lock: what is to be told, in order. Whoever adds while nobody tells
    # does it all; that is `enqueue` at first.
    line: deque[Callable[[], None]] = dataclasses.field(default_factory=deque)
    telling: bool = True
    told: threading.Event = dataclasses.field(default_factory=threading.Event)


class _Office:
    """The executor and the book of one alias: rule 1."""

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        self.alias = alias
        self.options = options
        if unknown := set(options) - {"executor", "call", "keep", "cache"}:
            raise ImproperlyConfigured(
                f"unknown OPTIONS {sorted(unknown)} of a task backend; there are 'executor', "
                "'call', 'keep' and 'cache'"
            )
        self._keep = options.get("keep", _KEPT)
        if not isinstance(self._keep, int) or self._keep < 0:
            raise ImproperlyConfigured(f"OPTIONS['keep'] is a number of results: {self._keep!r}")
        if options.get("cache", "default") not in settings.CACHES:
            raise ImproperlyConfigured(
                f"OPTIONS['cache'] names no cache: {options['cache']!r}; add it to CACHES"
            )
        # Guards _book and the entries in it.
        self._lock = threading.Lock()
        self._book: OrderedDict[str, _Entry] = OrderedDict()  # oldest first
        self._names: dict[str, _Entry] = {}  # of calls that have not ended
        self._is_home = _context.home is None  # else this is a worker, and the pool is elsewhere
        self.executor = self._make_executor() if self._is_home else current_executor()

    def _make_executor(self) -> Executor:
        given: dict[str, Any] = {"kind": "isolated", "name": f"unirun-tasks-{self.alias}"}
        given |= self.options.get("executor", {})
        module = settings.SETTINGS_MODULE or os.environ.get(ENVIRONMENT_VARIABLE)
        if "initializer" not in given:
            given |= {"initializer": _set_up, "initargs": (module,)}
        try:
            executor = Executor(**given)
        except (TypeError, ValueError) as exc:
            raise ImproperlyConfigured(f"OPTIONS['executor']: {exc}") from exc
        try:
            place = executor.options(**self.options.get("call", {})).explain(run_task).backend
        except (TypeError, ValueError, RuntimeError) as exc:
            executor.shutdown()
            raise ImproperlyConfigured(f"OPTIONS['call']: {exc}") from exc
        if module is None and place not in ("thread", "inline"):
            executor.shutdown()
            raise ImproperlyConfigured(
                "worker processes find no settings that were made by settings.configure(); set "
                "DJANGO_SETTINGS_MODULE, or OPTIONS['executor'] = {'backend': 'thread'}"
            )
        itself = weakref.ref(self)  # else the thread that calls would keep a closed office alive
        executor.on("started", lambda event: _started(itself(), event))
        return executor

    def close(self) -> None:
        """Take no more; what was enqueued is finished."""
        if self._is_home:
            self.executor.shutdown(wait=False)

    # -- enqueueing ---------------------------------------------------------------------------

    def enqueue(self, sender: Any, task: Any, args: Any, kwargs: Any) -> Any:
        result = TaskResult(
            task=task,
            id=get_random_string(32),
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        entry = _Entry(sender, result)
        name = f"{task.module_path} {result.id}"
        with self._lock:
            self._book[result.id] = self._names[name] = entry
        try:
            entry.future = self._submit(name, result)
        except BaseException:
            with self._lock:
                del self._book[result.id], self._names[name]
            raise
        entry.future.add_done_callback(partial(self._ended, name, entry))
        enqueued = self._kept(entry, _copy(result))
        try:
            task_enqueued.send(sender, task_result=enqueued)
        finally:
            self._tell(entry)
        return enqueued

    def _submit(self, name: str, result: Any) -> Any:
        # No context variables: those of a request mean nothing to a task, as with other backends.
        given = {"context": False, **self.options.get("call", {})}
        given |= {"name": name, "priority": result.task.priority}
        facts = result.task, result.id, result.args, result.kwargs, result.enqueued_at
        return self.executor.options(**given).submit(run_task, *facts)

    # -- what becomes of it: threads of the executor -------------------------------------------

    def started(self, event: Any) -> None:
        with self._lock:
            entry = self._names.get(event.task)
        if entry is not None:
            self._tell(entry, partial(self._tell_started, entry, event.worker or "", event.attempt))

    def _ended(self, name: str, entry: _Entry, future: Any) -> None:
        with self._lock:
            self._names.pop(name, None)
        self._tell(entry, partial(self._tell_finished, entry, future))

    def _tell(self, entry: _Entry, what: Callable[[], None] | None = None) -> None:
        """One after the other, in whichever thread: rule 2. Without `what`: begin with it."""
        with self._lock:
            if what is not None:
                entry.line.append(what)
                if entry.telling:
                    return
            entry.telling = True
        while True:
            with self._lock:
                if not entry.line:
                    entry.telling = False
                    return
                what = entry.line.popleft()
            close_old_connections()  # of this thread, for what receivers of signals may ask
            try:
                what()
            finally:
                close_old_connections()

    def _tell_started(self, entry: _Entry, worker: str, attempt: int | None) -> None:
        now, result = timezone.now(), entry.result
        with self._lock:
            if result.is_finished or len(result.worker_ids) >= (attempt or 1):
                return
            is_first = result.started_at is None
            changes = {"status": TaskResultStatus.RUNNING, "last_attempted_at": now}
            _change(result, **changes, started_at=result.started_at or now)
            result.worker_ids.append(worker)
            copy = _copy(result)
        self._kept(entry, copy)
        if is_first:
            task_started.send_robust(entry.sender, task_result=copy)

    def _tell_finished(self, entry: _Entry, future: Any) -> None:
        info = future.info
        if info.started_at is not None and entry.result.started_at is None:
            self._tell_started(entry, info.worker or "", info.attempt)
        error = _error_of(future)
        with self._lock:
            if error is None:
                outcome = TaskResultStatus.SUCCESSFUL
                _change(entry.result, _return_value=future.result())
            else:
                outcome = TaskResultStatus.FAILED
                path = f"{type(error).__module__}.{type(error).__qualname__}"
                text = "".join(format_exception(error))
                entry.result.errors.append(TaskError(exception_class_path=path, traceback=text))
            _change(entry.result, status=outcome, finished_at=timezone.now())
            copy = _copy(entry.result)
        self._kept(entry, copy)
        try:
            task_finished.send_robust(entry.sender, task_result=copy)
        finally:
            entry.told.set()
            self._forget_oldest()

    # -- the book -----------------------------------------------------------------------------

    def _kept(self, entry: _Entry, copy: Any) -> Any:
        if "cache" in self.options:
            caches[self.options["cache"]].set(_in_cache(copy.id), copy, _SECONDS_IN_CACHE)
        return copy

    def _forget_oldest(self) -> None:
        with self._lock:
            done = [name for name, entry in self._book.items() if entry.told.is_set()]
            for name in done[: max(0, len(done) - self._keep)]:
                del self._book[name]

    def entry(self, result_id: str) -> _Entry:
        with self._lock:
            entry = self._book.get(result_id)
        if entry is None or entry.future is None:
            raise TaskResultDoesNotExist(result_id)
        return entry

    def result(self, result_id: str) -> Any:
        with self._lock:
            entry = self._book.get(result_id)
            if entry is not None:
                return _copy(entry.result)
        found = None
        if "cache" in self.options:
            found = caches[self.options["cache"]].get(_in_cache(result_id))
        if found is None:
            raise TaskResultDoesNotExist(result_id)
        return found


def _started(office: _Office | None, event: Any) -> None:
    if office is not None:
        office.started(event)


# Rule 1: Django makes a backend for each thread that asks, and these share an office.
# The lock guards the table.
_offices_lock = threading.Lock()
_offices: dict[str, _Office] = {}


def _office_of(alias: str, options: dict[str, Any]) -> _Office:
    with _offices_lock:
        office = _offices.get(alias)
        if office is None or office.options != options:  # changed settings, in a test say
            if office is not None:
                office.close()
            office = _offices[alias] = _Office(alias, options)
        return office


def _forget_in_forked_child() -> None:
    """Executors stay in the parent, and so does who might hold a lock."""
    global _offices_lock
    _offices_lock = threading.Lock()
    _offices.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)


# -- in a worker ----------------------------------------------------------------------------------


def _set_up(module: str | None) -> None:
    """The initializer."""
    if not apps.ready:
        if module is not None:
            os.environ.setdefault(ENVIRONMENT_VARIABLE, module)
        django.setup()


def run_task(task: Task, result_id: str, args: Any, kwargs: Any, enqueued_at: Any) -> Any:
    """The body of a call: the task as Django runs it."""
    close_old_connections()
    try:
        if task.takes_context:
            seen = _seen_inside(task, result_id, args, kwargs, enqueued_at)
            args = [TaskContext(task_result=seen), *args]
        return normalize_json(task.call(*args, **kwargs))
    finally:
        close_old_connections()


def _seen_inside(task: Task, result_id: str, args: Any, kwargs: Any, enqueued_at: Any) -> Any:
    call = _context.current_task()
    attempt, worker = (1, "") if call is None else (call.attempt, call.worker)
    now = timezone.now()
    return TaskResult(
        task=task,
        id=result_id,
        status=TaskResultStatus.RUNNING,
        enqueued_at=enqueued_at,
        started_at=now,
        last_attempted_at=now,
        finished_at=None,
        args=args,
        kwargs=kwargs,
        backend=task.backend,
        errors=[],
        worker_ids=[worker] * attempt,
    )


# -- pieces ---------------------------------------------------------------------------------------


def _error_of(future: Any) -> BaseException | None:
    try:
        error: BaseException | None = future.exception()
    except BaseException as exc:  # it was cancelled or killed  # noqa: BLE001
        return exc
    return error


def _change(result: Any, **changes: Any) -> None:
    for name, value in changes.items():
        object.__setattr__(result, name, value)  # results are frozen for users


def _copy(result: Any) -> Any:
    lists = {"errors": list(result.errors), "worker_ids": list(result.worker_ids)}
    copy = dataclasses.replace(result, **lists)
    _change(copy, _return_value=result._return_value)
    return copy


def _in_cache(result_id: str) -> str:
    return f"unirun-task:{result_id}"
