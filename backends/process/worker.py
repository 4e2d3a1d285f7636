"""What a worker process runs: read a call, run it, answer, until the pipe ends.

Light by rule (a test counts its imports): it is loaded before the first call can run, and again
for every worker that replaces one.  Nothing here trusts the task: whatever it raises, closes,
forks or exits is an outcome.

1. SIGINT is ignored: Ctrl-C is the parent's business.  SIGTERM ends the process, unless the task
   installed a handler of its own; SIGKILL follows after the grace.
2. A task may fork. The child drops our pipes at once, and if it returns into this loop it exits.
3. If the parent dies, the life-line ends, and the kernel ends this process and its group (SIGIO,
   whose default is to terminate) whatever the task is doing; where the kernel cannot, a thread
   watches it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would cost an enum per worker
import contextvars
import os
import sys
import time
import types
from _thread import allocate_lock, get_ident, start_new_thread

from unirun import _context
from unirun._payload import dumps, loads

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

STOPPED = 83
"""Exit status of a worker that ended because it was asked to."""
FAILED_START = 84
"""Exit status of a worker whose initializer failed, after it has said why."""


def main(tasks: int, results: int, lifeline: int, local_setup: Any = None) -> None:
    """Serve the pipes until `tasks` ends; never returns.

    `local_setup` is the (initializer, initargs) of a forked worker, which needs no pickle for them.
    """
    status = 1
    try:
        for fd in (tasks, results, lifeline):
            os.set_inheritable(fd, False)  # not for the programs that a task starts
        _settle_in(lifeline)
        status = Worker(tasks, results).serve(local_setup)
    except BaseException:  # ours, not the task's: show it, and die  # noqa: BLE001
        _print_traceback()
    finally:
        _leave(status)


def _settle_in(lifeline: int) -> None:
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)  # a fork may have brought the parent's
    if hasattr(_signal, "pthread_sigmask"):
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    _follow_parent(lifeline)
    sys.modules["__main__"] = types.ModuleType("__main__")  # the user's is never run here
    _context.in_worker_process = True


def _follow_parent(lifeline: int) -> None:
    """Rule 3."""
    try:
        import fcntl

        # Opened anew: whom to signal belongs to the opening, which all workers inherit.
        own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):  # elsewhere pipes do not signal
        start_new_thread(_watch, (lifeline,))
        return
    import select

    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        os._exit(1)  # the parent died before we asked to be told


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody writes: it returns when the parent is gone
    os._exit(1)


def _leave(status: int) -> None:
    try:
        _finish_threads()
        import atexit

        atexit._run_exitfuncs()
    except BaseException:  # the exit functions are the user's  # noqa: BLE001
        _print_traceback()
    finally:
        _flush()
        os._exit(status)


def _finish_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _flush() -> None:
    for name in ("stdout", "stderr"):
        try:
            stream = getattr(sys, name, None)
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: BLE001  # the task closed it, or put its own there
            continue


class WorkerToken(_context.Token):
    """Learns of a cancellation from the task pipe, which is silent otherwise while a call runs."""

    __slots__ = ("_call", "_worker")

    def __init__(self, worker: Worker, call: int) -> None:
        self._worker = worker
        self._call = call

    def is_set(self) -> bool:
        return self._worker.poll_cancelled(self._call, 0)

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._worker.poll_cancelled(self._call, until - time.monotonic()):
            if time.monotonic() >= until:
                return


class Worker:
    """The loop, and what it knows."""

    def __init__(self, tasks: int, results: int) -> None:
        self._tasks = tasks
        self._results = results
        self._pid = os.getpid()
        self._reader = wire.FrameReader()
        self._inbox: list[wire.Message] = []
        # Guards the task pipe while a call runs: any of its threads may ask for cancellation.
        self._pipe = allocate_lock()
        self._writing = allocate_lock()  # one frame at a time: a task's threads may emit
        self._functions: dict[int, Any] = {}  # bytes until one has been unpickled
        self._main_thread = get_ident()
        self._cancelled: set[int] = set()
        self._running = 0
        os.register_at_fork(after_in_child=self._forget_pipes)

    def _forget_pipes(self) -> None:
        """Rule 2: in a child that a task forked."""
        fds = [fd for fd in (self._tasks, self._results) if fd >= 0]
        self._tasks = self._results = -1
        self._running = 0
        self._pipe = allocate_lock()
        for fd in fds:
            try:
                os.close(fd)
            except OSError:
                continue  # the task has closed what was not its own
        _context.in_worker_process = False

    # -- the loop -------------------------------------------------------------------------------

    def serve(self, local_setup: Any) -> int:
        while (message := self._next()) is not None:
            code = message[0]
            if code == wire.CALL:
                self._call(*message[1:])
            elif code == wire.FORGET:
                self._functions.clear()
            elif code == wire.PATH:
                sys.path[:] = message[1]
            elif code == wire.SETUP and not self._set_up(local_setup, *message[1:]):
                return FAILED_START
        return STOPPED

    def _next(self) -> wire.Message | None:
        while not self._inbox:
            try:
                self._inbox += self._reader.receive(self._tasks)
            except EOFError:
                return None
        return self._inbox.pop(0)

    def _send(self, *message: Any) -> None:
        frame = wire.pack(*message)
        with self._writing:
            wire.write_all(self._results, frame)

    def _set_up(
        self,
        local_setup: Any,
        path: list[str],
        argv: list[str],
        cwd: str | None,
        authkey: bytes,
        settings: bytes | None,
        preload: tuple[str, ...],
        initializer: bytes | None,
    ) -> bool:
        sys.path[:] = path
        sys.argv[:] = argv
        _context.authkey = authkey
        _context.inherited_settings = settings
        doing = "the worker could not enter the working directory of its parent"
        try:
            if cwd is not None:
                os.chdir(cwd)  # the zygote's may be an older one
            for name in preload:  # it has, unless this worker comes from no zygote
                doing = f"cannot preload {name!r}"
                __import__(name)
            doing = "the initializer failed in a worker"
            setup = loads(initializer) if initializer is not None else local_setup
            if setup is not None:
                setup[0](*setup[1])
        except BaseException as exc:  # user code; the parent is told  # noqa: BLE001
            self._send(wire.BROKEN, doing, _encode(exc, 1))
            return False
        self._send(wire.READY)
        return True

    # -- one call -------------------------------------------------------------------------------

    def _call(
        self, number: int, function_id: int, function: bytes | None, data: bytes, about: Any
    ) -> None:
        self._running = number
        try:
            fn, args, kwargs = self._decode(function_id, function, data)
        except BaseException as exc:  # user code runs in there  # noqa: BLE001
            self._running = 0
            self._send(wire.UNREADABLE, number, _encode(exc, 1))
            return
        code, answer = contextvars.Context().run(self._outcome, number, fn, args, kwargs, about)
        del fn, args, kwargs, data
        if os.getpid() != self._pid:
            _leave_forked_child(code, answer)
        _flush()
        with self._pipe:  # from here on, a thread that the task has left does not read from it
            self._running = 0
            self._cancelled.clear()
        self._answer(code, number, answer)

    def _answer(self, code: int, number: int, answer: bytes) -> None:
        try:
            frame = wire.pack(code, number, answer)
        except (MemoryError, ValueError) as exc:  # larger than memory, or than marshal can write
            frame = wire.pack(wire.UNSENDABLE, number, _encode(exc, 99))
        with self._writing:
            wire.write_all(self._results, frame)

    def _decode(self, function_id: int, function: bytes | None, data: bytes) -> Any:
        if b"multiprocessing" in data:
            _adopt_authkey()
        if not function_id:
            return loads(data)
        if function is not None:
            self._functions[function_id] = function
        fn = self._functions[function_id]
        if type(fn) is bytes:  # it is sent only once, but may fail to unpickle more often
            fn = self._functions[function_id] = loads(fn)
        args, kwargs = loads(data)
        return fn, args, kwargs

    def _outcome(
        self, number: int, fn: Callable[..., Any], args: Any, kwargs: Any, about: Any
    ) -> tuple[int, bytes]:
        name, kind, attempt, deadline, wants_parts = about
        context = _context.TaskContext(
            name,
            number,
            kind=kind,
            backend="process",
            worker=f"pid {self._pid}",
            token=WorkerToken(self, number),
            attempt=attempt,
            deadline=deadline,
            emit=(lambda part: self._send(wire.PART, number, part)) if wants_parts else None,
        )
        _context.running.set(context)
        try:
            value = fn(*args, **kwargs)
            if type(value) is types.CoroutineType:
                value = _run_coroutine(value)
        except BaseException as exc:  # whatever a task raises is its outcome  # noqa: BLE001
            return wire.RAISED, _encode(exc if callable(fn) else _not_callable(fn), 1)
        try:
            return wire.RETURNED, dumps(value, f"the result of {name}")
        except BaseException as exc:  # SerializationError, or a MemoryError in it  # noqa: BLE001
            return wire.UNSENDABLE, _encode(exc, 99)

    def poll_cancelled(self, call: int, seconds: float) -> bool:
        """Whether `call`, if it still runs, was cancelled; waits up to `seconds` for the news."""
        import select

        if get_ident() != self._main_thread:
            seconds = min(seconds, 0.05)  # the answer must not wait for a thread of the task
        with self._pipe:
            if self._running == call and call not in self._cancelled:
                poll = select.poll()
                poll.register(self._tasks, select.POLLIN)
                if poll.poll(max(0.0, seconds) * 1000):
                    self._hear()
            elif self._running != call:
                time.sleep(max(0.0, seconds))
            return call in self._cancelled

    def _hear(self) -> None:
        try:
            messages = self._reader.receive(self._tasks)
        except EOFError:
            self._cancelled.add(self._running)  # nobody is left to answer to
            return
        for message in messages:
            if message[0] == wire.CANCEL:
                self._cancelled.add(message[1])
            else:
                self._inbox.append(message)


def _encode(exc: BaseException, skip_frames: int) -> bytes:
    from unirun._remote import encode  # only a task that failed pays for it

    return encode(exc, skip_frames)


def _not_callable(fn: Any) -> TypeError:
    return TypeError(f"{fn!r} is not callable; submit(fn, *args) takes the function first")


def _run_coroutine(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _adopt_authkey() -> None:
    """Proxies of multiprocessing's managers authenticate with the key of the parent."""
    import multiprocessing.process as process

    if _context.authkey is not None:
        process.current_process().authkey = _context.authkey


def _leave_forked_child(code: int, answer: bytes) -> None:
    """Rule 2: what a task forked came back as if it were the task."""
    status = 0
    if code == wire.RAISED:
        from unirun._remote import decode

        exc = decode(answer)
        if isinstance(exc, SystemExit):
            status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        else:
            status = 1
            sys.excepthook(type(exc), exc, exc.__traceback__)
    _leave(status)
