"""Inputs of a map that are async iterables: a task of the event loop's own draws them.

    sources ── anext ──> Feed ── take ──> the map's window        a reader takes results: room again

It draws while there is room in the window, also while the reader waits for a result: a slow source
holds up no results, and a slow call no source.  Several inputs are drawn side by side, as by `zip`.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import CancelledError
from types import AsyncGeneratorType

from unirun._awaiting import here
from unirun._cuts import Columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._awaiting import Wait

__all__ = ["Feed"]

LOGGER = logging.getLogger("concurrent.futures")  # where what done-callbacks raise goes, too
_END = object()


class Feed:
    """As `Inputs`; all of it belongs to the thread of the event loop, but `stop`."""

    is_async = True
    total = None
    error: BaseException | None = None

    def __init__(self, iterables: tuple[Any, ...]) -> None:
        self._sources = [
            aiter(each) if hasattr(each, "__aiter__") else iter(each) for each in iterables
        ]
        self._items: deque[tuple[Any, ...]] = deque()
        self.started = self._over = self._stopped = False
        self._at = 0  # how many were taken
        self._wait: Wait | None = None
        self._cancel: Callable[[], None] = lambda: None  # from any thread

    # -- as `Inputs` ------------------------------------------------------------------------------

    def take(self, count: int) -> Columns:
        """The next items that are there."""
        drawn = [self._items.popleft() for _ in range(min(count, len(self._items)))]
        if not drawn and self.error is not None:
            raise self.error
        first, self._at = self._at, self._at + len(drawn)
        return Columns(tuple(zip(*drawn, strict=True)) or ((),), first)

    def is_over(self, taken: int, asked: int) -> bool:
        return taken < asked and self._over and self.error is None

    def stop(self) -> None:
        """Nobody wants more of them; from any thread."""
        self._stopped = True
        self._cancel()

    # -- drawing ----------------------------------------------------------------------------------

    def start(self, has_room: Callable[[int], bool], on_item: Callable[[], None]) -> None:
        """Begin to draw, in a task beside the one that runs.

        `has_room(drawn)` says whether to draw more than is there; `on_item` hears of each, and of
        the end.
        """
        self.started = True
        self._cancel = here().begin(self._draw_all(has_room, on_item))

    def go_on(self) -> None:
        """There may be room again."""
        if self._wait is not None:
            self._wait.wake()

    async def _draw_all(self, has_room: Callable[[int], bool], on_item: Callable[[], None]) -> None:
        try:
            while not self._stopped:
                if not has_room(len(self._items)):
                    wait = self._wait = here()
                    await wait.ended()
                    self._wait = None
                elif await self._draw():
                    on_item()
                else:
                    break
        except Exception as exc:  # the inputs' own, raised behind the results there will be  # noqa: BLE001
            self.error = exc
        except GeneratorExit:
            raise
        except BaseException:  # by `stop`; or they are another task's, and that was cancelled
            self.error = CancelledError("the inputs of the map were cancelled")
            raise
        finally:
            self._over = True
            on_item()
            if self._stopped:
                await self._close()

    async def _draw(self) -> bool:
        """One item of each source; False at the end of any."""
        item: list[Any] = []
        for source in self._sources:
            is_async = hasattr(source, "__anext__")
            value = await anext(source, _END) if is_async else next(source, _END)
            if value is _END:
                return False
            item.append(value)
        self._items.append(tuple(item))
        return True

    async def _close(self) -> None:
        """Generators that were handed over are nobody's but the map's."""
        for source in self._sources:
            if type(source) is not AsyncGeneratorType:
                continue
            try:
                await here().shielded(source.aclose())
            except Exception:  # user code, for which nobody waits
                LOGGER.exception("an async generator failed when the map that drew it was closed")
