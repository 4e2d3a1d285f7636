"""Handles on queues that live in a manager; `queue` says what their methods do."""

from __future__ import annotations

import _thread
import queue
import time

from unirun._async_channel import ITEM, AsyncSharedQueue, AsyncSharedSimpleQueue
from unirun._celled import NOW, Celled
from unirun._channel import NO_WAIT
from unirun._deferral import uninterrupted
from unirun._handles import SharedObject, dump, handle, load
from unirun._thread_queues import NEGATIVE, ShutDown, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from unirun._cells import Segment

BATCH = 1 << 24  # bytes of a `put_many` that travel at once


class SharedSimpleQueue(AsyncSharedSimpleQueue, Celled):
    """`queue.SimpleQueue` among processes: unbounded, so that `put` never waits for room."""

    __slots__ = ()

    kind = "SimpleQueue"

    @classmethod
    def make(cls, manager: Any) -> SharedObject:
        return handle(cls, manager.address, manager.create("Queue", 0), ())

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; `block` and `timeout` are ignored.

        Also in a finalizer or a signal handler, whatever its thread is doing.
        """
        data = item if type(item) is bytes else dump(item, ITEM)
        try:
            if self._put_soon(data, data is item, None):
                return
        except RuntimeError as exc:
            if not isinstance(exc, self._cell.reentered):
                raise
            # Our own thread is inside the cell, and goes on when we have returned: another puts it.
            _thread.start_new_thread(self._ask, ("put", (dump(item, ITEM),)))
            return
        self._ask("put", (dump(item, ITEM) if data is item else data,))

    def _put_soon(self, data: bytes, plain: bool, end: float | None) -> bool:
        """Put it at once, if there are no handles in it and the cell has room."""
        cell = self._cell
        if not cell or type(data) is not bytes or not cell.is_of(self._object_id):
            return False
        put: bool = cell.put_soon(data, plain, end)
        return put

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item; raises `queue.Empty` if there is none, now or within `timeout` seconds."""
        cell = self._cell
        if cell and timeout is None and cell.is_of(self._object_id):
            note = [None]
            try:
                found = cell.get(None if block else NOW, note)
            except BaseException:  # a signal handler's, perhaps with the item in our hands
                cell.put_back(note)
                raise
            if type(found) is tuple:
                data, plain = found
                return data if plain else load(data, ITEM)
        return self._get(block, timeout)

    @uninterrupted
    def _get(self, block: bool, timeout: float | None) -> Any:
        status, value = self._ask("get", (), self._get_timeout(block, timeout))
        if status == "item":
            return load(value, ITEM)
        raise queue.Empty if status == "timeout" else ShutDown

    def _open_cell(self, segment: Segment, index: int) -> Any:
        from unirun._cell_queues import QueueCell

        return QueueCell(segment, index, self._facts[0] if self._facts else 0)

    def put_nowait(self, item: Any) -> None:
        """`put(item, block=False)`."""
        self.put(item, False)

    def get_nowait(self) -> Any:
        """`get(block=False)`."""
        return self.get(False)

    def qsize(self) -> int:
        """How many items there are now; another moment, another number."""
        return self._state()[0]

    def empty(self) -> bool:
        """Whether there is no item now."""
        return self.qsize() == 0

    def _state(self) -> tuple[int, int, bool]:
        """Items, unfinished tasks, and whether it is shut down."""
        state: tuple[int, int, bool] = self._ask("state")[1]
        return state

    def _get_timeout(self, block: bool, timeout: float | None) -> float | None:
        if not block:
            return NO_WAIT
        if timeout is not None and timeout < 0:
            size, _, is_shutdown = self._state()
            raise ShutDown if is_shutdown and not size else ValueError(NEGATIVE)
        return timeout


