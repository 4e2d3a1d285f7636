"""What calls tell while they run, on its way to whom it concerns in the program.

    a worker: `_context.tell(topic, 0, value)` ──▶ pool ──put──▶ queue ──▶ one thread ──▶ handlers

1. One thread of the process runs all handlers, one after the other, in the order in which each
   worker told things.  It holds no lock meanwhile: handlers are user code, as logging handlers and
   streams are.  What a handler raises is logged, and hurts nobody else.
2. It is there while there is something to do, and ends when there was nothing for IDLE seconds.
3. Nothing waits here without bounds: each worker tells no more than `heard` of it goes on, and
   drops, and counts, what it could not tell in time (`unirun.backends.process.upward`).
4. Who is in a worker process itself, as the pool of an executor that a task has made, passes on
   to its own parent what nobody here has subscribed to.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _queue import Empty, SimpleQueue

from unirun import _context
from unirun._deferral import imported
from unirun._prompt import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Handler: TypeAlias = Callable[["Origin", Any], object]

__all__ = ["Origin", "here", "subscribe"]

HANDLERS = {
    "context": "unirun._variables:heard",
    "event": "unirun._observe:heard",
    "log": "unirun._logs:log_heard",
    "lost": "unirun._news:say_lost",
    "output": "unirun._output:heard",
    "progress": "unirun._reports:heard",
    "warning": "unirun._logs:warning_heard",
}
"""By topic, the handler that always is there, imported when something arrives: "module:name"."""
KEPT = frozenset({"progress"})
"""What is not passed on: it is of a call, and this process has the future of that."""
PATIENCE = 1.0
"""Seconds to wait for handlers that do not come to an end."""
IDLE = 1.0
"""Seconds for which the thread waits for more."""
AT_MOST = 5.0
"""Seconds to wait for handlers that do, one after the other."""


class Origin:
    """Who tells something: `future` (None where there is none any more), `task` (its name),
    `worker` ("pid N", or the name of a thread), `pid`; `source` where it is known: the backend, as
    in events."""

    __slots__ = ("future", "pid", "source", "task", "worker")

    def __init__(self, future: Any, task: str, worker: str, pid: int) -> None:
        self.future: Any = future
        self.task: str = task
        self.worker: str = worker
        self.pid: int = pid
        self.source: int = 0

    def __repr__(self) -> str:
        return f"<origin {self.task or 'no task'}, {self.worker}>"


# By topic, what was subscribed; with the process that did it, as a worker may be forked from it.
# No lock: each change, and each look, is one step of a dict, as any thread may subscribe, and a
# signal handler or a `__del__` amid that.
_subscribed: dict[str, dict[object, tuple[int, Handler]]] = {}

_NOBODY: dict[object, tuple[int, Handler]] = {}


def subscribe(topic: str, handler: Handler) -> Callable[[], None]:
    """Have `handler(origin, value)` called for what is told under that topic; returns the end of
    that."""
    key, entries = object(), _subscribed.setdefault(topic, {})
    entries[key] = (os.getpid(), handler)

    def unsubscribe() -> None:
        entries.pop(key, None)

    return unsubscribe


def here(topic: str, value: Any, future: Any = None) -> None:
    """Tell something that happens in this process: handlers run now, in this thread."""
    call = _context.current_task()
    if call is None:
        name, worker = "", threading.current_thread().name
    else:
        name, worker = call.name, call.worker
    deliver(Origin(future, name, worker, os.getpid()), topic, value)


def deliver(origin: Origin, topic: str, value: Any) -> None:
    """Rules 1 and 4."""
    try:
        handlers = _handlers(topic)
    except BaseException:  # a module that cannot be imported  # noqa: BLE001
        _log(topic, origin)
        return
    for handler in handlers:
        try:
            handler(origin, value)
        except BaseException:  # user code, which must not end the thread of all  # noqa: BLE001
            _log(topic, origin)


def _handlers(topic: str) -> list[Handler]:
    found: list[Handler] = []
    for pid, handler in list(_subscribed.get(topic, _NOBODY).values()):
        if not _context.in_worker_process or pid == os.getpid():
            found.append(handler)
    if found:
        return found
    if _context.tell is not None and topic not in KEPT:
        return [lambda origin, value: _pass_on(origin, topic, value)]
    if topic in HANDLERS:
        module, _, name = HANDLERS[topic].partition(":")
        found.append(getattr(imported(module), name))
    return found


def _pass_on(origin: Origin, topic: str, value: Any) -> None:
    if (tell := _context.tell) is not None:
        tell(topic, 0, value, (origin.task, origin.worker, origin.pid))


def _log(topic: str, origin: Origin) -> None:
    import logging

    logging.getLogger("unirun").exception("handling %r of %r failed", topic, origin)


class Desk:
    """Where pools put what they have heard, for the one thread that deals with it."""

    def __init__(self) -> None:
        # Guards `_users`, `_thread`, and that numbers are in the order of the queue. Reentrant, for
        # a `__del__` that ends a pool.
        self._lock = threading.RLock()
        self._queue: SimpleQueue[tuple[int, Callable[..., object], tuple[Any, ...]] | None]
        self._queue = SimpleQueue()
        self._put = 0  # number of what was put last
        self.done = 0  # number of what was dealt with last
        self._users = 0  # pools whose workers tell things
        self._thread: Thread | None = None  # ours; rule 2

    def enter(self) -> None:
        """A pool is going to `put`, until it leaves."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """It will not any more; waits for what it has put, but not for ever."""
        if self.done != self._put:
            over = threading.Event()
            number = self.put(over.set)
            self.attend()
            self.wait(over.wait, number)
        with self._lock:
            self._users -= 1
            thread = None
            if not self._users and self._thread is not None:
                thread, self._thread = self._thread, None
                self._queue.put(None)
        if thread is not None:
            thread.ends_within(PATIENCE)

    def wait(self, wait: Callable[[float], bool], number: int) -> None:
        """`wait(seconds)` until that is dealt with, or handlers seem to hang."""
        begun, done = time.monotonic(), self.done
        while not wait(PATIENCE):
            if self.done == done or time.monotonic() - begun > AT_MOST or self.done >= number:
                return
            done = self.done

    def put(self, do: Callable[..., object], *args: Any) -> int:
        """Have the thread call `do(*args)`, which must not raise; returns the number of that.

        Takes no time: it may be called with any lock held. Whoever does it looks after the thread
        soon, by `attend`.
        """
        with self._lock:
            self._put += 1
            self._queue.put((self._put, do, args))
            return self._put

    def attend(self) -> None:
        """See to it that what was put is dealt with; not with a lock held."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is not None or not self._users:
                return
            thread = self._thread = Thread(self._work, "unirun-news")
        try:
            thread.start()
        except RuntimeError:  # none to be had: late, or at interpreter exit
            self._thread = None
            self._work_off()

    def _work(self) -> None:
        queue, me = self._queue, threading.current_thread()
        while self._thread is me:  # else the last pool has left: the next one has another thread
            try:
                item = queue.get(timeout=IDLE)
            except Empty:
                if self._may_end(me):
                    return
                continue
            if item is not None:  # else we are to look again
                self._do(*item)
            del item

    def _may_end(self, me: threading.Thread) -> bool:
        with self._lock:  # who puts something from here on sees that there is no thread
            if self._thread is me and self._queue.empty():
                self._thread = None
                return True
        return False

    def _work_off(self) -> None:
        while not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                self._do(*item)

    def _do(self, number: int, do: Callable[..., object], args: tuple[Any, ...]) -> None:
        do(*args)
        self.done = number


desk = Desk()


def say_lost(origin: Origin, count: int) -> None:
    """Say that so many messages were dropped, since those that take them up here are too slow."""
    what = "message" if count == 1 else "messages"
    stream = sys.stderr
    if stream is not None:
        stream.write(
            f"unirun: {count} {what} (logs, output, progress) of worker {origin.worker} were "
            "dropped, as what takes them up in this program is too slow\n"
        )


def _begin_anew_in_forked_child() -> None:
    """What was told is the parent's; so is the thread."""
    global desk
    desk = Desk()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_forked_child)
