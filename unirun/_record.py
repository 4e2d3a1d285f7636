"""The outcomes of a call with many items, in memory that outlives the worker which runs it.

    words    CALL   index of the call it is about; 0: of none
             FIRST  which item of the call the first slot is for
             FORM   what the slots hold: 0 whole numbers, 1 floats, 2 where an entry ends
             ROOM   how many slots there are
             EMPTY  what a slot holds until something is put into it
             REGION where the slots are; HELD and after: regions whose slots are still to be read
    slots    8 bytes for each item, in order; there are several regions
    entries  one behind the other: a tag and the outcome, where it is no plain number

1. The outcome of an item is in its slot before the next item begins, and storing it is all that is
   done for it.  So when the worker dies, the first empty slot names the one item that it was at;
   those before it have their outcomes, those behind it have not begun.
2. EMPTY is a random number of 64 bits, which no outcome is expected to be.
3. Slots that are used up, or of the wrong form for what comes next, are sent as a part; then they
   are emptied, and then FIRST moves on.  A part and the memory may tell of the same items, so a
   reader goes by FIRST, and takes what it has already from neither.
4. Slots full of numbers are not copied at the end of a call: the part that tells of them has none,
   and their region is held until the pool's side has read them (`Lease`).
5. A child that a task forks must not write here: its views are released, so that a store fails.

Light by rule: worker processes import this file.
"""

from __future__ import annotations

import os
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Part: TypeAlias = tuple[int, int, memoryview, memoryview]  # FIRST, FORM, slots, entries

__all__ = [
    "ENTRIES",
    "FLOATS",
    "MAX_ROOM",
    "NUMBERS",
    "PICKLED",
    "PLAIN",
    "RAISED",
    "SIZE",
    "Lease",
    "Record",
    "as_bytes",
    "lease_of",
    "numbers_in",
    "read",
    "seconds_of",
    "standalone",
    "unpack",
]

CALL, FIRST, FORM, ROOM, EMPTY, REGION, HELD = range(7)
NUMBERS, FLOATS, ENTRIES = range(3)
PLAIN, PICKLED, RAISED = b"=", b"+", b"-"
"""What an entry begins with: a marshal, a pickle, or an exception as `_remote` encodes it."""

MAX_ROOM = 1 << 15
"""Items whose outcomes fit in before a part must be sent, where they are numbers."""
REGIONS = 3
"""The first is never held."""
WORTH_HOLDING = 1 << 12
"""Slots from which on they are not copied."""

_part = Struct("<qqqqd")  # FIRST, FORM, held region or 0, slots, seconds that the call took
_HEAD = 128
_REGION_SIZE = 8 * MAX_ROOM
_ENTRIES_START = _HEAD + REGIONS * _REGION_SIZE
SIZE = 1 << 20
"""Bytes of the whole."""

_EMPTY = int.from_bytes(os.urandom(8), "little", signed=True)  # rule 2
_blanks = memoryview(_EMPTY.to_bytes(8, "little", signed=True))  # grows as it is needed


class Record:
    """The worker's side, for one call of `count` items."""

    def __init__(
        self, memory: memoryview, call: int, count: int, emit: Callable[[bytes], None]
    ) -> None:
        self._words = memory[:_HEAD].cast("q")
        self._region = _free_region(self._words)
        self._bytes = _slots_of(memory, self._region, MAX_ROOM)
        self._entries = memory[_ENTRIES_START:]
        self._emit = emit
        self._room = min(count, MAX_ROOM)
        self.abandoned = False
        self._words[CALL] = 0
        self._words[FIRST] = 0
        self._words[ROOM] = self._room
        self._words[EMPTY] = _EMPTY
        self._words[REGION] = self._region
        self._empty(NUMBERS)
        self._words[CALL] = call
        _open.append(self)

    def close(self) -> None:
        _open.remove(self)

    def _empty(self, form: int) -> None:
        self._bytes[: 8 * self._room] = _blank(8 * self._room)
        self.form: int = form
        self._words[FORM] = form
        self.slots = numbers_in(self._bytes[: 8 * self._room], form)
        self.at = 0  # slots in use
        self._end = 0  # of the entries in use

    def is_unused(self) -> bool:
        return not self.at and not self._words[FIRST]

    def put(self, value: float) -> None:
        """A number of the form that the slots have."""
        if self.at == self._room:
            self.send()
        self.slots[self.at] = value
        self.at += 1

    def add(self, entry: bytes) -> None:
        """An outcome of any kind; from here on the slots hold entries."""
        if self.form != ENTRIES:
            self.send(ENTRIES)
        end = self._end + len(entry)
        if self.at == self._room or end > len(self._entries):
            self.send()
            end = len(entry)
        if end > len(self._entries):
            self._send_alone(entry)
            return
        self._entries[self._end : end] = entry
        self.slots[self.at] = self._end = end
        self.at += 1

    def send(self, form: int | None = None) -> None:
        """Rule 3; the slots take on another form, if one is given."""
        sent = self.at
        if sent:
            self._emit(self.part())
        self._empty(self.form if form is None else form)
        self._words[FIRST] += sent

    def _send_alone(self, entry: bytes) -> None:
        """An outcome that is too long for the memory."""
        head = _part.pack(self._words[FIRST], ENTRIES, 0, 1, 0.0)
        self._emit(b"".join((head, len(entry).to_bytes(8, "little"), entry)))
        self._words[FIRST] += 1

    def part(self, seconds: float = 0.0) -> bytes:
        """What is in the slots, to be sent; `seconds`: how long the call took, at its end."""
        head = _part.pack(self._words[FIRST], self.form, 0, self.at, seconds)
        return b"".join((head, self._bytes[: 8 * self.at], self._entries[: self._end]))

    def end(self, seconds: float) -> bytes | float:
        """The answer of the call: its last part, or the seconds alone if that was sent (rule 4)."""
        if self.form == ENTRIES or not self._region or self.at < WORTH_HOLDING:
            return self.part(seconds)
        self._words[HELD + self._region] = 1
        self._emit(_part.pack(self._words[FIRST], self.form, self._region, self.at, seconds))
        return seconds

    def abandon(self) -> None:
        """Rule 5."""
        self.abandoned = True
        for view in (self.slots, self._entries, self._bytes, self._words):
            view.release()


