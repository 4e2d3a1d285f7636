"""Lazy, windowed, adaptively chunked map.

    inputs ──next──> window of chunks ──submit──> futures ──> iterator

1. Never more than the window is submitted and not yet handed out, so inputs may be endless and
   memory stays flat.  The window is filled at once and refilled whenever an item is taken.
2. As with `concurrent.futures`, a map that nobody ever iterates over runs to its end, though its
   result was dropped: at the latest when the executor is shut down.  One that is dropped half-way
   cancels what has not begun.
3. A chunk is one call with several items.  If its worker dies, the items before have their
   outcomes, the one it was at has the crash, and those after it are run again: each item runs once.
"""

from __future__ import annotations

import itertools
import math
import operator
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Protocol

from unirun._chunk import run_chunk
from unirun._errors import ExecutorShutdown, SerializationError
from unirun._future import Future
from unirun._payload import loads

if TYPE_CHECKING:
    from unirun._progress import Progress

__all__ = ["Chunker", "MapResult", "OpenMaps"]

TARGET_SECONDS = 0.005
"""How long a chunk of automatic size should take: many times what sending it costs."""
MAX_CHUNK = 2048
MAX_GROWTH = 4


class Submit(Protocol):
    def __call__(
        self, fn: Callable[..., Any], *args: Any, on_part: Callable[[bytes], None] | None = None
    ) -> Future[Any]: ...


class Chunker:
    """How many items go into one call: a fixed number, or grown until a call takes 5 ms."""

    def __init__(self, size: int | None, workers: int) -> None:
        self.size = size or 1
        self._adaptive = size is None
        self._workers = workers

    def next(self, left: int | None) -> int:
        """`left`: items that are left, where known: the last ones are shared evenly."""
        if not self._adaptive or left is None:
            return self.size
        return max(1, min(self.size, math.ceil(left / (4 * self._workers))))

    def learn(self, items: int, seconds: float) -> None:
        if self._adaptive and items:
            ideal = TARGET_SECONDS / max(seconds / items, 1e-7)
            self.size = int(max(1, min(ideal, self.size * MAX_GROWTH, MAX_CHUNK)))


class _Chunk:
    """Some items on their way, and the outcomes that are there so far."""

    __slots__ = ("future", "items", "outcomes")

    def __init__(self, items: list[tuple[Any, ...]]) -> None:
        self.items = items
        self.outcomes: list[tuple[bool, Any]] = []
        self.future: Future[Any]

    def hear(self, part: bytes) -> None:
        """An outcome sent ahead; kept as bytes, since the pool's loop calls this."""
        self.outcomes.append((part[:1] == b"+", memoryview(part)[1:]))


