"""Barriers of more parties than a pool can run at once: nobody could pass, and everybody is told.

A round is hopeless once every worker of a pool stands in it, calls wait for one of these workers,
and for a while nobody else has come.  (Parties may come from anywhere, so their number alone says
nothing.)
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

from unirun._clock import Appointment, Clock

__all__ = ["Crew", "Crowding", "Gathering", "Pool", "hopeless", "pools"]

PATIENCE = 1.0  # seconds in which nobody else comes


class Crew(NamedTuple):
    """Who works for a pool, and how many calls wait for them to have time."""

    workers: Iterable[Hashable]  # as `_ownership.standing` names them
    waiting: int


class Pool(Protocol):
    """A backend, or who stands for it."""

    @property
    def name(self) -> str: ...
    @property
    def max_workers(self) -> int: ...
    def crew(self) -> Crew: ...


pools: weakref.WeakSet[Pool] = weakref.WeakSet()
"""Those of this process."""


class Gathering(Protocol):
    """A barrier, as far as it matters here."""

    @property
    def key(self) -> int: ...
    @property
    def parties(self) -> int: ...
    def standing(self) -> list[Hashable]: ...
    def give_up(self, reason: str, standing: list[Hashable]) -> None:
        """Break it, if still nobody else stands in it."""


class Crowding:
    """Looks after the barriers that may be too large; the clock is the maker's to close."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ask: Callable[[Gathering, list[Hashable]], None] | None = None
        """Where the pools are in another process: how to have it find out, and `give_up`."""
        # When to look, by barrier.  Each entry is written by whoever waits there, and dropped or
        # put off by the clock's thread: of two that meet, either leaves one that comes later.
        self._looks: dict[Hashable, Appointment] = {}

    def noted(self, gathering: Gathering) -> None:
        """Somebody has just come to that barrier."""
        if self.ask or any(gathering.parties > pool.max_workers for pool in list(pools)):
            before = self._looks.get(gathering.key)
            if before is not None:
                before.cancel()
            self._look_later(gathering)

    def _look_later(self, gathering: Gathering) -> None:
        when = time.monotonic() + PATIENCE
        self._looks[gathering.key] = self._clock.call_at(when, partial(self._look, gathering))

    def _look(self, gathering: Gathering) -> None:
        standing = gathering.standing()
        if not standing:
            self._looks.pop(gathering.key, None)
            return
        if self.ask is not None:
            self.ask(gathering, standing)
        elif (reason := hopeless(gathering.parties, standing)) is not None:
            gathering.give_up(reason, standing)
        self._look_later(gathering)  # until nobody stands there any more


def hopeless(parties: int, standing: list[Hashable]) -> str | None:
    """Why nobody of a round in which these stand will ever pass; None if somebody may."""
    found = (_stuck_in(pool, parties, standing) for pool in list(pools))
    return next(filter(None, found), None)


def _stuck_in(pool: Pool, parties: int, standing: list[Hashable]) -> str | None:
    if parties <= pool.max_workers:
        return None
    crew, size = pool.crew(), pool.max_workers
    stuck = set(crew.workers) & set(standing)
    if len(stuck) < size or not crew.waiting:
        return None
    return (
        f"a barrier of {parties} parties cannot be passed: it holds up all {size} workers of the "
        f"{pool.name!r} backend, and {crew.waiting} calls wait for one of them; "
        f"use max_workers={parties} or more, or fewer parties"
    )