def numbers_in(slots: memoryview, form: int) -> Any:
    return slots.cast("d") if form == FLOATS else slots.cast("q")


class Lease:
    """The slots of a region that is held; free again when this is dropped."""

    __slots__ = ("_memory", "_region")

    def __init__(self, memory: memoryview, region: int) -> None:
        self._memory = memory
        self._region = region

    def slots(self, count: int) -> memoryview:
        return _slots_of(self._memory, self._region, count)

    def __del__(self) -> None:
        with self._memory[:_HEAD].cast("q") as words:
            words[HELD + self._region] = 0


def unpack(part: bytes, lease: Lease | None = None) -> Part:
    first, form, _, used, _ = _part.unpack_from(part)
    if lease is not None:
        return first, form, lease.slots(used), memoryview(b"")
    view = memoryview(part)[_part.size :]
    return first, form, view[: 8 * used], view[8 * used :]


def lease_of(part: bytes, memory: memoryview) -> Lease | None:
    """To be asked at once when a part comes out of the pipe."""
    region = _part.unpack_from(part)[2]
    return Lease(memory, region) if region else None


def standalone(part: bytes, memory: memoryview) -> bytes:
    """The same part, with what it says of a region of that memory in it: to be sent on."""
    lease = lease_of(part, memory)
    if lease is None:
        return part
    first, form, slots, _ = unpack(part, lease)
    return _part.pack(first, form, 0, len(slots) // 8, seconds_of(part)) + bytes(slots)


def as_bytes(part: Part) -> bytes:
    """What `read` has found, as a worker would have sent it."""
    first, form, slots, entries = part
    ends = slots.cast("q").tolist() if form == ENTRIES else []
    head = _part.pack(first, form, 0, len(slots) // 8, 0.0)
    return b"".join((head, slots, entries[: ends[-1]] if ends else b""))


def seconds_of(part: bytes) -> float:
    seconds: float = _part.unpack_from(part)[4]
    return seconds


def _slots_of(memory: memoryview, region: int, count: int) -> memoryview:
    start = _HEAD + region * _REGION_SIZE
    return memory[start : start + 8 * count]


def _blank(size: int) -> memoryview:
    global _blanks
    while len(_blanks) < size:
        _blanks = memoryview(bytes(_blanks) * 8)
    return _blanks[:size]


def _free_region(words: memoryview) -> int:
    free = [region for region in range(1, REGIONS) if not words[HELD + region]]
    return free[0] if free else 0


def read(memory: memoryview, call: int, known: int) -> Part | None:
    """The pool's side: what the memory tells of a call, if that is more than `known` outcomes.

    The worker may be dead, or go on meanwhile.
    """
    with memory[:_HEAD].cast("q") as words:
        while True:
            head = words.tolist()
            if head[CALL] != call or not _tells_more(memory, head, known):
                return None
            slots = memoryview(bytes(_slots_of(memory, head[REGION], head[ROOM])))
            entries = memoryview(bytes(memory[_ENTRIES_START:]) if head[FORM] == ENTRIES else b"")
            if words.tolist() == head:
                break
    used = _used(slots, head[EMPTY])
    if head[FIRST] + used <= known:
        return None
    return head[FIRST], head[FORM], slots[: 8 * used], entries


def _tells_more(memory: memoryview, head: list[int], known: int) -> bool:
    """Whether the slot of the first item that is not known has been used."""
    slot = known - head[FIRST]
    if not 0 <= slot < head[ROOM]:
        return slot < 0  # parts are on their way; or it knows all
    used = _slots_of(memory, head[REGION], slot + 1)[8 * slot :]
    return used != head[EMPTY].to_bytes(8, "little", signed=True)


def _used(slots: memoryview, empty: int) -> int:
    values = slots.cast("q").tolist()
    return values.index(empty) if empty in values else len(values)


_open: list[Record] = []  # the one that is in use, if any


def _abandon() -> None:
    for record in _open:
        record.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)
