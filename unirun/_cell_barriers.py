"""Event and Barrier in a cell.

    Event     half 0: generation << 2 | SERVER << 1 | flag         half 1: somebody sleeps
    Barrier   word 0: generation << 16 | waiting << 8 | SERVER << 1 | broken
              word 1: one bit for each of the last 64 generations: it broke
              word 2: the same: the server took over, and whoever waited has to come again
              half 6: changes with the generation; sleepers sleep on it; half 7: somebody does
              half 8 and on: the seats of those who wait

Whoever sets the flag, or completes a round, begins a new generation: that is what the others wait
for, so a flag that is cleared at once, or a second round, is not missed.
"""

from __future__ import annotations

import time

from unirun._cells import SLICE, Cell, Reentered, TooLate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MOST_PARTIES", "BarrierCell", "EventCell"]

_FLAG = _BROKEN = 1
_SERVER = 2
_HALF = (1 << 32) - 1
_WORD = (1 << 64) - 1

_TURNS = 6
_SEATS = 8
MOST_PARTIES = 36  # that have room in a cell

_OPEN, _PASSED = -2, -3


class EventCell(Cell):
    """An event; None as an answer means: ask the server."""

    __slots__ = ()

    def is_set(self) -> bool | None:
        state = self._halves[2 * self._at]
        return None if state & _SERVER else bool(state & _FLAG)

    def set(self) -> bool:
        """False if the server has to do it."""
        try:
            return self.within(self._set)
        except Reentered:
            # We are a signal handler of whoever is inside: nobody else is.  If they clear it next,
            # then it was set before; those who sleep are awake.
            return self._set()

    def _set(self) -> bool:
        halves, at = self._halves, 2 * self._at
        state = halves[at]
        if state & (_SERVER | _FLAG):
            return not state & _SERVER
        halves[at] = ((state + 4) & _HALF) | _FLAG
        if halves[at + 1]:
            self.wake(at)
            halves[at + 1] = 0
        return True

    def clear(self) -> bool:
        """False if the server has to do it."""
        return self.within(self._clear)

    def _clear(self) -> bool:
        state = self._halves[2 * self._at]
        if state & _SERVER:
            return False
        self._halves[2 * self._at] = state & ~_FLAG
        return True

    def request(
        self, op: str, args: tuple[Any, ...], end: float | None, handle: Any
    ) -> tuple[str, Any] | None:
        """Serve a request as the server would; None if it has to."""
        if op == "wait":
            was_set = self.wait(end)
            return None if was_set is None else ("ok" if was_set else "timeout", was_set)
        if op == "is_set":
            is_set = self.is_set()
            return None if is_set is None else ("ok", is_set)
        done = self.set() if op == "set" else self.clear() if op == "clear" else False
        return ("ok", None) if done else None

    def wait(self, end: float | None) -> bool | None:
        """True once it was set, False at `end`."""
        at = 2 * self._at
        first = self._halves[at]
        if first & _FLAG:
            return True
        began = time.monotonic()
        self.spin(self._at, self._words[self._at], end)
        if self._halves[at] & _FLAG:
            return True
        while True:
            try:
                state = self.within(self._look, first >> 2, end=end)
            except TooLate:
                return False
            if state is None or state is True:
                self.waited(began)
                return state
            if not self.sleep(at, state, end):
                return self._halves[at] >> 2 != first >> 2

    def _look(self, generation: int) -> int | bool | None:
        """The state to sleep on, or True if it was set since that generation."""
        state = self._halves[2 * self._at]
        if state & _FLAG or state >> 2 != generation:
            return True
        if state & _SERVER:
            return None
        self._halves[2 * self._at + 1] = 1
        return state

    def freeze(self, end: float | None) -> None:
        self.within(self._freeze, end=end)

    def _freeze(self) -> None:
        self._halves[2 * self._at] |= _SERVER
        self.wake(2 * self._at)

    # -- for the server -----------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        return bool(self._halves[2 * self._at] & _SERVER)

    def read(self) -> tuple[bool]:
        """Whether the flag is set."""
        return (bool(self._halves[2 * self._at] & _FLAG),)

    def rouse(self) -> None:
        self.wake(2 * self._at)  # what they sleep on is what they wait for

    def write(self, is_set: bool, pulsed: bool) -> None:
        """Give it back, inside; it was set meanwhile if `pulsed`."""
        state = self._halves[2 * self._at]
        generation = (state >> 2) + pulsed
        self._halves[2 * self._at] = (generation << 2) & _HALF | is_set


