"""Who still refers to which shared object: a pure ledger, kept by the host of the objects.

Whoever may have something to say, a finalizer under any lock included, only appends to `news`;
the host's thread alone takes it from there.  There is no clock, no lock and no I/O here.
Light: it is where a worker's links find the words.

    create ─┐                                    ┌─▶ nobody refers to it, and it never left its
    attach ─┤          ┌────────────┐            │   process: free it at once
    detach ─┼─▶ news ─▶│ References │─▶ settle ──┤
    escape ─┤          └────────────┘            └─▶ it did leave: free it some seconds later,
    gone   ─┘                                        unless somebody attaches to it until then

1. A holder is a process (by its link, see `_links.py`) or HOME: the owner process, and everything
   inside the host that refers to an object, as an item with a handle in it does.
2. An object that nobody has attached to yet is not freed: whoever made it is about to.
3. An object that was ever pickled may be on its way to somebody who has not attached yet; LINGER
   is what it has for that where nobody keeps it alive on its way.  To a process that is just being
   started that may be long, since it imports the program first: START_LINGER.
4. What a holder says concerns its own references only, so no peer can free what others refer to.
5. Objects that contain one another are never free by themselves; they go with their host.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any, TypeAlias

    News: TypeAlias = tuple[int, Hashable, int]  # what, by which holder, about which object

__all__ = [
    *("ATTACH", "CREATED", "DETACH", "ESCAPE", "ESCAPE_TO_CHILD", "GONE", "HOME", "LINGER"),
    *("START_LINGER", "References"),
]

LINGER = 5.0
"""Seconds that an object lives on which has left its process and which nobody refers to."""
START_LINGER = 60.0
"""The same for one that was ever given to a process that was being started."""

CREATED, ATTACH, DETACH, ESCAPE, ESCAPE_TO_CHILD, GONE = range(6)
HOME = None


class References:
    """The ledger.  `news` may be appended to from anywhere; the rest is for one thread."""

    def __init__(self) -> None:
        self.news: deque[News] = deque()
        self._counts: dict[int, int] = {}  # references by object, of all that there are
        self._held: dict[Hashable, dict[int, int]] = {}  # the same by holder, HOME left out
        self._escaped: dict[int, bool] = {}  # object -> whether to a process being started
        # Object -> when it is to go, in that order; for each value in `_escaped`.
        self._lingering: tuple[dict[int, float], dict[int, float]] = ({}, {})

    def hear(self, holder: Hashable, message: list[Any]) -> bool:
        """Note what came by a link: id to attach, -id to detach, (id, whether to a process that is
        being started) to escape; False if it is none of that."""
        for what in message:
            match what:
                case int():
                    self.news.append((ATTACH if what > 0 else DETACH, holder, abs(what)))
                case (int() as object_id, bool() as to_child):
                    self.news.append((ESCAPE_TO_CHILD if to_child else ESCAPE, holder, object_id))
                case _:
                    return False
        return True

    def next_ends(self) -> list[float]:
        """When the next object will have lingered for long enough, if there is one."""
        return [end for each in self._lingering for end in islice(each.values(), 1)]

    def settle(self, now: float) -> list[int]:
        """Take in the news; returns the objects that are to be freed."""
        free: list[int] = []
        while self.news:
            what, holder, object_id = self.news.popleft()
            if what == CREATED:
                self._counts[object_id] = 0
            elif what == GONE:
                for each, count in self._held.pop(holder, {}).items():
                    self._drop(each, count, now, free)
            elif object_id in self._counts:  # else it was freed before
                self._take_in(what, holder, object_id, now, free)
        for lingering in self._lingering:
            while lingering and next(iter(lingering.values())) <= now:
                self._forget(next(iter(lingering)), free)
        return free

    def _take_in(
        self, what: int, holder: Hashable, object_id: int, now: float, free: list[int]
    ) -> None:
        if what == ESCAPE:
            self._escaped.setdefault(object_id, False)
        elif what == ESCAPE_TO_CHILD:
            self._escaped[object_id] = True
        elif what == ATTACH:
            self._counts[object_id] += 1
            self._stays(object_id)
            if holder is not HOME:
                own = self._held.setdefault(holder, {})
                own[object_id] = own.get(object_id, 0) + 1
        elif holder is HOME or self._lets_go(holder, object_id):
            self._drop(object_id, 1, now, free)

    def _lets_go(self, holder: Hashable, object_id: int) -> bool:
        """Rule 4."""
        own = self._held.get(holder, {})
        count = own.pop(object_id, 0)
        if count > 1:
            own[object_id] = count - 1
        return count > 0

    def _drop(self, object_id: int, count: int, now: float, free: list[int]) -> None:
        self._counts[object_id] -= count
        if self._counts[object_id] > 0:
            return
        to_child = self._escaped.get(object_id)
        if to_child is None:
            self._forget(object_id, free)
        else:
            self._lingering[to_child][object_id] = now + (START_LINGER if to_child else LINGER)

    def _stays(self, object_id: int) -> None:
        for lingering in self._lingering:
            lingering.pop(object_id, None)

    def _forget(self, object_id: int, free: list[int]) -> None:
        del self._counts[object_id]
        self._stays(object_id)
        self._escaped.pop(object_id, None)
        free.append(object_id)
