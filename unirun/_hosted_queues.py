"""Queues as they live in their host; the rules they keep are in `coordinator.py`."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from unirun.coordinator import Coordinator, Kinds, Request, SharedObject

Entry: TypeAlias = tuple[Any, int, bytes]
"""A priority that can be compared with any other (None where there is none), its number, an item.

Numbers follow the order in which items came in: what is put in order of numbers is in order.
"""


MOST_AT_ONCE: Final = 1 << 26  # bytes of a `get_many`, or one item, whatever its size
TOO_MANY_DONE: Final = "task_done() called too many times"


class Store(Protocol):
    """Where a queue keeps its entries, in the order in which they leave."""

    def __len__(self) -> int: ...
    def push(self, entry: Entry) -> None: ...
    def pop(self) -> Entry: ...
    def put_back(self, entry: Entry) -> None: ...
    def clear(self) -> None: ...
    def check(self, priority: Any) -> Any: ...


class _Fifo(deque[Entry]):
    push = deque.append
    pop = deque.popleft

    def put_back(self, entry: Entry) -> None:
        # Older than all that was never taken; younger, perhaps, than others that came back.
        index = 0
        while index < len(self) and self[index][1] < entry[1]:
            index += 1
        self.insert(index, entry)

    def check(self, priority: Any) -> None:
        """Nothing is compared here."""


class _Lifo(list[Entry]):
    push = list.append

    def put_back(self, entry: Entry) -> None:
        insort(self, entry, key=lambda each: each[1])

    def check(self, priority: Any) -> None:
        """Nothing is compared here."""


class _Heap(list[Entry]):
    def push(self, entry: Entry) -> None:
        heapq.heappush(self, entry)

    put_back = push

    def pop(self) -> Entry:  # type: ignore[override]
        return heapq.heappop(self)

    def check(self, priority: Any) -> Any:
        """That priority as it is kept; TypeError if it cannot be compared with the smallest.

        What is kept can always be compared, so that neither a get nor a put that waited fails.
        """
        total = _total(priority)
        if self:
            _compare(total, self[0][0])
        return total


def _total(priority: Any) -> tuple[str, Any]:
    kind = type(priority)
    if kind is tuple:
        return ("tuple", tuple(map(_total, priority)))
    if kind is int or kind is float or kind is bool:
        return ("number", priority)
    if kind is str or kind is bytes:
        return (kind.__name__, priority)
    raise TypeError(
        f"a priority cannot be of type {kind.__name__!r}; "
        "use int, float, str, bytes or tuples of these"
    )


def _compare(left: tuple[str, Any], right: tuple[str, Any]) -> None:
    """Raise TypeError where `<` between the originals would."""
    if left[0] != right[0]:
        raise TypeError(f"'<' not supported between priorities {left[0]!r} and {right[0]!r}")
    if left[0] == "tuple":
        for one, other in zip(left[1], right[1], strict=False):
            if one != other:
                _compare(one, other)
                break


class Queue(SharedObject):
    """A queue; between events, getters wait only if it is empty, putters only if it is full."""

    stores: ClassVar[Mapping[str, Callable[[], Store]]] = {
        "Queue": _Fifo,
        "LifoQueue": _Lifo,
        "PriorityQueue": _Heap,
    }

    def __init__(self, coordinator: Coordinator, maxsize: int = 0, *, kind: str = "Queue") -> None:
        super().__init__(coordinator)
        self.kind = kind
        self._maxsize = maxsize
        self._items = self.stores[kind]()
        self._numbers = count()
        self._getters: deque[Request] = deque()
        self._putters: deque[Request] = deque()
        self._joiners: deque[Request] = deque()
        self._unfinished = 0
        self._shut = False
        self._drained = False  # by an immediate shut-down: items that come back go too

    def put(self, request: Request, item: bytes, priority: Any = None) -> None:
        self.put_many(request, (item,), (priority,))

    def put_many(
        self, request: Request, items: Sequence[bytes], priorities: Sequence[Any] | None = None
    ) -> None:
        """Take items as there is room; the value of a refusal is how many were taken."""
        kept = map(self._items.check, priorities or (None,) * len(items))
        entries = deque(zip(kept, items, strict=True))
        if self._shut:
            self._answer(request, "shutdown", 0)
            return
        request.detail = (len(entries), entries)
        self._putters.append(request)
        self._serve()
        if request.state == "open":
            self._park(request)

    def get(self, request: Request) -> None:
        self.get_many(request, None)

    def get_many(self, request: Request, limit: int | None) -> None:
        """Hand out an item, or with a limit a list of as many as there are, at least one."""
        if limit is not None and limit < 1:
            raise ValueError("the number of items to get must be >= 1")
        request.detail = limit
        self._getters.append(request)
        self._serve()
        if request.state == "open" and self._shut:
            self._getters.remove(request)
            self._answer(request, "shutdown")
        elif request.state == "open":
            self._park(request)

    def task_done(self, request: Request) -> None:
        if self._unfinished == 0:
            raise ValueError(TOO_MANY_DONE)
        self._finish(1)
        self._answer(request, "ok")

    def join(self, request: Request) -> None:
        if self._unfinished == 0:
            self._answer(request, "ok")
        else:
            self._joiners.append(request)
            self._park(request)

    def state(self, request: Request) -> None:
        self._answer(request, "ok", (len(self._items), self._unfinished, self._shut))

    def shutdown(self, request: Request, immediate: bool = False) -> None:
        self._shut = True
        if immediate:
            self._drained = True
            self._finish(len(self._items))
            self._items.clear()
        while self._getters:
            self._answer(self._getters.popleft(), "shutdown")
        while self._putters:
            putter = self._putters.popleft()
            self._answer(putter, "shutdown", _taken_of(putter))
        self._answer(request, "ok")

    def timed_out(self, request: Request) -> None:
        self._leave(request)
        self._answer(request, "timeout", _taken_of(request))

    def withdrawn(self, request: Request) -> None:
        if request.held is None:
            self._leave(request)
        elif self._drained:
            self._finish(len(request.held))
        else:
            for entry in request.held:
                self._items.put_back(entry)

    def _leave(self, request: Request) -> None:
        for line in (self._getters, self._putters, self._joiners):
            if request in line:
                line.remove(request)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    def take_over(self, *state: Any) -> None:
        items, self._unfinished, self._shut = state
        for item in items:
            self._items.push((None, next(self._numbers), item))

    def hand_over(self) -> tuple[int, bool] | None:
        if self.kept or self._items or self._getters or self._putters or self._joiners:
            return None
        return self._unfinished, self._shut

    def resume(self) -> None:
        self._serve()

    def _serve(self) -> None:
        """Let in what there is room for, and hand out what there is, until neither goes on."""
        while True:
            while self._putters and not self._is_full():
                self._let_in(self._putters[0])
            if not (self._getters and self._items):
                return
            self._hand_out(self._getters.popleft())

    def _is_full(self) -> bool:
        return 0 < self._maxsize <= len(self._items)

    def _let_in(self, putter: Request) -> None:
        entries = putter.detail[1]
        while entries and not self._is_full():
            priority, item = entries.popleft()
            self._items.push((priority, next(self._numbers), item))
            self._unfinished += 1
        if not entries:
            self._putters.popleft()
            self._answer(putter, "ok")

    def _hand_out(self, getter: Request) -> None:
        limit, size = getter.detail, 0
        wanted = 1 if limit is None else min(limit, len(self._items))
        held: list[Entry] = []
        getter.held = held
        while len(held) < wanted and size < MOST_AT_ONCE:
            held.append(self._items.pop())
            size += len(held[-1][2])
        value = held[0][2] if limit is None else [entry[2] for entry in held]
        self._answer(getter, "item", value, keep=True)

    def _finish(self, number: int) -> None:
        self._unfinished = max(0, self._unfinished - number)
        while self._joiners and self._unfinished == 0:
            self._answer(self._joiners.popleft(), "ok")

    operations: ClassVar = {
        "get": get,
        "get_many": get_many,
        "join": join,
        "put": put,
        "put_many": put_many,
        "shutdown": shutdown,
        "state": state,
        "task_done": task_done,
    }


def _taken_of(request: Request) -> int:
    """How many items of a put were let in; 0 for anything else."""
    if not isinstance(request.detail, tuple):
        return 0
    total, left = request.detail
    return int(total - len(left))


QUEUES: Final[Kinds] = {kind: partial(Queue, kind=kind) for kind in Queue.stores}