class BarrierCell(Cell):
    """A barrier without an action; None as an answer means: ask the server."""

    __slots__ = ()

    def request(
        self, op: str, args: tuple[Any, ...], end: float | None, handle: Any
    ) -> tuple[str, Any] | None:
        """Serve a request as the server would; None if it has to."""
        if op == "wait":
            try:
                seat = handle._seat(end)
            except TooLate:  # our time is over, and that breaks it
                if not self.stop(1):
                    raise
                return "broken", None
            index = self.wait(seat, handle.parties, end)
            return None if index is None else ("broken", None) if index < 0 else ("ok", index)
        if op == "state":
            state = self.state()
            return None if state is None else ("ok", state)
        if op in ("abort", "reset") and self.stop(op == "abort"):
            return "ok", None
        return None

    def wait(self, seat: int, parties: int, end: float | None) -> int | None:
        """Our number in the round, or -1 if it is broken."""
        arrived = self.within(self._arrive, seat, parties, end=end)
        if arrived is None:
            return None
        index, generation = arrived
        if generation < 0:
            return index
        turns, began = 2 * self._at + _TURNS, time.monotonic()
        until = began + SLICE
        try:
            while self._words[self._at] >> 16 == generation and self.spin(
                self._at, self._words[self._at], end
            ):
                continue  # another party has come
            while (outcome := self._look(generation)) == _OPEN:
                if end is None and time.monotonic() >= until:
                    if self.within(self._leave, generation, seat):
                        return None  # the server knows what else may keep the others from coming
                    continue  # the last of them has just come
                seen = self.within(self._expect)
                if self._words[self._at] >> 16 != generation:
                    continue
                if not self.sleep(turns, seen, end):
                    outcome = self.within(self._give_up, generation)
                    break
        except BaseException:  # an interrupt, or the server is gone
            self.within(self._leave, generation, seat)
            raise
        self.waited(began)
        return index if outcome == _PASSED else outcome

    def _arrive(self, seat: int, parties: int) -> tuple[int, int] | None:
        """Our number and the generation to wait for; that is -1 if there is nothing to wait for."""
        state = self._words[self._at]
        if state & _SERVER:
            return None
        if state & _BROKEN:
            return -1, -1
        waiting = state >> 8 & 0xFF
        if waiting + 1 == parties:
            self._next(state >> 16)
            return waiting, -1
        self._halves[2 * self._at + _SEATS + waiting] = seat
        self._words[self._at] = state + 0x100
        return waiting, state >> 16

    def _look(self, generation: int) -> int | None:
        state = self._words[self._at]
        if state >> 16 == generation:
            return _OPEN
        bit = 1 << generation % 64
        if self._words[self._at + 2] & bit:
            return None
        return -1 if self._words[self._at + 1] & bit else _PASSED

    def _expect(self) -> int:
        """Say that somebody is about to sleep; what it has to see for that."""
        turns = 2 * self._at + _TURNS
        self._halves[turns + 1] = 1
        return self._halves[turns]

    def _next(
        self, generation: int, *, broke: bool = False, void: bool = False, now: int = 0
    ) -> None:
        """End a generation: how it ended is there before it has."""
        words, at, bit = self._words, self._at, 1 << generation % 64
        words[at + 1] = words[at + 1] | bit if broke else words[at + 1] & ~bit
        words[at + 2] = words[at + 2] | bit if void else words[at + 2] & ~bit
        words[at] = (generation + 1 << 16) & _WORD | now
        turns = 2 * at + _TURNS
        if self._halves[turns + 1]:
            self._halves[turns] = (self._halves[turns] + 1) & _HALF
            self.wake(turns)
            self._halves[turns + 1] = 0

    def _give_up(self, generation: int) -> int | None:
        if self._words[self._at] >> 16 == generation:
            self._next(generation, broke=True, now=_BROKEN)
        return self._look(generation)

    def _leave(self, generation: int, seat: int) -> bool:
        """Whether we left it; False if it has ended."""
        halves, state, seats = self._halves, self._words[self._at], 2 * self._at + _SEATS
        if state >> 16 != generation:
            return False
        last = seats + (state >> 8 & 0xFF) - 1
        for place in range(seats, last):
            if halves[place] == seat:
                other = halves[last]
                halves[last] = seat  # as long as we are counted, we are to be found there
                halves[place] = other
                break
        self._words[self._at] = state - 0x100
        return True

    def stop(self, now: int) -> bool:
        """Break it, and leave it broken if `now` is 1; False if the server has to do it."""
        return self.within(self._stop, now)

    def _stop(self, now: int) -> bool:
        state = self._words[self._at]
        if state & _SERVER:
            return False
        self._next(state >> 16, broke=True, now=now)
        return True

    def state(self) -> tuple[int, bool] | None:
        """How many wait, and whether it is broken."""
        state = self._words[self._at]
        return None if state & _SERVER else (state >> 8 & 0xFF, bool(state & _BROKEN))

    def freeze(self, end: float | None) -> None:
        if not self._words[self._at] & _SERVER:
            self.within(self._freeze, end=end)

    def _freeze(self) -> None:
        state = self._words[self._at]
        if not state & _SERVER:
            self._next(state >> 16, void=True, now=_SERVER | state & _BROKEN)

    # -- for the server -----------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        return bool(self._words[self._at] & _SERVER)

    def read(self) -> tuple[bool]:
        """Whether it is broken; nobody waits in a frozen one."""
        return (bool(self._words[self._at] & _BROKEN),)

    def rouse(self) -> None:
        self._rouse(2 * self._at + _TURNS)

    def write(self, broken: bool) -> None:
        """Give it back; inside."""
        self._words[self._at] = self._words[self._at] >> 16 << 16 | broken

    def bury(self, seat: int) -> None:
        """That seat is dead: where it waits, nobody will ever pass; raises TooLate."""
        state, seats = self._words[self._at], 2 * self._at + _SEATS
        if seat in self._halves[seats : seats + (state >> 8 & 0xFF)]:
            self.within(self._bury, seat, end=time.monotonic())

    def _bury(self, seat: int) -> None:
        state, seats = self._words[self._at], 2 * self._at + _SEATS
        if not state & _SERVER and seat in self._halves[seats : seats + (state >> 8 & 0xFF)]:
            self._next(state >> 16, broke=True, now=_BROKEN)
