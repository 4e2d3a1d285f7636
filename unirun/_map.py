"""Lazy, windowed, adaptively chunked map.

    inputs ──cut──> window of chunks ──submit──> futures ──> batches of results ──> iterator

1. Never more than the window is submitted and not yet handed out, so inputs may be endless and
   memory stays flat.  The window is filled at once, and refilled whenever results are asked for.
2. As with `concurrent.futures`, a map that nobody ever iterates over runs to its end, though its
   result was dropped: at the latest when the executor is shut down.  One that is dropped half-way
   cancels what has not begun.
3. A chunk is one call with several items.  If its worker dies, the items before have their
   outcomes, the one it was at has the crash, and those after it are run again: each item runs once.
4. Results that are there are handed out though their chunk is not done: a slow item holds up
   nothing that comes before it.
"""

from __future__ import annotations

import itertools
import operator
import threading
import time
from _queue import Empty, SimpleQueue  # all of `queue` that is needed
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures._base import FINISHED, PENDING

from unirun import _observe
from unirun._chunk import run_chunk
from unirun._context import running
from unirun._cuts import Chunker, Columns, Inputs, inputs_of
from unirun._deferral import imported, in_finalizer
from unirun._errors import ExecutorShutdown, SerializationError
from unirun._future import Future
from unirun._parts import Outcomes, Parts
from unirun._prompt import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    from unirun._async_inputs import Feed
    from unirun._async_map import Reader
    from unirun._progress import Telling
else:
    Any = Protocol = object  # `typing` takes 3 ms to import

__all__ = ["Chunker", "MapResult"]

PATIENCE_SECONDS = 0.05
"""How long a chunk may hold its results back before they are looked for (rule 4)."""
MAX_PATIENCE = 0.25


class Submit(Protocol):
    def __call__(
        self,
        fn: Callable[..., Any],
        *args: Any,
        on_part: Callable[[bytes, memoryview], None] | None = None,
        first: int = 0,
    ) -> Future[Any]: ...


class _Chunk:
    """Some items on their way, and the outcomes that are there so far."""

    __slots__ = ("future", "items", "parts")

    def __init__(self, items: Columns) -> None:
        self.items = items
        self.parts = Parts()
        self.future: Future[Any]


class MapResult(itertools.chain[Any]):
    """What `Executor.map` returns: an iterator over the results.

    Leaving it half-way (`close()`, or dropping it) cancels what has not begun.
    """

    # A chain of batches, so that going from one result to the next runs none of our code. The
    # batches are iterators that the mapping keeps too: several threads may read from one map.

    _mapping: Mapping
    _reader: Reader | None = None  # for coroutines

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        mapping = Mapping(*args, **kwargs)
        self: Self = cls.from_iterable(mapping)  # type: ignore[assignment]
        self._mapping = mapping
        return self

    def __length_hint__(self) -> int:
        """How many results are still to come, where that is known: the input of another map."""
        return self._mapping.left()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        """The next result, for one task at a time; cancelling it closes the map, and ends what
        runs as cancelling `await future` does."""
        if self._reader is None:
            self._reader = imported("unirun._async_map").Reader(self._mapping)
        return self._reader.next()

    async def aclose(self) -> None:
        """As `close`, for `contextlib.aclosing`."""
        self.close()

    def close(self) -> None:
        """Cancel what has not begun, and end the iteration."""
        self._mapping.close()

    def __del__(self) -> None:
        mapping = self._mapping
        if mapping.iterated and not mapping.closed:
            in_finalizer(mapping.close)


