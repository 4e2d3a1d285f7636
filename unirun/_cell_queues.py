"""Queue and SimpleQueue in a cell: the items are in a ring beside it.

    word 0  tail: number of puts << 32 | where the next item goes      word 2  number of items done
    word 1  head: number of gets << 32 | where the next item is        word 3  1 SERVER, 2 shut down
    halves 8, 10, 12: change when something is put, taken, all done; each is followed by whether
    somebody sleeps on it                                              word 7  number of the ring

A put takes effect with its store to the tail, a get with its store to the head.  In the ring, an
item is its size and whether it is plain bytes or a pickle, 4 bytes each, and then these, all in one
piece.  An empty queue begins again at the start of its ring, so one that is kept short uses little
memory.  What does not fit, and what has handles in it, goes to the server.
"""

from __future__ import annotations

import time
from _pickle import dumps

from unirun._cells import NOW, PATIENCE, RING, Cell, Segment, TooLate
from unirun._channel import NO_WAIT
from unirun._deferral import interruptible
from unirun._hosted_queues import TOO_MANY_DONE
from unirun._payload import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, TypeAlias, TypeVar

    T = TypeVar("T")
    Item: TypeAlias = tuple[bytes, int]  # and whether that is all there is to it: no pickle
    Note: TypeAlias = list[tuple[Item, int, int, int] | None]  # of the one get that it is made for

__all__ = ["LARGEST", "QueueCell"]

LARGEST = 1 << 20  # bytes of an item in the ring
MOMENT = 0.01  # seconds for which a put waits for room in a full ring before it asks the server
PAUSE = 5e-4  # seconds of them at a time
_KEPT = 1 << 22  # bytes of a ring that stay when the queue has been longer and is empty again
_LOW = (1 << 32) - 1
_WRAP = _LOW  # instead of a size: go on at the start of the ring

_SERVER, _SHUT = 1, 2
_PUT, _TAKEN, _DONE = 8, 10, 12

# Answers that are neither items nor a value to sleep on.
OK, ASK, SHUTDOWN, TIMEOUT, TOO_OFTEN = -1, -2, -3, -4, -5
_STATUS = {OK: "ok", SHUTDOWN: "shutdown", TIMEOUT: "timeout"}


def _pickled(item: Item) -> bytes:
    """An item as everybody else knows it."""
    return dumps(item[0], PROTOCOL) if item[1] else item[0]


