"""`async for result in executor.map(...)`: what a map hands out, without a thread that waits.

The event loop goes on until a call of the map has ended; what there is then is taken as by a thread
that reads (`_map`), and the window is filled again.  One task reads at a time, as with an async
generator; a task that is cancelled while it waits here leaves nothing of the map behind.
"""

from __future__ import annotations

import time
from _queue import Empty
from concurrent.futures._base import PENDING

from unirun._awaiting import end_all, here
from unirun._context import running
from unirun._map import MAX_PATIENCE, PATIENCE_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._awaiting import Wait
    from unirun._future import Future
    from unirun._map import Mapping, _Chunk

__all__ = ["Reader"]


class Reader:
    """The coroutines' side of one map; all of it belongs to the thread of their event loop, but
    `_ring`."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._busy = False
        self._wait: Wait | None = None
        self._heard: object = None  # the call that rings when it ends
        mapping.on_end = self._ring
        self._feed: Any = mapping._inputs if mapping._inputs.is_async else None

    async def next(self) -> Any:
        if self._busy:
            raise RuntimeError(
                "another task waits for the next result of this map; let one task read it, and "
                "hand the results on by a queue"
            )
        self._busy = True
        try:
            while True:
                for value in self._mapping._batch:
                    return value
                await self._fetch()
        except GeneratorExit:  # dropped: `MapResult.__del__` does the rest
            raise
        except Exception:  # the end, a failure, or no event loop that we know
            self._mapping.close()
            raise
        except BaseException:  # cancelled; or a Ctrl-C that trio has raised here
            futures = [chunk.future for chunk in list(self._mapping._sent)]
            self._mapping.close()
            await end_all(futures)
            raise
        finally:
            self._busy = False

    async def _fetch(self) -> None:
        """Have the next batch handed out."""
        mapping, patience, waited = self._mapping, PATIENCE_SECONDS, False
        mapping.iterated = True
        mapping.unread.discard(mapping)
        if self._feed is not None and not self._feed.started:
            mapping.refused = None
            self._feed.start(mapping.has_place, self._pass_on)
        while not self._try(early=waited):
            left = patience
            if mapping._end is not None:
                left = max(0.0, min(patience, mapping._end - time.monotonic()))
            await self._pause(left)
            waited, patience = True, min(1.5 * patience, MAX_PATIENCE)
        if not waited:
            await here().checkpoint()  # else one whose results are all there would keep the loop

    def _try(self, early: bool) -> bool:
        """Hand out what there is, unless a thread is at it; `early`: `_map`, rule 4."""
        mapping = self._mapping
        if not mapping._reading.acquire(blocking=False):
            return False
        try:
            if not mapping._drawing.acquire(blocking=False):
                return False
            try:
                return self._take(early)
            finally:
                mapping._drawing.release()
        except StopIteration:
            raise StopAsyncIteration from None
        finally:
            mapping._reading.release()

    def _take(self, early: bool) -> bool:
        mapping = self._mapping
        while not mapping.prepare():
            chunk = self._ended()
            if chunk is not None:
                mapping._take(chunk)
            elif not (early and mapping._take_early()):
                mapping._check_time()
                return False
        mapping.hand_out()
        if self._feed is not None:
            self._feed.go_on()
        return True

    def _pass_on(self) -> None:
        """An input has come, or their end."""
        if self._mapping._drawing.acquire(blocking=False):  # else who draws will take it
            try:
                self._mapping._fill(0)
            finally:
                self._mapping._drawing.release()
        self._ring()

    def _ended(self) -> _Chunk | None:
        """A chunk that has ended, in its turn if the map is ordered."""
        mapping = self._mapping
        if mapping._finished is None:
            chunk = mapping._sent[0] if mapping._sent else None
            return chunk if chunk is not None and chunk.future.done() else None
        try:
            return mapping._finished.get_nowait()
        except Empty:
            return None

    async def _pause(self, seconds: float) -> None:
        """Until something has ended, or for so long."""
        wait = self._wait = here()
        if self._feed is not None:
            self._feed.go_on()
        try:
            if self._listen():
                await wait.ended(seconds)
        finally:
            self._wait = None

    def _listen(self) -> bool:
        """Be told by `_ring`; False if something has ended already. After `_wait` was stored: who
        rings looks at it after the end, we look for the end after that."""
        mapping = self._mapping
        try:
            head = mapping._sent[0].future
        except IndexError:  # there is no room for more, or a thread has taken it
            return True
        if running.get() is not None:
            self._help(head)
        if mapping._finished is not None:
            return mapping._finished.empty()
        if head is not self._heard:
            self._heard = head
            head._when_ended(self._ring)
        return not head.done()

    def _help(self, head: Future[Any]) -> None:
        """We are in a call, and hold up what may be needed for those that we wait for."""
        ordered = self._mapping._finished is None
        for future in [head] if ordered else [each.future for each in list(self._mapping._sent)]:
            if future._state is PENDING and future._backend is not None:
                future._backend.awaited(future)

    def _ring(self, _: object = None) -> None:
        """From any thread."""
        wait = self._wait
        if wait is not None:
            wait.wake()