class MapResult(Iterator[Any]):
    """What `Executor.map` returns: an iterator over the results.

    Leaving it half-way (`close()`, or dropping it) cancels what has not begun.
    """

    _refused: ExecutorShutdown | None = None
    _iterated = False
    _closed = True  # until it has begun, there is nothing to close

    def __init__(
        self,
        submit: Submit,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        chunker: Chunker,
        single: bool,
        window: int,
        calls: int,
        timeout: float | None,
        ordered: bool,
        errors: str,
        progress: Progress | None,
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._total = _length(iterables)
        self._inputs = zip(*iterables, strict=False)
        self._chunker = chunker
        self._single = single  # an item is a call of its own, so that options act on each
        self._window = window  # items
        self._calls = calls  # chunks
        self._end = None if timeout is None else time.monotonic() + timeout
        self._errors = errors
        self._progress = progress
        self._drawn = self._in_flight = self._done = 0
        self._exhausted = self._closed = self._iterated = False
        self._sent: deque[_Chunk] = deque()
        self._finished: queue.SimpleQueue[_Chunk] | None = None if ordered else queue.SimpleQueue()
        self._ready: deque[tuple[bool, Any]] = deque()
        self._unread: set[MapResult] = set()  # keeps us until somebody begins to read
        # Held while inputs are drawn and sent, so that their order is that of the results,
        # though one thread reads and another shuts down. The inputs' own code runs under it.
        self._drawing = threading.RLock()
        # Held by who collects: a reader, or a shutdown. May wait for calls, never for another lock
        # but _drawing.
        self._reading = threading.RLock()
        if progress is not None:
            progress.start(self._total)
        self._fill()

    # -- the iterator ---------------------------------------------------------------------------

    def __iter__(self) -> MapResult:
        return self

    def __length_hint__(self) -> int:
        """How many results are still to come, where that is known: the input of another map."""
        return NotImplemented if self._total is None else max(0, self._total - self._done)

    def __next__(self) -> Any:
        self._iterated = True
        self._unread.discard(self)
        while True:
            ok, value = self._next_outcome()
            if ok or self._errors == "return":
                return value
            if self._errors == "raise":
                self.close()
                try:
                    raise value
                finally:
                    del value  # the traceback must not keep itself alive

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration."""
        self._closed = self._exhausted = True
        self._unread.discard(self)
        while self._sent:
            self._sent.pop().future.cancel()
        self._ready.clear()
        self._end_progress()

    def __del__(self) -> None:
        if self._iterated and not self._closed:
            self.close()

    def drain(self, endless: bool) -> None:
        """Rule 2: submit everything that is left, whatever the window; before a shutdown.

        Inputs that do not tell their length may never end: nothing is drawn from them if somebody
        reads, and only with `endless` if nobody does.
        """
        if self._closed or (self._total is None and (self._iterated or not endless)):
            return
        self._window = self._calls = 1 << 62
        self._fill()

    def settle(self, until: float | None) -> bool:
        """Wait for what was sent, and send again what failed chunks left over (rule 3), while that
        can be done: before a shutdown. False if the moment `until` passed first."""
        if self._single:
            return True
        if not self._reading.acquire(timeout=_left(until, -1)):
            return False
        try:
            while self._sent and not self._closed:
                if not self._sent[0].future._wait_ended(_left(until, None)):
                    return False
                self._collect()
        finally:
            self._reading.release()
        return True

    # -- the machinery --------------------------------------------------------------------------

    def _next_outcome(self) -> tuple[bool, Any]:
        with self._reading:
            while not self._ready:
                self._fill()
                if not self._sent:
                    self._end_progress()
                    self._closed = True
                    raise self._refused or StopIteration
                self._collect()
        self._in_flight -= 1
        self._done += 1
        outcome = self._ready.popleft()
        if self._progress is not None:
            self._progress.update(self._done)
        self._fill()
        return outcome

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _fill(self) -> None:
        """Rule 1."""
        try:
            with self._drawing:
                self._draw()
        except ExecutorShutdown as exc:  # raised behind the outcomes that there will be
            self._exhausted, self._refused = True, exc

    def _draw(self) -> None:
        while (
            not self._exhausted and self._in_flight < self._window and len(self._sent) < self._calls
        ):
            left = None if self._total is None else self._total - self._drawn
            size = min(self._chunker.next(left), self._window - self._in_flight)
            items = list(itertools.islice(self._inputs, size))
            if len(items) < size:
                self._exhausted = True
            if not items:
                return
            self._drawn += len(items)
            self._in_flight += len(items)
            self._send(_Chunk(items), last=True)

    def _send(self, chunk: _Chunk, *, last: bool) -> None:
        if self._single:
            chunk.future = self._submit(self._fn, *chunk.items[0])
        else:
            chunk.future = self._submit(run_chunk, self._fn, chunk.items, on_part=chunk.hear)
        if last:
            self._sent.append(chunk)
        else:
            self._sent.appendleft(chunk)
        if self._finished is not None:
            finished = self._finished
            chunk.future.add_done_callback(lambda _: finished.put(chunk))

    def _collect(self) -> None:
        """Wait for a chunk to end and take its outcomes."""
        chunk = self._wait()
        self._sent.remove(chunk)
        error = _error_of(chunk.future)
        if self._single:
            value = None if error is not None else chunk.future.result()
            self._ready.append((error is None, error if error is not None else value))
            return
        outcomes = [(ok, _load(ok, value)) for ok, value in chunk.outcomes]
        if error is None:
            seconds, rest = chunk.future.result()
            outcomes += rest
            self._chunker.learn(len(chunk.items), seconds)
        else:
            outcomes += self._after_failure(chunk, error, len(outcomes))
        self._ready += outcomes

    def _wait(self) -> _Chunk:
        left = None if self._end is None else max(0.0, self._end - time.monotonic())
        try:
            if self._finished is not None:
                return self._finished.get(timeout=left)
            self._sent[0].future.exception(left)
        except queue.Empty:
            self.close()
            raise TimeoutError from None
        except TimeoutError:
            if not self._sent[0].future.done():
                self.close()
                raise
        except BaseException:  # cancelled or killed: an outcome too. Ctrl-C while we wait: not.
            if not self._sent[0].future.done():
                self.close()
                raise
        return self._sent[0]

    def _after_failure(
        self, chunk: _Chunk, error: BaseException, done: int
    ) -> list[tuple[bool, Any]]:
        """Rule 3."""
        left = chunk.items[done:]
        if isinstance(error, SerializationError) and len(left) > 1:
            # One of them cannot be sent. Nothing has run, so each goes alone.
            for item in reversed(left):
                self._send(_Chunk([item]), last=False)
            return []
        if type(error) is CancelledError or self._closed or not self._send_again(left[1:]):
            return [(False, error)] * len(left)
        return [(False, error)] if left else []

    def _send_again(self, items: list[tuple[Any, ...]]) -> bool:
        """False where nothing can be sent any more."""
        try:
            if items:
                self._send(_Chunk(items), last=False)
        except ExecutorShutdown:
            return False
        return True


class OpenMaps:
    """The maps of one executor that may have inputs left."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[MapResult] = weakref.WeakSet()
        self._unread: set[MapResult] = set()

    def add(self, result: MapResult) -> None:
        self._all.add(result)
        if not result._exhausted:
            result._unread = self._unread
            self._unread.add(result)

    def settle(self, until: float | None) -> bool:
        """Wait for what was sent and what comes of it; False if the moment passed first."""
        return all(result.settle(until) for result in list(self._all))

    def complete(self, *, endless: bool) -> None:
        """Rule 2, for all of them."""
        for result in list(self._all):
            result.drain(endless)
        self._unread.clear()


def _left(until: float | None, unlimited: Any) -> Any:
    return unlimited if until is None else max(0.0, until - time.monotonic())


def _load(ok: bool, value: Any) -> Any:
    if not isinstance(value, memoryview):
        return value
    if ok:
        return loads(value)
    from unirun._remote import decode

    return decode(bytes(value))


def _error_of(future: Future[Any]) -> BaseException | None:
    if future.cancelled():
        return future._failure()
    return future.exception()


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """How many items there will be; None where no input tells."""
    # A hint will do, such as an iterator over a list gives: no result depends on it.
    hints = [operator.length_hint(each, -1) for each in iterables]
    return min((hint for hint in hints if hint >= 0), default=None)


def check_size(name: str, value: Any) -> int:
    """A whole number of 1 or more, with the standard library's errors."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be >= 1.")
    return size
