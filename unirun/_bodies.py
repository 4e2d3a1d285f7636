"""What an activity is once it was started: a thread, or a backend of its own with one worker.

The process of an activity is what the backend for processes makes of it, so it is killed with its
children, ends with its parent, and is handed shared objects like any task.  Its only call is the
activity, and it ends after that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod

from unirun import _context
from unirun._errors import NotKillable, SerializationError, TaskKilled
from unirun.backend import CallOptions, run_to_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from unirun._activity import Activity
    from unirun._future import Future
    from unirun.backend import Backend, WorkerSpec

__all__ = ["Body", "Elsewhere", "ProcessBody", "ThreadBody", "passing"]

SIGKILL = 9
PATIENCE = 5.0  # seconds that the exit of the interpreter waits for a process that was killed

passing = threading.local()  # .activity: the one that this thread is about to hand to a process


class Body(ABC):
    """What an activity that was started is."""

    on_end: Callable[[], None]

    def start(self) -> None:
        raise RuntimeError("an activity can only be started once; make another")

    @abstractmethod
    def is_here(self) -> bool:
        """Whether this code is run by it."""

    @abstractmethod
    def is_alive(self) -> bool: ...
    @abstractmethod
    def join(self, timeout: float | None) -> None: ...
    @abstractmethod
    def ident(self) -> int | None: ...
    @abstractmethod
    def kill(self, grace: float) -> bool: ...

    def end_now(self) -> None:
        """Begin to end it, where that is possible."""
        return

    def see_it_end(self, until: float | None) -> None:
        """Wait for its end until then, by default as long as that takes, where it can be ended."""
        return

    def exception(self) -> BaseException | None:
        return None

    def pid(self) -> int | None:
        return None

    def exitcode(self) -> int | None:
        return None

    def rename(self, name: str) -> None:
        return


# -- a thread -------------------------------------------------------------------------------------


class ThreadBody(Body):
    def __init__(self, activity: Activity, spec: WorkerSpec) -> None:
        self._activity = activity
        self._setup = (spec.initializer, spec.initargs)
        self._exception: BaseException | None = None
        run = _context.apart().run
        self._thread = threading.Thread(
            target=run, args=(self._work,), name=activity.name, daemon=activity.daemon
        )

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        try:
            initializer, initargs = self._setup
            if initializer is not None:
                initializer(*initargs)
            run_to_end(self._activity.run, (), {})
        except SystemExit:
            raise  # which `threading` takes for a quiet end
        except BaseException as exc:
            self._exception = exc
            raise  # `threading` reports it
        finally:
            self.on_end()

    def is_here(self) -> bool:
        return threading.current_thread() is self._thread

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float | None) -> None:
        self._thread.join(timeout)

    def ident(self) -> int | None:
        return self._thread.ident

    def exception(self) -> BaseException | None:
        return None if self._thread.is_alive() else self._exception

    def rename(self, name: str) -> None:
        self._thread.name = name

    def kill(self, grace: float) -> bool:
        if not self._thread.is_alive():
            return False
        raise NotKillable(
            "thread",
            f"kill activity {self._activity.name}, which is a thread",
            "use kind='isolated', or give it an Event to look at",
        )


# -- a process ------------------------------------------------------------------------------------


class ProcessBody(Body):
    def __init__(self, activity: Activity, backend: Backend) -> None:
        self._activity: Activity | None = activity  # until it is submitted
        self._name = activity.name
        self._backend = backend  # ours to shut down, right after its one call was submitted
        self._future: Future[Any] | None = None
        self._pid: int | None = None
        self._begun = threading.Event()  # the process runs, and the pid is known; or it never will

    def start(self) -> None:
        activity, self._activity = self._activity, None
        assert activity is not None
        passing.activity = activity
        try:
            self._future = future = self._submit(activity)
        finally:
            del passing.activity
            self._backend.shutdown()  # lets it end by itself
        error = future.exception() if future.done() and not future.cancelled() else None
        if type(error) is SerializationError:  # where it arrives, it is a subclass of that
            self._backend.join()
            raise error
        future.add_done_callback(self._ended)

    def _submit(self, activity: Activity) -> Future[Any]:
        backend: Any = self._backend
        options = CallOptions(name=self._name, kind=str(activity.kind or "auto"))
        call: Any = _live, (activity, self._name), {}, options
        if not hasattr(backend, "submit_with_parts"):
            self._begun.set()
            return backend.submit(*call)  # type: ignore[no-any-return]
        return backend.submit_with_parts(*call, self._hear)  # type: ignore[no-any-return]

    def _hear(self, part: bytes, _: Any) -> None:
        """By the backend's loop: the first thing the process says is who it is."""
        self._pid = int(part)
        self._begun.set()

    def _ended(self, future: Future[Any]) -> None:
        if not self._begun.is_set() and not future.cancelled():
            error = future.exception()
            if error is not None:  # else the process itself has said so
                _print(self._name, error)
        self._begun.set()
        self.on_end()

    def is_here(self) -> bool:
        return False

    def is_alive(self) -> bool:
        future = self._future
        return future is None or not (future.done() and self._backend.join(0))

    def join(self, timeout: float | None) -> None:
        self._backend.join(None if timeout is None else max(0.0, timeout))

    def ident(self) -> int | None:
        return self._pid

    def pid(self) -> int | None:
        self._begun.wait()
        return self._pid

    def exception(self) -> BaseException | None:
        future = self._future
        if future is None or self.is_alive():
            return None
        if not future.cancelled():
            return future.exception()
        return future._exception or TaskKilled(f"{self._name} was killed before it began")

    def exitcode(self) -> int | None:
        if self.is_alive():
            return None
        error = self.exception()
        if error is None:
            assert self._future is not None
            return int(self._future.result())
        otherwise = -SIGKILL if isinstance(error, TaskKilled) else 1
        status = getattr(error, "exitcode", None)  # of a TaskKilled or a WorkerCrashed
        return status if isinstance(status, int) else otherwise

    def kill(self, grace: float) -> bool:
        assert self._future is not None
        killed = self._future.kill(grace)
        if not killed:
            self.end_now()  # it may be on its way out, held up by a thread of its own
        self._backend.join()
        return killed

    def end_now(self) -> None:
        self._backend.shutdown(cancel_futures=True, kill=True)

    def see_it_end(self, until: float | None) -> None:
        patience = self._backend.spec.grace + PATIENCE
        self._backend.join(patience if until is None else max(0.0, until - time.monotonic()))


