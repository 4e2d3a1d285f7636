"""The standard library's queues with what unirun's have more.

Batches, iteration, shut-down and, from `_async_queues`, methods for coroutines.  They are
`queue.Queue` objects: only Python before 3.13, which has no `shutdown()`, gets its own `put` and
`get`, with the behaviour of 3.13.
"""

from __future__ import annotations

import queue
import sys
import time
import weakref

from unirun._async_queues import AsyncQueue
from unirun._hangs import WatchedCondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

__all__ = ["LifoQueue", "PriorityQueue", "Queue", "ShutDown", "refused"]

NEGATIVE = "'timeout' must be a non-negative number"

if sys.version_info >= (3, 13):
    ShutDown = queue.ShutDown

    class _WithShutdown:
        """Nothing to add."""

else:

    class ShutDown(Exception):
        """Raised by `put` and `get` of a queue that has been shut down."""

    ShutDown.__module__ = "unirun"  # where users find it

    class _WithShutdown(queue.Queue):  # type: ignore[type-arg]
        is_shutdown = False  # guarded by `mutex`, like everything here

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            with self.not_full:
                if self.is_shutdown:
                    raise ShutDown
                if self.maxsize > 0:
                    self._await(self.not_full, self._has_no_room, block, timeout, queue.Full)
                    if self.is_shutdown:
                        raise ShutDown
                self._put(item)
                self.unfinished_tasks += 1
                self.not_empty.notify()

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            with self.not_empty:
                if timeout is not None or not self._qsize():  # nearly always neither
                    self._await_item(block, timeout)
                item = self._get()
                self.not_full.notify()
                return item

        def shutdown(self, immediate: bool = False) -> None:
            """Make every put raise ShutDown, and every get once the queue is empty.

            With `immediate`, empty it now and count what was in it as done.
            """
            with self.mutex:
                self.is_shutdown = True
                if immediate:
                    while self._qsize():
                        self._get()
                        self.unfinished_tasks = max(0, self.unfinished_tasks - 1)
                    self.all_tasks_done.notify_all()
                self.not_empty.notify_all()
                self.not_full.notify_all()

        def _await_item(self, block: bool, timeout: float | None) -> None:
            if not (self.is_shutdown and not self._qsize()):
                self._await(self.not_empty, self._has_no_item, block, timeout, queue.Empty)
            if not self._qsize():
                raise ShutDown

        def _has_no_room(self) -> bool:
            return self._qsize() >= self.maxsize

        def _has_no_item(self) -> bool:
            return not self._qsize()

        def _await(
            self,
            condition: threading.Condition,
            blocked: Callable[[], bool],
            block: bool,
            timeout: float | None,
            error: type[Exception],
        ) -> None:
            """Wait while `blocked()`, until a shut-down at the longest."""
            if block and timeout is not None and timeout < 0:
                raise ValueError(NEGATIVE)
            if not blocked():
                return
            if not block:
                raise error
            end = None if timeout is None else time.monotonic() + timeout
            while blocked() and not self.is_shutdown:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise error
                condition.wait(left)


def refused(error: Exception, accepted: int) -> Exception:
    """`error` of a `put_many`, with the number of items that were put nevertheless."""
    error.accepted = accepted  # type: ignore[attr-defined]
    return error


class _Batches(AsyncQueue):
    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        me = weakref.ref(self)
        self.not_empty = WatchedCondition(self.mutex, "an item of", me)
        self.not_full = WatchedCondition(self.mutex, "room in", me)

    def put_many(
        self, items: Iterable[Any], block: bool = True, timeout: float | None = None
    ) -> None:
        """Put each item, within `timeout` seconds altogether.

        What `put` raises then has an attribute `accepted`: how many were put.
        """
        end = None if timeout is None else time.monotonic() + timeout
        for accepted, item in enumerate(items):
            try:
                self.put(item, block, timeout)
            except (queue.Full, ShutDown) as exc:
                raise refused(exc, accepted)  # noqa: B904  # the very exception
            timeout = None if end is None else max(0.0, end - time.monotonic())

    def get_many(self, limit: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Wait as `get` does, then take as many items as there are, at most `limit`."""
        if limit < 1:
            raise ValueError("the number of items to get must be >= 1")
        items = [self.get(block, timeout)]
        while len(items) < limit:
            try:
                items.append(self.get(block=False))
            except (queue.Empty, ShutDown):
                break
        return items

    def __iter__(self) -> Iterator[Any]:
        """Get items until the queue is shut down and empty."""
        while True:
            try:
                item = self.get()
            except ShutDown:
                return
            yield item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next item, until the queue is shut down and empty."""
        try:
            return await self.aget()
        except ShutDown:
            raise StopAsyncIteration from None


class Queue(_Batches, _WithShutdown):
    """`queue.Queue` with `put_many`, `get_many`, iteration and, on every version, `shutdown`."""


class LifoQueue(_Batches, _WithShutdown, queue.LifoQueue):  # type: ignore[type-arg]
    """`queue.LifoQueue`, likewise."""


class PriorityQueue(_Batches, _WithShutdown, queue.PriorityQueue):  # type: ignore[type-arg]
    """`queue.PriorityQueue`, likewise."""
