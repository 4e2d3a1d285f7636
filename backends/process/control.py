"""The memory a worker shares with its pool: who may begin what, and answers not yet sent.

    words    BEGUN  index of the call that was begun last; stored before anything of it happens
             HOLD   0: go on;  1: begin nothing;  2: go on, without the calls that were taken back
             PARKED 1 while the worker waits because of HOLD, with all its answers sent
             FIRST, LAST  indexes of the calls that were taken back last, all but
             KEPT   the one that was left to the worker; 0: none
             FILLED bytes of the journal that are valid
             BEGUN_AT  when that call was begun, in nanoseconds of the clock all processes share
             WAITS  the shared object that the task waits for without a time-out, or 0, and
             SINCE  from when on, likewise; these three are for `report` alone
             PID    of the worker, once it runs: its zygote may have died without telling it
             HEARD  how many messages of news were dealt with; LOST: how many were dropped
             WATCHED  1 while somebody watches, see `unirun._observe`: each call is to be measured
    journal  entries (number of the answer, length, marshal of the answer)
    record   what a call with many items has done so far: `unirun._record`

The protocol, so that a call is never run twice and a kill hits the right one:

1. The worker stores BEGUN and then reads HOLD; the pool stores HOLD and, some time later, reads
   BEGUN.  So either the worker sees that it is held, or the pool sees what it has begun.  The time
   between (HOLD_SECONDS) is what a processor may take to let a store be seen, with a large margin.
2. A worker that sees HOLD = 1 sends its answers, says PARKED, and waits for HOLD to change.
3. What the pool takes back is everything from the call that it saw begun, so a range; a worker
   drops calls in that range, but for one: that call itself, unless it is answered, even if the
   worker parks before it; else the next.  So what it has not dropped yet of an older range is in
   it, and a worker that is slow to begin has not all its calls sent again and again.
4. Answers to calls known to be short are sent together.  Until they are, the journal has them:
   FILLED is stored after the entry, and set to 0 after the answers are in the pipe.  So the death
   of a worker loses none, and the pool can take them out while the worker is stuck in a call.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import os
import time
from _thread import get_ident
from marshal import dumps, loads
from struct import Struct

from unirun import _context
from unirun._record import SIZE as RECORD_SIZE

from . import remains
from .system import map_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SIZE = (1 << 17) + RECORD_SIZE
"""Bytes of the whole; what is not described here belongs to `remains`."""
HOLD_SECONDS = 0.0002
LONG = 1_000_000
"""Nanoseconds from which on a call is measured though nobody watches."""

BEGUN, HOLD, PARKED, FIRST, LAST, FILLED, KEPT, BEGUN_AT, WAITS, SINCE, PID, HEARD, LOST = range(13)
WATCHED = 13
_WORDS = 4096
_JOURNAL = 1 << 16
_RECORD = SIZE - RECORD_SIZE
CAPACITY = _RECORD - _JOURNAL

_entry = Struct("<QI")


class Control:
    """One side's view of it. Owns the mapping, not the descriptor."""

    def __init__(self, fd: int) -> None:
        self.memory = map_memory(fd, SIZE)
        view = memoryview(self.memory)
        self.words = view[:_WORDS].cast("Q")
        self.journal = view[_JOURNAL:_RECORD]
        self.record = view[_RECORD:]

    # -- the pool's side ------------------------------------------------------------------------

    def hold(self, seconds: float = HOLD_SECONDS) -> None:
        """Rule 1: after this, what BEGUN says stays true while it is held."""
        self.words[HOLD] = 1
        until = time.monotonic() + seconds
        while not self.words[PARKED] and time.monotonic() < until:
            time.sleep(HOLD_SECONDS / 4)

    def begun(self) -> int:
        """Index of the call that it is in, if it has not answered; 0 if in none."""
        words = self.words
        while True:
            index, parked = words[BEGUN], words[PARKED]
            if index == words[BEGUN]:
                return 0 if parked else int(index)

    def release(self, first: int, last: int, kept: int) -> None:
        """Let it go on, without the calls `first` to `last`, but with `kept`."""
        words = self.words
        words[KEPT] = kept
        words[FIRST] = first
        words[LAST] = last
        words[HOLD] = 2

    def unsent(self, given: int) -> list[Any]:
        """Answers after the first `given` that are in the journal.

        For a worker that is dead, held, or stuck in a call.  Nothing while some before them are
        still in the pipe.
        """
        while True:
            filled, at = self.words[FILLED], self.words[BEGUN]
            data = bytes(self.journal[:filled])
            if (filled, at) == (self.words[FILLED], self.words[BEGUN]):
                break
        entries = list(_entries(data))
        if entries and entries[0][0] > given:
            return []
        return [answer for number, answer in entries if number >= given]

    # -- the worker's side ----------------------------------------------------------------------

    def note(self, number: int, answer: Any) -> bool:
        """Put an answer into the journal; False if there is no room for it."""
        data = dumps(answer)
        start = self.words[FILLED]
        end = start + _entry.size + len(data)
        if end > CAPACITY:
            return False
        self.journal[start:end] = _entry.pack(number, len(data)) + data
        self.words[FILLED] = end
        return True

    def sent(self) -> None:
        self.words[FILLED] = 0

    def tell_of_waits(self) -> None:
        """Have waits of this thread, which runs the tasks, told to whoever looks at `words`."""
        words, mine, last = self.words, get_ident(), [(0, 0)]

        def note(what: int, which: int = 0) -> None:
            if get_ident() != mine:
                return  # a thread that the task has made
            if what and last[0] != (what, which):  # else it goes on after a look at the world
                last[0] = what, which
                words[SINCE] = time.perf_counter_ns()
            words[WAITS] = what

        _context.note_wait = note

    def park(self) -> None:
        """Rule 2."""
        words = self.words
        while words[HOLD] == 1:  # again, as it may be held anew before it says that it goes on
            words[PARKED] = 1
            while words[HOLD] == 1:
                time.sleep(HOLD_SECONDS / 4)
            words[PARKED] = 0

    def is_taken_back(self, index: int) -> bool:
        """Rule 3, also if it is held anew right now, and the range about to change.

        LAST is read first, as it is written last: so a call is not dropped because of a range that
        is half the old one.
        """
        words = self.words
        return bool(index <= words[LAST]) and bool(words[FIRST] <= index) and index != words[KEPT]


def _entries(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        number, length = _entry.unpack_from(data, at)
        at += _entry.size + length
        yield number, loads(data[at - length : at])


def open_control(fd: int) -> Control:
    """In a worker: take over the descriptor it was given."""
    try:
        remains.prepare()
        control = Control(fd)
        control.words[PID] = os.getpid()
        remains.arm(fd, control.memory, lambda: control.words[BEGUN])
        control.tell_of_waits()
        return control
    finally:
        os.close(fd)