class Mapping:
    """A map at work: an iterator over batches of results, each of them an iterator."""

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
        progress: Telling | None,
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._inputs: Inputs | Feed = inputs_of(iterables)
        self._chunker = chunker
        chunker.limit(window)
        self._single = single  # an item is a call of its own, so that options act on each
        self._window = window  # items
        self._calls: int | None = calls  # chunks; None: all of them
        self._end = None if timeout is None else time.monotonic() + timeout
        self._errors = errors
        self._progress = progress
        self._drawn = self._handed = 0
        self.refused: BaseException | None = None  # raised behind the results there will be
        if self._inputs.is_async:
            self.refused = TypeError("an async iterable can only be read by `async for`")
        self.iterated = self.closed = self.exhausted = False
        self._sent: deque[_Chunk] = deque()
        self._finished: SimpleQueue[_Chunk] | None = None if ordered else SimpleQueue()
        # Collected, with the error to be raised behind the values.
        self._ready: deque[tuple[list[Any], int, BaseException | None]] = deque()
        self._batch: Iterator[Any] = iter(())  # handed out, not all taken
        self.on_end: Callable[[], None] | None = None  # for who does not wait in `_finished`
        self.has_room: Callable[[], bool] = lambda: True  # for a submit that must not wait
        self.unread: set[Mapping] = set()  # keeps us until somebody begins to read
        # Held while inputs are drawn and sent, so that their order is that of the results,
        # though one thread reads and another shuts down. The inputs' own code runs under it.
        self._drawing = threading.RLock()
        # Held by who collects: a reader, or a shutdown. May wait for calls; of locks, for _drawing.
        self._reading = threading.RLock()
        self._fill(0)

    # -- the iterator ---------------------------------------------------------------------------

    def __iter__(self) -> Mapping:
        return self

    def __next__(self) -> Iterator[Any]:
        self.iterated = True
        self.unread.discard(self)
        with self._reading:
            try:
                while True:  # not with a condition, for what `_settle_sent` says
                    if operator.length_hint(self._batch):  # another thread left some
                        return self._batch
                    self._batch = self._next_batch()
            except BaseException:  # the end, a failure; or Ctrl-C, which may tear anything here
                if not self.closed:
                    self.close()
                raise

    def left(self) -> int:
        total = self._inputs.total
        return NotImplemented if total is None else max(0, total - self._taken(0))

    def close(self) -> None:
        self.closed = self.exhausted = True
        self._inputs.stop()
        self.unread.discard(self)
        while self._sent:
            self._sent.pop().future.cancel()
        self._ready.clear()
        self._batch = iter(())
        self._end_progress()

    def drain(self, endless: bool) -> None:
        """Rule 2: submit everything that is left, whatever the window; before a shutdown.

        Inputs that do not tell their length may never end: nothing is drawn from them if somebody
        reads, and only with `endless` if nobody does.
        """
        if self.closed or (self._inputs.total is None and (self.iterated or not endless)):
            return
        self._window, self._calls = 1 << 62, None
        self.has_room = lambda: True  # or wait for it
        self._fill(0)

    def settle(self, until: float | None) -> bool:
        """Wait for what was sent, and send again what failed chunks left over (rule 3), while that
        can be done: before a shutdown. False if the moment `until` passed first."""
        if self._single:
            return True
        if not self._reading.acquire(timeout=_left(until, -1)):
            return False
        try:
            return self._settle_sent(until)
        finally:
            self._reading.release()

    # Apart, since Python 3.13 runs no `finally` for what a signal handler raises as a loop that
    # ends its block turns.
    def _settle_sent(self, until: float | None) -> bool:
        while self._sent and not self.closed:
            if not self._sent[0].future._wait_ended(_left(until, None)):
                return False
            self._collect()
        return True

    # -- results ----------------------------------------------------------------------------------

    def _next_batch(self) -> Iterator[Any]:
        while (self._progress is not None or not self._ready) and not self.prepare():
            self._collect()
        return self.hand_out()

    def prepare(self) -> bool:
        """Send what may be sent; whether there is something to hand out then, without waiting."""
        if self._progress is not None:
            self._progress.start(self._inputs.total)
        if not self._ready:
            self._fill(0)
            if not (self._sent or self._is_held_up()):
                self._end_progress()
                self.closed = True
                raise self.refused or StopIteration
        return bool(self._ready)

    def hand_out(self) -> Iterator[Any]:
        values, count, error = self._ready.popleft()
        if error is not None and not values:
            self.close()
            try:
                raise error
            finally:
                del error  # the traceback must not keep itself alive
        if self._progress is not None:
            values, count = self._one_of(values, count, error)
        elif error is not None:
            self._ready.appendleft(([], 0, error))
        self._handed += count
        self._batch = batch = iter(values)
        if self._progress is not None:
            self._progress.update(self._handed, self._sent)
        self._fill(1)
        return batch

    def _one_of(
        self, values: list[Any], count: int, error: BaseException | None
    ) -> tuple[list[Any], int]:
        """A batch of one, where progress is told after each result."""
        if len(values) > 1 or error is not None:
            self._ready.appendleft((values[1:], count - 1, error))
            return values[:1], 1
        return values, count

    def _taken(self, asked: int) -> int:
        """Items whose results have been taken; `asked`: results that are just being taken."""
        return self._handed - max(0, operator.length_hint(self._batch) - asked)

    def _make_ready(self, outcomes: Outcomes) -> None:
        values, errors = outcomes.values, outcomes.errors
        count = len(values)
        if not errors:
            if values:
                self._ready.append((values, count, None))
        elif self._errors == "return":
            for at, error in errors.items():
                values[at] = error
            self._ready.append((values, count, None))
        elif self._errors == "skip":
            values = [value for at, value in enumerate(values) if at not in errors]
            self._ready.append((values, count, None))
        else:
            first = min(errors)
            self._ready.append((values[:first], first, errors[first]))

    def _end_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.close()

    # -- sending ----------------------------------------------------------------------------------

    def _fill(self, asked: int) -> None:
        """Rule 1."""
        try:
            with self._drawing:
                self._draw(asked)
        except Exception as exc:  # of the inputs, or since nothing can be sent any more
            if not (self.iterated or isinstance(exc, ExecutorShutdown)):
                raise
            self.exhausted, self.refused = True, exc  # raised behind the results there will be

    def _draw(self, asked: int) -> None:
        while not self.exhausted and self._may_send_more():
            room = self._window - (self._drawn - self._taken(asked))
            total = self._inputs.total
            size = self._chunker.next(None if total is None else total - self._drawn)
            if room < size and (room <= 0 or (self.iterated and self._sent)):
                return  # a short chunk only where nothing else is under way
            size = min(size, room)
            items = self._inputs.take(size)
            if (taken := len(items)) < size:
                self.exhausted = self._inputs.is_over(taken, size)
                if not taken:
                    return
            self._drawn += taken
            self._send(_Chunk(items), last=True)

    def _may_send_more(self) -> bool:
        if self.on_end is not None and not self.has_room():
            return False  # a submit would make the event loop wait
        return self._calls is None or len(self._sent) < self._chunker.calls(self._calls)

    def has_place(self, drawn: int) -> bool:
        """Whether to draw another item, where so many are drawn and not yet sent."""
        room = self._window - (self._drawn - self._taken(0))
        return drawn < min(room, self._chunker.size)

    def _is_held_up(self) -> bool:
        """Whether a coroutine, which waits for neither room nor inputs, has found none."""
        return self.on_end is not None and not self.exhausted

    def _send(self, chunk: _Chunk, *, last: bool) -> None:
        items = chunk.items
        if self._single:
            chunk.future = self._submit(self._fn, *items.args(), first=items.first)
        else:
            known: Any = {"on_part": chunk.parts.hear, "first": items.first}
            submit = self._submit
            if _observe.watchers:
                submit = _observe.piecewise(submit, len(items))
            chunk.future = submit(run_chunk, self._fn, items.columns, **known)
        if last:
            self._sent.append(chunk)
        else:
            self._sent.appendleft(chunk)
        if self._finished is not None:
            chunk.future.add_done_callback(lambda _: self._note_end(chunk))

    def _note_end(self, chunk: _Chunk) -> None:
        assert self._finished is not None
        self._finished.put(chunk)
        if self.on_end is not None:
            self.on_end()

    # -- collecting -------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Wait for a chunk to end, or for results of one that does not, and take them."""
        chunk = self._wait()
        if chunk is not None:
            self._take(chunk)

    def _take(self, chunk: _Chunk) -> None:
        """It has ended."""
        self._sent.remove(chunk)
        error = _error_of(chunk.future)
        if self._single:
            if error is None:
                self._ready.append(([chunk.future.result()], 1, None))
            else:
                self._make_ready(Outcomes([None], {0: error}))
            return
        if error is None:
            seconds, found = chunk.parts.take_answer(chunk.future.result())
            self._chunker.learn(len(chunk.items), seconds)
        else:
            found = chunk.parts.take_unsaid(chunk.future)
            found.append(self._after_failure(chunk, error))
        self._make_all_ready(chunk, found)

    def _make_all_ready(self, chunk: _Chunk, found: list[Outcomes]) -> None:
        for outcomes in found:
            if outcomes.errors:
                imported("unirun._call_notes").note_items(chunk.future, chunk.items, outcomes)
            self._make_ready(outcomes)

    def _wait(self) -> _Chunk | None:
        """A chunk that has ended; None if there are results of one that has not."""
        patience = PATIENCE_SECONDS
        while True:
            left = _left(self._end, None)
            if not self._single or self._progress is not None:
                left = patience if left is None else min(left, patience)
            chunk = self._wait_for(left)
            if chunk is not None:
                return chunk
            if self._take_early():
                return None
            self._check_time()
            patience = min(1.5 * patience, MAX_PATIENCE)

    def _check_time(self) -> None:
        if self._progress is not None:
            self._progress.update(self._handed, self._sent)
        if self._end is not None and time.monotonic() >= self._end:
            self.close()
            raise TimeoutError

    def _wait_for(self, seconds: float | None) -> _Chunk | None:
        """A chunk that has ended within that time."""
        if running.get() is not None:
            self._help()
        if self._finished is None:
            return self._sent[0] if self._sent[0].future._wait(seconds) else None
        try:
            return self._finished.get(timeout=span(seconds))
        except Empty:
            return None

    def _help(self) -> None:
        """We are in a call, and hold up what may be needed for those that we wait for."""
        waiting = [chunk.future for chunk in self._sent if chunk.future._state is PENDING]
        if self._finished is not None:
            for future in waiting:
                if future._backend is not None:
                    future._backend.awaited(future)
        elif waiting and self._end is None and waiting[0]._backend is not None:
            waiting[0]._backend.help_with(waiting[0])

    def _take_early(self) -> bool:
        """Rule 4."""
        if self._single:
            return False
        chunks = list(self._sent)[: 1 if self._finished is None else None]
        some = False
        for chunk in chunks:
            found = chunk.parts.take_unsaid(chunk.future)
            self._make_all_ready(chunk, found)
            some = some or bool(found)
        return some

    def _after_failure(self, chunk: _Chunk, error: BaseException) -> Outcomes:
        """Rule 3."""
        done, total = chunk.parts.taken, len(chunk.items)
        if isinstance(error, SerializationError) and total - done > 1:
            # One of them cannot be sent. Nothing has run, so they are halved until it is found.
            middle = (done + total) // 2
            self._send(_Chunk(chunk.items.cut(middle)), last=False)
            self._send(_Chunk(chunk.items.cut(done, middle)), last=False)
            return Outcomes([])
        left = total - done
        if not left:
            return Outcomes([])
        if (
            type(error) is CancelledError
            or getattr(error, "unaccounted", False)  # nobody knows which items have run
            or self.closed
            or not self._send_again(chunk.items.cut(done + 1))
        ):
            return Outcomes([None] * left, dict.fromkeys(range(left), error))
        return Outcomes([None], {0: error})

    def _send_again(self, items: Columns) -> bool:
        """False where nothing can be sent any more."""
        try:
            if len(items):
                self._send(_Chunk(items), last=False)
        except ExecutorShutdown:
            return False
        return True


def _left(until: float | None, unlimited: Any) -> Any:
    return unlimited if until is None else max(0.0, until - time.monotonic())


def _error_of(future: Future[Any]) -> BaseException | None:
    if future._state == FINISHED:
        return future._exception
    return future._failure() if future.cancelled() else future.exception()
