"""What a place of an engine passes on to the program: what its workers tell, and what happens.

    a worker ──▶ its pool, in the engine's process ──pass_on──▶ the line ──▶ `_far_news`
                                    ◀──took──────────────────── "heard"

1. Nothing of it is dealt with here, in a process that is the engine's: no record of a program's
   call is handled, no line printed, but in the program.
2. A worker is told that something was taken up when the program has done so.  So it waits for the
   program as it would on its machine, and what the program is too slow for is dropped where it
   comes from.
3. Who watches there has this place watch, and only then does it send events.
"""

from __future__ import annotations

import itertools
import weakref

from unirun import _news, _observe
from unirun._events import Courier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Relay", "figures_of"]


class Relay:
    """Of one place; ended by `close`."""

    def __init__(self, say: Callable[..., None], where: str) -> None:
        """`say` sends to the program; `where` is added to the names of workers."""
        self._say = say
        self._where = where
        self._numbers = itertools.count(1)
        # By worker, and by the number it is told under. Only the thread of `_news` adds to them.
        self._told_as: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._by_number: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        # Ours; used by the thread of the line alone.
        self._courier: Courier | None = None
        self._unwatch: Callable[[], None] | None = None

    def pass_on(self, heard: Any, origin: _news.Origin, topic: str, value: Any) -> bool:
        """As `backends.process.news.Heard` says; in the thread of `_news`."""
        number = _number_of(origin.future)
        if number is None and topic in _news.KEPT:
            return False  # of a call that a task here has submitted
        by = self._told_as.get(heard)
        if by is None:
            by = self._told_as[heard] = next(self._numbers)
            self._by_number[by] = heard
        who = origin.task, f"{origin.worker}{self._where}", origin.pid
        self._say("news", by, number or 0, topic, value, who)
        return True

    def took(self, by: int, count: int) -> None:
        """Rule 2."""
        if (heard := self._by_number.get(by)) is not None:
            heard.took(count)

    # -- events -----------------------------------------------------------------------------------

    def watch(self, on: bool, pool: Any) -> None:
        """Rule 3."""
        if on and self._courier is None:
            self._courier = Courier(self._tell_event, "unirun-place-events")
            self._courier.start()
            self._unwatch = _observe.watch(_Eye(id(pool), self._courier.put))
        elif not on:
            self.close()

    def _tell_event(self, event: _observe.Event) -> None:
        number = _number_of(event.future)
        if number is None:
            self._say("event", self._named(event.__dict__))
        elif event.what == "started":
            pid, begun, *rest = figures_of(event.future)
            self._say("began", number, (pid, event.at if begun is None else begun, *rest))
        # All else that happens to its calls the program tells itself.

    def _named(self, known: dict[str, Any]) -> dict[str, Any]:
        worker = known.get("worker")
        return {**known, "worker": f"{worker}{self._where}"} if worker and self._where else known

    def close(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        courier, self._courier = self._courier, None
        if unwatch is not None:
            unwatch()
        if courier is not None:
            courier.stop()


class _Eye:
    """Sees what is of one pool."""

    __slots__ = ("_put", "_source")

    def __init__(self, source: int, put: Callable[[object], None]) -> None:
        self._source = source
        self._put = put

    def __call__(self, event: _observe.Event) -> None:
        if event.source == self._source:
            self._put(event)


def _number_of(future: Any) -> int | None:
    """By which the program knows a call; None for one that a task has submitted."""
    if future is None:
        return None
    number: int | None = future.options.call
    return number


def figures_of(call: Any) -> tuple[Any, ...]:
    """(pid, when it began and ended, on the clock of this machine, processor seconds, peak)."""
    told = call._tell_info()
    return told["pid"], *(told.get(name) for name in ("begun", "ended", "cpu", "peak"))