class SharedQueue(SharedSimpleQueue, AsyncSharedQueue):
    """`queue.Queue` among processes.

    An item is taken by one `get` only, and lost only with the process that took it: if that dies
    before it has it, the item goes back to where it was.
    """

    __slots__ = ()

    kind = "Queue"

    @classmethod
    def make(cls, manager: Any, maxsize: int = 0) -> SharedObject:
        maxsize + 0  # a TypeError belongs here, not into the first put
        return handle(cls, manager.address, manager.create(cls.kind, maxsize), (maxsize,))

    @property
    def maxsize(self) -> int:
        """How many items there is room for; no limit if 0 or less."""
        size: int = self._facts[0]
        return size

    @property
    def unfinished_tasks(self) -> int:
        """How many items were put that no `task_done` was called for yet."""
        return self._state()[1]

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` was called."""
        return self._state()[2]

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; raises `queue.Full` if there is no room, now or within `timeout` seconds.

        Raises ShutDown once the queue is shut down, and SerializationError for an item that
        cannot be pickled.  When it returns, the item is in the queue.
        """
        data = item if type(item) is bytes else dump(item, ITEM)
        if timeout is None and self._put_soon(data, data is item, None if block else NOW):
            return
        args = (dump(item, ITEM) if data is item else data, self._priority(item))
        status, _ = self._ask("put", args, self._put_timeout(block, timeout))
        if status != "ok":
            raise queue.Full if status == "timeout" else ShutDown

    def put_many(
        self, items: Iterable[Any], block: bool = True, timeout: float | None = None
    ) -> None:
        """Put each item, within `timeout` seconds altogether, in far fewer messages than `put`.

        What `put` raises then has an attribute `accepted`: how many were put.
        """
        entries = [(dump(item, ITEM), self._priority(item)) for item in items]
        left = self._put_timeout(block, timeout)
        end = None if left is None or left <= 0 else time.monotonic() + left
        accepted = 0
        for batch in _batches(entries):
            datas, priorities = zip(*batch, strict=True)
            status, taken = self._ask("put_many", (datas, priorities), left)
            if status != "ok":
                accepted += taken or 0
                raise refused(queue.Full() if status == "timeout" else ShutDown(), accepted)
            accepted += len(batch)
            left = left if end is None else max(0.0, end - time.monotonic())

    @uninterrupted
    def get_many(self, limit: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Wait as `get` does, then take as many items as there are, at most `limit`."""
        status, value = self._ask("get_many", (limit,), self._get_timeout(block, timeout))
        if status == "item":
            return [load(data, ITEM) for data in value]
        raise queue.Empty if status == "timeout" else ShutDown

    def full(self) -> bool:
        """Whether there is no room now."""
        return 0 < self.maxsize <= self.qsize()

    def task_done(self) -> None:
        """Say that an item got from the queue is dealt with; ValueError if called too often."""
        self._ask("task_done")

    def join(self) -> None:
        """Wait until `task_done` was called for every item put."""
        self._ask("join")

    def shutdown(self, immediate: bool = False) -> None:
        """Make every put raise ShutDown, and every get once the queue is empty.

        With `immediate`, empty it now and count what was in it as done.
        """
        self._ask("shutdown", (bool(immediate),))

    def __iter__(self) -> Iterator[Any]:
        """Get items until the queue is shut down and empty."""
        while True:
            try:
                item = self.get()
            except ShutDown:
                return
            yield item

    def _priority(self, item: Any) -> Any:
        return None

    def _put_timeout(self, block: bool, timeout: float | None) -> float | None:
        if not block:
            return NO_WAIT
        if timeout is None or timeout >= 0:
            return timeout
        if self.maxsize <= 0:
            return NO_WAIT  # the original does not look at it either
        raise ShutDown if self.is_shutdown else ValueError(NEGATIVE)


class SharedLifoQueue(SharedQueue):
    """`queue.LifoQueue` among processes; the order is one for all of them."""

    __slots__ = ()

    kind = "LifoQueue"


class SharedPriorityQueue(SharedQueue):
    """`queue.PriorityQueue` among processes; the order is one for all of them.

    An item is an int, float, str or bytes, or a tuple that begins with such.  The manager compares
    those; of a tuple, as much as can be compared.  Equals leave in the order in which they came.
    """

    __slots__ = ()

    kind = "PriorityQueue"

    def _priority(self, item: Any) -> Any:
        if not isinstance(item, tuple):
            return _comparable(item)
        priority: list[Any] = []
        for part in item:
            try:
                priority.append(_comparable(part))
            except TypeError:
                if not priority:
                    raise
                break
        return tuple(priority)


_EXACT: dict[Any, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes.__bytes__,
}


def _comparable(part: Any) -> Any:
    """`part` as the manager can compare it: enumerations and named tuples become their base."""
    kind = type(part)
    if kind in _EXACT:
        return part
    if isinstance(part, tuple) and kind.__lt__ is tuple.__lt__:
        return tuple(map(_comparable, part))
    for base, exact in _EXACT.items():
        if isinstance(part, base) and kind.__lt__ is base.__lt__:
            return exact(part)
    raise TypeError(
        f"an object of type {kind.__name__!r} is no priority in a shared queue; "
        "put tuples (priority, item), the priority an int, float, str, bytes or tuple of these"
    )


def _batches(entries: list[tuple[bytes, Any]]) -> Iterator[list[tuple[bytes, Any]]]:
    """`entries` in parts of about BATCH bytes."""
    batch: list[tuple[bytes, Any]] = []
    size = 0
    for entry in entries:
        if batch and size + len(entry[0]) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry[0])
    if batch:
        yield batch
