"""The coordinator of a host whose objects may have cells (see `_cells.py`).

    request for an object ──▶ take: freeze its cell, tell the object what is in it
                              … the coordinator serves, by its rules …
                              give back: once nobody waits for the object and nothing is unsettled,
                              write its state into the cell, and let it go

So the rules are the coordinator's, and a cell is what an object is kept in while there is nothing
to decide.  The host's thread waits for nobody who is inside a cell: a request that finds somebody
there is answered "again", and a death that cannot be seen to now is seen to a few milliseconds on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from unirun._cell_barriers import MOST_PARTIES, BarrierCell, EventCell
from unirun._cell_locks import LockCell
from unirun._cell_queues import QueueCell
from unirun._cells import COUNT, RINGS, Reentered, Segment, TooLate
from unirun._hosted_barriers import Barrier, Event
from unirun._hosted_locks import Lock
from unirun._hosted_queues import Queue
from unirun._segments import AGAIN, tagged
from unirun.coordinator import Coordinator, Kinds, Reply, SharedObject

__all__ = ["CelledCoordinator"]

RETRY: Final = 0.005  # seconds until a death is seen to again
MOMENT: Final = 0.05  # seconds to wait for somebody inside, where nobody can be asked to come again


class Place(NamedTuple):
    """Where the state of an object is kept."""

    cell: Any
    number: int
    ring: int | None


class CelledCoordinator(Coordinator):
    """A coordinator that keeps in cells what it can; for its host it is like any other."""

    def __init__(
        self, kinds: Kinds, first_id: int, check: Callable[[], None], *, cells: bool
    ) -> None:
        """`check` raises ManagerLost once the host serves nobody any more."""
        super().__init__(kinds, first_id)
        self.segment = Segment.make(check) if cells else None
        self._places: dict[SharedObject, Place] = {}
        self._here: dict[SharedObject, None] = {}  # whose cells are frozen, and read
        self._unused = deque(range(COUNT if self.segment else 0))
        self._rings = deque(range(RINGS))
        self._made: set[int] = set()  # the cells that have a mutex, once and for all
        self._seats = count(1)
        self._sitting: dict[int, Any] = {}
        self._unburied: list[int] = []  # dead seats that a cell may still show
        self._undone: list[Any] = []  # lost sessions with something that could not be taken

    # -- events ---------------------------------------------------------------------------------

    def enroll(self, session: Any) -> int:
        """The number by which that session is known in cells, never to be used again."""
        session.seat = seat = next(self._seats)
        self._sitting[seat] = session
        return seat

    def request(
        self,
        session: Any,
        request_id: int,
        op: str,
        object_id: int,
        args: Sequence[Any] = (),
        deadline: float | None = None,
        late: bool = False,
    ) -> list[Reply]:
        subject = self._objects.get(object_id)
        if subject is not None and op not in subject.apart and not self._take_all(subject):
            return [(session, request_id, AGAIN, None)]
        replies = super().request(session, request_id, op, object_id, args, deadline, late)
        self._give_back()
        return replies

    def acknowledge(self, session: Any, request_id: int) -> None:
        super().acknowledge(session, request_id)
        self._give_back()

    def cancel(self, session: Any, request_id: int) -> list[Reply]:
        replies = super().cancel(session, request_id)
        self._give_back()
        return replies

    def expire(self, now: float) -> list[Reply]:
        replies = super().expire(now)
        self._give_back()
        return replies

    def spoil(self, object_id: int, reason: str) -> list[Reply]:
        replies = super().spoil(object_id, reason)
        self._give_back()
        return replies

    def end_task(
        self, session: Any, acquired: Sequence[tuple[int, int]]
    ) -> tuple[list[Reply], list[str]]:
        for object_id, _ in acquired:
            subject = self._objects.get(object_id)
            if subject is not None:
                self._take_all(subject, MOMENT)
        answer = super().end_task(session, acquired)
        self._give_back()
        return answer

    def session_lost(self, session: Any) -> list[Reply]:
        seat = getattr(session, "seat", None)
        if not all(self._take_all(each) for each in self._holdings.get(session, ())):
            self._undone.append(session)
            return []
        if seat is not None:
            self._sitting.pop(seat, None)
            self._unburied.append(seat)
        replies = super().session_lost(session)
        self._bury()
        self._give_back()
        return replies

    def look_after_deaths(self) -> list[Reply]:
        """See to what could not be done at once."""
        undone, self._undone = self._undone, []
        replies = [reply for session in undone for reply in self.session_lost(session)]
        self._bury()
        return replies

    @property
    def retry(self) -> float | None:
        """Seconds until `look_after_deaths` has something to do; None if it has nothing."""
        return RETRY if self._unburied or self._undone else None

    @property
    def fd(self) -> int | None:
        """What other processes map; None if there is nothing."""
        return None if self.segment is None else self.segment.fd

    def close(self) -> None:
        """Nobody is served any more: whoever sleeps in a cell learns it."""
        segment, self.segment = self.segment, None
        if segment is not None:
            segment.close()
            self._rouse()
            self._places.clear()
            self._here.clear()
            segment.release()

    def disown(self) -> None:
        """In a forked child: what we see of the memory is the parent's."""
        segment, self.segment = self.segment, None
        if segment is not None:
            self._places.clear()
            self._here.clear()
            segment.release()

    # -- cells ----------------------------------------------------------------------------------

    def _new_id(self, subject: SharedObject) -> int:
        number = super()._new_id(subject)
        place = self._place_for(subject)
        if place is None:
            return tagged(number, None)
        self._places[subject] = place
        object_id = tagged(number, place.number)
        place.cell.begin(object_id)
        return object_id

    def _place_for(self, subject: SharedObject) -> Place | None:
        segment = self.segment
        if segment is None or not self._unused:
            return None
        ring, index = None, self._unused[0]
        cell: Any
        if isinstance(subject, Lock):
            cell = LockCell(segment, index)
        elif isinstance(subject, Event):
            cell = EventCell(segment, index)
        elif isinstance(subject, Barrier) and subject.is_plain and subject.parties <= MOST_PARTIES:
            cell = BarrierCell(segment, index)
        elif isinstance(subject, Queue) and subject.kind == "Queue" and self._rings:
            ring = self._rings[0]
            try:
                cell = QueueCell(segment, index, subject.maxsize, ring)
            except (OSError, ValueError):
                return None  # no room in the address space
            self._rings.popleft()
        else:
            return None
        self._unused.popleft()
        if index not in self._made:
            cell.make()
            self._made.add(index)
        return Place(cell, index, ring)

    def remove(self, object_id: int) -> list[Reply]:
        subject = self._objects.get(object_id)
        if subject is not None:
            self._take_all(subject, MOMENT)
        replies = super().remove(object_id)
        place = None if subject is None else self._places.pop(subject, None)
        if subject is not None and place is not None:
            self._here.pop(subject, None)
            # A handle that comes too late is told by us that it is gone.
            place.cell.end()
            if not place.cell.is_frozen:
                return replies  # somebody may be inside for ever: nothing else comes there
            self._unused.append(place.number)
            if place.ring is not None and self.segment is not None:
                self.segment.empty_ring(place.ring)
                self._rings.append(place.ring)
        return replies

    def _take_all(self, subject: SharedObject, patience: float = 0.0) -> bool:
        """Keep that object here, and those it is made of; False if somebody is inside."""
        return all(self._take(each, patience) for each in (subject, *subject.made_of))

    def _take(self, subject: SharedObject, patience: float) -> bool:
        place = self._places.get(subject)
        if place is None or subject in self._here:
            return True
        if not place.cell.is_frozen:
            try:
                place.cell.freeze(time.monotonic() + patience)
            except TooLate:
                return False
        place.cell.fence()  # somebody else may have frozen it
        state = place.cell.read()
        if isinstance(subject, Lock):
            seat, depth, abandoned = state
            owner = self._sitting.get(seat)
            gone = seat != 0 and owner is None
            state = (owner, 0 if gone else depth, abandoned or gone)
        subject.take_over(*state)
        self._here[subject] = None
        return True

    def _give_back(self) -> None:
        for subject in list(self._here) if self._here else ():
            cell = self._places[subject].cell
            try:
                # Inside: who is there on the way to freeze it writes back what it has read.
                cell.within(self._give, subject, cell, end=time.monotonic())
            except (TooLate, Reentered):
                continue  # it may stay here

    def _give(self, subject: SharedObject, cell: Any) -> None:
        state = subject.hand_over()
        if state is None:
            return
        if isinstance(subject, Lock):
            state = (0 if state[0] is None else state[0].seat, *state[1:])
        del self._here[subject]
        cell.write(*state)

    def _bury(self) -> None:
        """What dead seats hold in cells is free, where they wait in cells nobody passes."""
        left = []
        for seat in self._unburied:
            try:
                for place in self._places.values():
                    place.cell.bury(seat)
            except TooLate:
                left.append(seat)
        if self._unburied:
            self._rouse()  # a wake-up may have died with them
        self._unburied = left

    def _rouse(self) -> None:
        for place in self._places.values():
            place.cell.rouse()