class Elsewhere(Body):
    """Of a fork of the process that has started it: the activity is none of ours."""

    def is_here(self) -> bool:
        return False

    def is_alive(self) -> bool:
        return False

    def join(self, timeout: float | None) -> None:
        raise RuntimeError("cannot join an activity of another process; join it where it was made")

    def ident(self) -> int | None:
        return None

    def kill(self, grace: float) -> bool:
        raise RuntimeError("cannot kill an activity of another process; kill it where it was made")


# -- in the process -------------------------------------------------------------------------------


class Inside(Body):
    """What the copy of the activity that runs knows about itself."""

    def is_here(self) -> bool:
        return True

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None) -> None:
        return  # `Activity.join` refuses

    def ident(self) -> int | None:
        return os.getpid()

    def pid(self) -> int | None:
        return os.getpid()

    def kill(self, grace: float) -> bool:
        os.kill(os.getpid(), SIGKILL)
        return True


def _live(activity: Activity, name: str) -> int:
    """The whole life of the process; returns its exit code."""
    context = _context.current_task()
    if context is not None and callable(context.emit):
        context.emit(str(os.getpid()).encode())
    _context.running.set(None)  # it is no task: no deadline, and no name but its own
    activity._name, activity._started, activity._body = name, True, Inside()
    try:
        return _run_in_process(activity)
    finally:
        if threading.current_thread() is threading.main_thread():
            # As at the end of any program, and without the haste in which a worker has to leave:
            # wait for its threads, its activities, and the calls it has submitted.
            threading._shutdown()  # type: ignore[attr-defined]


def _run_in_process(activity: Activity) -> int:
    try:
        run_to_end(activity.run, (), {})
    except SystemExit as exc:
        if exc.code is None or isinstance(exc.code, int):
            return int(exc.code or 0)
        sys.stderr.write(f"{exc.code}\n")
        return 1
    except BaseException as exc:
        _print(activity.name, exc)
        raise
    return 0


def _print(name: str, error: BaseException) -> None:
    import traceback

    if sys.stderr is not None:
        lines = traceback.format_exception(type(error), error, _without_ours(error.__traceback__))
        sys.stderr.write(f"Exception in activity {name}:\n{''.join(lines)}")
        sys.stderr.flush()


def _without_ours(tb: TracebackType | None) -> TracebackType | None:
    """Without how we called it, which helps nobody."""
    while tb is not None and tb.tb_next is not None and _is_ours(tb):
        tb = tb.tb_next
    return tb


def _is_ours(tb: TracebackType) -> bool:
    return str(tb.tb_frame.f_globals.get("__name__")).startswith("unirun.")
