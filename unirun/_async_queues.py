"""Queues among threads for coroutines: `await q.aget()`, `aput`, `ajoin`, `async for item in q`.

A coroutine takes and puts by itself, in its event loop's thread and without waiting, so it cannot
be cancelled between taking an item and having it.  Only *that there may be something to take* is
waited for elsewhere: by one thread for all coroutines that wait for the same of one queue, which
is there as long as one of them is, and a SLICE longer.

    put ── notify ──▶ Watch's thread ── call_soon_threadsafe ──▶ coroutine ──▶ get(block=False)
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

__all__ = ["AsyncQueue"]

SLICE = 0.05  # seconds without news after which the thread looks whether it is still needed
ALL = sys.maxsize


class AsyncQueue(queue.Queue):  # type: ignore[type-arg]
    """What a queue has for coroutines, of any number of event loops."""

    is_shutdown: bool  # on every version, see `_thread_queues`

    async def aget(self, timeout: float | None = None) -> Any:
        """`get` for a coroutine; raises `queue.Empty` if there is none within `timeout` seconds.

        Raises ShutDown as `get` does.  The event loop runs at least once before an item is
        taken, and a coroutine that is cancelled has taken none.
        """
        if timeout is not None and timeout < 0:
            return self.get(True, timeout)  # which says what is wrong with it
        watch = self._watch("not_empty", self._can_get)
        return await _go_on(lambda: self.get(False), queue.Empty, watch, timeout)

    async def aput(self, item: Any, timeout: float | None = None) -> None:
        """`put` for a coroutine; raises `queue.Full` if there is no room within `timeout` seconds.

        Raises ShutDown as `put` does.  The event loop runs at least once before the item is put,
        and a coroutine that is cancelled has not put it.
        """
        if timeout is not None and timeout < 0:
            self.put(item, True, timeout)  # which says what is wrong with it, or does not look
            return
        watch = self._watch("not_full", self._can_put)
        await _go_on(lambda: self.put(item, False), queue.Full, watch, timeout)

    async def ajoin(self) -> None:
        """`join` for a coroutine: wait until `task_done` was called for every item put."""
        watch = self._watch("all_tasks_done", self._can_join)
        await _go_on(self._check_all_done, _NotYetError, watch, None)

    def _watch(self, condition: str, ready: Callable[[], int]) -> Watch:
        watches: dict[str, Watch] = self.__dict__.setdefault("_watches", {})
        return watches.get(condition) or watches.setdefault(
            condition, Watch(getattr(self, condition), ready)
        )

    # Each says how many of those who wait can go on; called under the queue's lock.

    def _can_get(self) -> int:
        return ALL if self.is_shutdown else self._qsize()

    def _can_put(self) -> int:
        return ALL if self.is_shutdown or self.maxsize <= 0 else self.maxsize - self._qsize()

    def _can_join(self) -> int:
        return 0 if self.unfinished_tasks else ALL

    def _check_all_done(self) -> None:
        if self.unfinished_tasks:
            raise _NotYetError


class _NotYetError(Exception):
    """Not all tasks are done."""


async def _go_on(
    attempt: Callable[[], Any], refusal: type[Exception], watch: Watch, timeout: float | None
) -> Any:
    """What `attempt()` returns once it does not raise `refusal` any more."""
    import asyncio

    end = None if timeout is None else time.monotonic() + timeout
    await asyncio.sleep(0)  # who gets from a full queue must leave the others a chance
    while True:
        try:
            return attempt()
        except refusal:
            if end is not None and end <= time.monotonic():
                raise
        await watch.wait(end)


class Watch:
    """Waits on a condition of a queue for coroutines; `ready` says how many can go on."""

    def __init__(self, condition: threading.Condition, ready: Callable[[], int]) -> None:
        self._condition = condition  # its lock, the queue's, guards all of the following
        self._ready = ready
        self._waiters: dict[asyncio.Future[None], None] = {}  # the oldest first
        self._watched_in = 0  # the process in which a thread watches; a fork takes none along

    async def wait(self, end: float | None) -> None:
        """Return when there may be a way to go on, at the latest at `end`."""
        import asyncio

        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._enter(future):
            return
        try:
            left = None if end is None else max(0.0, end - time.monotonic())
            await asyncio.wait((future,), timeout=left)
        except GeneratorExit:
            raise  # by the collector, perhaps under our very lock; a slice later we look again
        except BaseException:
            self._leave(future, goes_on=False)
            raise
        self._leave(future, goes_on=True)

    def _enter(self, future: asyncio.Future[None]) -> bool:
        """Whether it has to wait."""
        with self._condition:
            if self._ready() > 0:
                return False
            starts = self._watched_in != os.getpid()
            if starts:
                self._waiters.clear()  # if there are any, they are those of our parent
                self._watched_in = os.getpid()
            self._waiters[future] = None
        if starts:
            thread = threading.Thread(target=self._run, name="unirun-async-queue", daemon=True)
            try:
                thread.start()
            except BaseException:
                with self._condition:
                    self._watched_in = 0
                    self._tell(ALL)  # the others try again, and one of them to start a thread
                raise
        return True

    def _leave(self, future: asyncio.Future[None], goes_on: bool) -> None:
        with self._condition:
            if future in self._waiters:
                del self._waiters[future]
            elif not goes_on:
                self._condition.notify()  # the chance was ours: somebody else may take it

    def _run(self) -> None:
        """In a thread of its own, which ends by itself."""
        needed_until = time.monotonic() + SLICE
        with self._condition:
            while True:
                self._wake()
                now = time.monotonic()
                if any(not each.get_loop().is_closed() for each in self._waiters):
                    needed_until = now + SLICE
                elif needed_until <= now:
                    self._watched_in = 0
                    self._waiters.clear()  # nobody runs them any more
                    return
                self._condition.wait(needed_until - now)

    def _wake(self) -> None:
        """Tell as many as can go on, and leave the rest of what we were notified of to others.

        Those told are not waited for: if they do not go on, we look again after a slice.
        """
        chances = self._ready()
        if chances > 0:
            chances -= self._tell(chances)
            self._condition.notify(chances)

    def _tell(self, number: int) -> int:
        """Let the oldest look again, and return how many did exist."""
        told = 0
        while told < number and self._waiters:
            future = next(iter(self._waiters))
            del self._waiters[future]
            try:
                future.get_loop().call_soon_threadsafe(_look_again, future)  # it does not block
            except RuntimeError:
                continue  # its loop is closed
            told += 1
        return told


def _look_again(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