class QueueCell(Cell):
    """A FIFO queue; ASK as an answer means: ask the server."""

    __slots__ = ("_maxsize", "_number", "_ring", "_sizes")

    def __init__(self, segment: Segment, index: int, maxsize: int, ring: int | None = None) -> None:
        """`ring` is for the first to know; raises OSError or ValueError without room for it."""
        super().__init__(segment, index)
        self._maxsize = maxsize
        self._number = self._words[self._at + 7] if ring is None else ring
        self._ring = segment.ring(self._number)
        self._sizes = self._ring.cast("I")

    def begin(self, object_id: int) -> None:
        super().begin(object_id)
        self._words[self._at + 7] = self._number

    def request(
        self, op: str, args: tuple[Any, ...], end: float | None, handle: Any
    ) -> tuple[str, Any] | None:
        """Serve a request as the server would; None if it has to."""
        serve = self._served.get(op)
        return None if serve is None else serve(self, args, end, handle)

    def _request_put(self, args: Any, end: float | None, _: Any) -> tuple[str, Any] | None:
        if type(args[0]) is not bytes:
            return None  # there are handles in it, which the server looks after
        answer = self.put(args[0], end)
        return None if answer == ASK else (_STATUS[answer], 0)

    def _request_put_many(self, args: Any, end: float | None, handle: Any) -> Any:
        items = list(args[0])
        if any(type(each) is not bytes for each in items):
            return None
        answer = self.put_many(items, end)
        put = len(args[0]) - len(items)
        if answer != ASK:
            return _STATUS[answer], put
        if not put:
            return None
        wait = NO_WAIT if end == NOW else end
        if end is not None and end != NOW:
            wait = max(0.0, end - time.monotonic())
        status, more = handle._exchange_with_server(
            "put_many", (tuple(items), (None,) * len(items)), wait, False
        )
        return status, put + (more or 0)

    def _request_get(self, args: Any, end: float | None, _: Any) -> tuple[str, Any] | None:
        answer = self.get(end, [None])
        if type(answer) is tuple:
            return "item", _pickled(answer)
        return None if answer == ASK else (_STATUS[answer], None)  # type: ignore[index]

    def _request_get_many(self, args: Any, end: float | None, _: Any) -> tuple[str, Any] | None:
        if args[0] < 1:
            return None  # which says what is wrong with it
        answer = self.get_many(args[0], end)
        if type(answer) is list:
            return "item", [_pickled(item) for item in answer]
        return None if answer == ASK else (_STATUS[answer], None)  # type: ignore[index]

    def _request_task_done(self, _args: Any, _end: Any, _: Any) -> tuple[str, Any] | None:
        answer = self.task_done()
        if answer == TOO_OFTEN:
            return "value", TOO_MANY_DONE
        return None if answer == ASK else ("ok", None)

    def _request_join(self, _args: Any, _end: Any, _: Any) -> tuple[str, Any] | None:
        return None if self.join() == ASK else ("ok", None)

    def _request_state(self, _args: Any, _end: Any, _: Any) -> tuple[str, Any] | None:
        state = self.state()
        return None if state is None else ("ok", state)

    _served: ClassVar = {
        "get": _request_get,
        "get_many": _request_get_many,
        "join": _request_join,
        "put": _request_put,
        "put_many": _request_put_many,
        "state": _request_state,
        "task_done": _request_task_done,
    }

    def put(self, item: bytes, end: float | None) -> int:
        """Put an item: OK, ASK, SHUTDOWN or TIMEOUT."""
        if self.put_soon(item, False, end):
            return OK
        return self._until(self._put, item, _TAKEN, end)

    def get(self, end: float | None, note: Note) -> Item | int:
        """An item, ASK, SHUTDOWN or TIMEOUT; the note is for `put_back`."""
        tail = self._words[self._at]
        try:
            item = self.within(self._get_if_any, note, end=self._entry(end))
            if item is not None:
                return item
            began = time.monotonic()
            if not self._words[self._at + 3] and self.spin(self._at, tail, end):
                item = self.within(self._get_if_any, note, end=end)
        except TooLate:
            return TIMEOUT
        if item is not None:
            return item
        answer = self._until(self._get, note, _PUT, end)
        self.waited(began)
        return answer

    def put_back(self, note: Note) -> None:
        """Undo the get of that note: whoever made it was interrupted and has not got its item."""
        if note[0] is not None:
            self.within(self._put_back, *note[0])

    def _put_back(self, item: Item, tail: int, head: int, after: int) -> None:
        words, at = self._words, self._at
        if words[at + 3] & _SERVER:
            return  # it is gone, as a queue of threads loses it then
        if words[at] == tail and words[at + 1] == after:
            words[at + 1] = head  # nothing has happened since: its bytes are where they were
        else:
            # Behind what has come meanwhile: another place than it had, but it is not lost.
            moved = self._write(words[at], words[at + 1], item[0], bool(item[1]))
            if moved is not None:
                words[at + 2] = (words[at + 2] + 1) & _LOW  # it was counted when it came first
                words[at] = moved
        self._tell(_PUT, 1)

    def _get_if_any(self, note: Note) -> Item | None:
        words, at = self._words, self._at
        head = words[at + 1]
        if words[at + 3] & _SERVER or words[at] >> 32 == head >> 32:
            return None
        item, after = self._read(head)
        note[0] = item, words[at], head, after  # nothing can interrupt us before the store
        words[at + 1] = after
        if self._halves[2 * at + _TAKEN + 1]:
            self._tell(_TAKEN, 1)
        return item

    def put_soon(self, item: bytes, plain: bool, end: float | None) -> bool:
        """Put it, if there is room now; a `plain` one is not pickled.

        A full ring is no full queue.  If somebody takes from it there soon is room, so whoever may
        wait does so for a moment: not to be woken, which would cost a taker more than taking does.
        """
        until = time.monotonic() + MOMENT
        try:
            while not self.within(self._put_if_free, item, plain, end=self._entry(end)):
                may_fit = (
                    self._maxsize <= 0 and len(item) <= LARGEST and not self._words[self._at + 3]
                )
                if end == NOW or not may_fit or time.monotonic() >= until:
                    return False
                interruptible(time.sleep, PAUSE)
        except TooLate:
            return False
        return True

    def _put_if_free(self, item: bytes, plain: bool) -> bool:
        words, at = self._words, self._at
        tail, head = words[at], words[at + 1]
        if words[at + 3] or 0 < self._maxsize <= (tail >> 32) - (head >> 32) & _LOW:
            return False
        after = self._write(tail, head, item, plain)
        if after is None:
            return False
        words[at] = after
        if self._halves[2 * at + _PUT + 1]:
            self._tell(_PUT, 1)
        return True

    def put_many(self, items: list[bytes], end: float | None) -> int:
        """Put the items, and take those that are put from the list."""
        return self._until(self._put_many, items, _TAKEN, end)

    def get_many(self, limit: int, end: float | None) -> list[Item] | int:
        return self._until(self._get_many, limit, _PUT, end)

    def task_done(self) -> int:
        """OK, ASK or TOO_OFTEN."""
        return self.within(self._task_done)

    def join(self) -> int:
        return self._until(self._joined, None, _DONE, None)

    def state(self) -> tuple[int, int, bool] | None:
        """Items, unfinished tasks, and whether it is shut down."""
        return self.within(self._state)

    def _entry(self, end: float | None) -> float | None:
        """Until when to try to get inside: there, not to wait means not to wait long."""
        return time.monotonic() + PATIENCE if end == NOW else end

    def _until(
        self, attempt: Callable[[Any], T | int], arg: Any, half: int, end: float | None
    ) -> T | int:
        """Repeat it until it answers with anything but a value to sleep on."""
        half += 2 * self._at
        try:
            while True:
                answer = self.within(attempt, arg, end=self._entry(end))
                if type(answer) is not int or answer < 0:
                    return answer
                if end == NOW or not self.sleep(half, answer, end):
                    # A wake-up for us may have come with the end.
                    answer = self.within(attempt, arg, end=time.monotonic() + PATIENCE)
                    return TIMEOUT if type(answer) is int and answer >= 0 else answer
        except TooLate:
            return TIMEOUT
        except BaseException:
            self.wake(half, 1)  # somebody else may have been passed over for us
            raise

    # -- inside -------------------------------------------------------------------------------

    def _put(self, item: bytes) -> int:
        words, at = self._words, self._at
        if self._put_if_free(item, False):
            return OK
        if words[at + 3]:
            return ASK if words[at + 3] & _SERVER else SHUTDOWN
        is_full = 0 < self._maxsize <= (words[at] >> 32) - (words[at + 1] >> 32) & _LOW
        return self._expect(_TAKEN) if is_full else ASK

    def _put_many(self, items: list[bytes]) -> int:
        words, at = self._words, self._at
        if words[at + 3]:
            return ASK if words[at + 3] & _SERVER else SHUTDOWN
        tail, head = words[at], words[at + 1]
        room, put = self._maxsize - ((tail >> 32) - (head >> 32) & _LOW), 0
        for item in items if self._maxsize <= 0 else items[: max(0, room)]:
            after = self._write(tail, words[at + 1], item)
            if after is None:
                break
            tail, put = after, put + 1
        words[at] = tail
        del items[:put]
        self._tell(_PUT, put)
        if not items:
            return OK
        return self._expect(_TAKEN) if self._maxsize > 0 and put >= room else ASK

    def _write(self, tail: int, head: int, item: bytes, plain: bool = False) -> int | None:
        """Write an item behind all others; the tail that makes it one of them, or None."""
        size = len(item)
        need = size + 15 & ~7
        if size > LARGEST:
            return None
        start, limit = tail & _LOW, head & _LOW
        if tail >> 32 == head >> 32:  # empty: it need not go on where it was
            if start > _KEPT:
                self._segment.empty_ring(self._number, _KEPT)
            self._words[self._at + 1] = head >> 32 << 32
            start = 0
        elif start > limit and start + need > RING - 8:
            if need >= limit:
                return None
            self._sizes[start >> 2] = _WRAP
            start = 0
        elif start < limit <= start + need:
            return None
        self._sizes[start >> 2] = size
        self._sizes[(start >> 2) + 1] = plain
        self._ring[start + 8 : start + 8 + size] = item
        return (((tail >> 32) + 1) & _LOW) << 32 | start + need

    def _get(self, note: Note) -> Item | int:
        item = self._get_if_any(note)
        if item is not None:
            return item
        state = self._words[self._at + 3]
        if state & _SERVER:
            return ASK
        return SHUTDOWN if state else self._expect(_PUT)

    def _get_many(self, limit: int) -> list[Item] | int:
        words, at = self._words, self._at
        if words[at + 3] & _SERVER:
            return ASK
        head = words[at + 1]
        count = (words[at] >> 32) - (head >> 32) & _LOW
        if not count:
            return SHUTDOWN if words[at + 3] else self._expect(_PUT)
        items = []
        for _ in range(min(limit, count)):
            item, head = self._read(head)
            items.append(item)
        words[at + 1] = head
        self._tell(_TAKEN, len(items))
        return items

    def _read(self, head: int) -> tuple[Item, int]:
        """The oldest item, and the head that makes the next one that."""
        start = head & _LOW
        size = self._sizes[start >> 2]
        if size == _WRAP:
            start = 0
            size = self._sizes[0]
        item = bytes(self._ring[start + 8 : start + 8 + size]), self._sizes[(start >> 2) + 1]
        return item, ((head >> 32) + 1 & _LOW) << 32 | start + (size + 15 & ~7)

    def _task_done(self) -> int:
        words, at = self._words, self._at
        if words[at + 3] & _SERVER:
            return ASK
        unfinished = (words[at] >> 32) - words[at + 2] & _LOW
        if not unfinished:
            return TOO_OFTEN
        words[at + 2] = (words[at + 2] + 1) & _LOW
        if unfinished == 1:
            self._tell(_DONE, 1 << 30)
        return OK

    def _joined(self, _: None) -> int:
        words, at = self._words, self._at
        if words[at + 3] & _SERVER:
            return ASK
        return OK if words[at] >> 32 == words[at + 2] else self._expect(_DONE)

    def _state(self) -> tuple[int, int, bool] | None:
        words, at = self._words, self._at
        if words[at + 3] & _SERVER:
            return None
        puts, gets = words[at] >> 32, words[at + 1] >> 32
        return puts - gets & _LOW, puts - words[at + 2] & _LOW, words[at + 3] != 0

    def _expect(self, what: int) -> int:
        """Say that somebody is about to sleep until that; what it has to see for that."""
        half = 2 * self._at + what
        self._halves[half + 1] = 1
        return self._halves[half]

    def _tell(self, what: int, number: int) -> None:
        """Wake so many of those who sleep until that."""
        half = 2 * self._at + what
        if self._halves[half + 1] and number:
            self._halves[half] = (self._halves[half] + 1) & _LOW
            if self.wake(half, number) < number:
                # All are awake.  Who is about to sleep sees that the value is another.
                self._halves[half + 1] = 0

    def freeze(self, end: float | None) -> None:
        if not self._words[self._at + 3] & _SERVER:
            self.within(self._freeze, end=end)

    def _freeze(self) -> None:
        self._words[self._at + 3] |= _SERVER
        for what in (_PUT, _TAKEN, _DONE):
            self._tell(what, 1 << 30)

    # -- for the server -----------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        return bool(self._words[self._at + 3] & _SERVER)

    def read(self) -> tuple[list[bytes], int, bool]:
        """The items of a frozen one, how many are unfinished, and whether it is shut down."""
        words, at = self._words, self._at
        head, items = words[at + 1], []
        while head >> 32 != words[at] >> 32:
            item, head = self._read(head)
            items.append(_pickled(item))
        return items, (words[at] >> 32) - words[at + 2] & _LOW, bool(words[at + 3] & _SHUT)

    def rouse(self) -> None:
        for what in (_PUT, _TAKEN, _DONE):
            self._rouse(2 * self._at + what)

    def write(self, unfinished: int, shut: bool) -> None:
        """Give it back, inside; it is empty."""
        words, at = self._words, self._at
        words[at] = words[at + 1] = words[at] >> 32 << 32
        words[at + 2] = (words[at] >> 32) - unfinished & _LOW
        words[at + 3] = _SHUT if shut else 0
