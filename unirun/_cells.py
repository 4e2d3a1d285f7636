"""Cells: the state of shared objects in memory that every process of a manager sees.

    segment (one memfd per manager)          cell (256 bytes)
      header   4 KiB   word 0: closed          mutex   64 bytes, robust
      cells    4080                            words   24, their meaning is the kind's own
      rings    64 of 16 MiB, mapped by need

What can be done at once is done here, by the process that wants it, in two microseconds; whatever
cannot goes to the server (`_manager.py`), which keeps the rules.  A cell whose state has the bit
SERVER is frozen: nobody but the server touches it, until it clears the bit again.

 1. Words change only inside the mutex, but for those of a frozen cell.
 2. Every operation takes effect with ONE aligned store, and what it needs was stored before.  So a
    process may be killed between any two instructions: the next one inside, to whom the kernel
    gives the mutex, finds an operation that has happened or one that has not.
 3. Nobody sleeps inside, gives way inside, or does inside what may run code of the user.
 4. A sleeper looks again when it wakes, for whatever reason, and after SLICE seconds at the latest.
    A wake-up that dies with a process costs no more than that; the server wakes all after a death.

The mutex of a cell is never made anew: somebody may be inside for a last look.
"""

from __future__ import annotations

import errno
import mmap
import os
import time

from unirun import _context
from unirun._connect import TooLate
from unirun._deferral import interruptible
from unirun._robust import GOT, MUTEX_SIZE, Robust, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeVar

    T = TypeVar("T")

__all__ = ["COUNT", "NOW", "SLICE", "Cell", "Reentered", "Segment", "TooLate"]

CELL = 256
HEADER = 4096
COUNT = 4080  # cells of a segment
RINGS = 64
RING = 1 << 24  # bytes
_FIRST_RING = HEADER + COUNT * CELL
SIZE = _FIRST_RING + RINGS * RING

SOON = 2e-4  # seconds to look for a change before sleeping until there is one
SLICE = 0.25  # seconds after which a sleeper looks whether the manager still lives
PATIENCE: Final = 1.0  # seconds to get inside, for what is not to wait
NOW: Final = 0.0  # the end of an operation that does not wait
_TRIES = (
    300  # to enter before waiting for it: who is inside leaves soon, and to be woken takes long
)
_PIECE = 0.02  # seconds to wait for the mutex at once; signals are handled between


class Reentered(RuntimeError):
    """A signal handler used the very object whose operation it had interrupted."""


class Segment:
    """The memory of one manager as one process sees it.

    Owns its descriptor, which `release` closes.  The mappings go with the last cell in them.
    """

    def __init__(self, fd: int, robust: Robust, check: Callable[[], None]) -> None:
        self.fd = fd  # ours from now on, also if this fails
        self.robust = robust
        self.check = check  # raises ManagerLost if there is no server any more
        self.memory = mmap.mmap(fd, _FIRST_RING)
        self.words = memoryview(self.memory).cast("Q")
        self.halves = memoryview(self.memory).cast("I")
        self.address, self._keeper = robust.address_of(self.memory)
        self._rings: dict[int, memoryview] = {}

    @classmethod
    def make(cls, check: Callable[[], None]) -> Segment | None:
        """A new one, or None if this system has no such memory."""
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            fd = os.memfd_create("unirun-cells", flags) if find() else None
        except OSError:
            return None
        return None if fd is None else cls.attach(fd, check, SIZE)

    @classmethod
    def attach(cls, fd: int, check: Callable[[], None], size: int = 0) -> Segment | None:
        """The one with that descriptor, which is ours from now on; None if it is of no use here."""
        robust = find()
        try:
            if robust is not None and size:
                os.ftruncate(fd, size)
                import fcntl  # only where there are memfds

                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)  # nobody can pull it from under us
        except OSError:  # a limit on the size of files
            robust = None
        if robust is None:
            os.close(fd)
            return None
        try:
            return cls(fd, robust, check)
        except (OSError, ValueError):  # a limit on the address space
            return None

    def ring(self, number: int) -> memoryview:
        ring = self._rings.get(number)
        if ring is None:
            if not 0 <= number < RINGS or self.fd < 0:
                raise ValueError("there is no such ring")  # that cell is another object's by now
            mapping = mmap.mmap(self.fd, RING, offset=_FIRST_RING + number * RING)
            ring = self._rings[number] = memoryview(mapping)
        return ring

    def empty_ring(self, number: int, first: int = 0) -> None:
        """Give the memory of a ring back, but for its beginning."""
        mapping: Any = self.ring(number).obj
        try:
            mapping.madvise(mmap.MADV_REMOVE, first, RING - first)
        except OSError:
            return  # then it stays until the manager goes

    def close(self) -> None:
        """Say that there is no server any more, and wake everybody who sleeps."""
        self.words[0] = 1

    def release(self) -> None:
        """Open no more cells; the memory goes with the last of those that there are."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            del self.memory, self.words, self.halves, self._keeper
            self._rings.clear()

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)


class Cell:
    """One cell as one process uses it; subclasses know what its words mean."""

    reentered = Reentered

    __slots__ = (
        *("_at", "_base", "_halves", "_mutex", "_name_at"),
        *("_robust", "_segment", "_soon", "_try", "_unlock", "_words"),
    )

    def __init__(self, segment: Segment, index: int) -> None:
        start = HEADER + index * CELL
        self._segment = segment
        self._robust = segment.robust
        self._base = segment.address
        self._mutex = segment.address + start
        self._at = (start + MUTEX_SIZE) // 8  # its first word
        self._words = segment.words
        self._name_at = (start + CELL) // 8 - 1  # its last word: the id of the object in it
        self._halves = segment.halves
        self._soon = True  # how long the last wait took, see `spin`
        self._try = segment.robust.trylock
        self._unlock = segment.robust.unlock

    def within(self, do: Callable[..., T], *args: Any, end: float | None = None) -> T:
        """`do(*args)` inside the mutex; raises TooLate if it cannot be entered until `end`."""
        ours = True
        try:
            if code := self._try(self._mutex):
                problem = self._enter(code, end)
                if problem is not None:
                    ours = False
                    raise problem
            result = do(*args)
            self._unlock(self._mutex)
        except BaseException:
            if ours:  # or not, if an interrupt came outside: then this does nothing
                self._robust.consistent(self._mutex)  # it may have been somebody's who died
                self._unlock(self._mutex)
            raise
        return result

    def _enter(self, code: int, end: float | None) -> Exception | None:
        """Get inside after all; returns what prevents it."""
        tries = _TRIES
        while code not in GOT:
            if code == errno.EDEADLK:
                return Reentered(
                    "a signal handler used the shared object whose operation it interrupted; "
                    "set an Event there that nothing else in that thread uses, or a plain flag"
                )
            if code not in (errno.EBUSY, errno.ETIMEDOUT):
                return OSError(code, "a mutex in shared memory is broken")
            if tries:
                tries -= 1
                code = self._try(self._mutex)
                continue
            left = _PIECE if end is None else min(_PIECE, end - time.monotonic())
            if left <= 0:
                return TooLate()
            if code == errno.ETIMEDOUT:
                self._segment.check()
            code = interruptible(self._robust.lock, self._mutex, left)
        if code == errno.EOWNERDEAD:  # rule 2: there is nothing to repair
            self._robust.consistent(self._mutex)
        return None

    def make(self) -> None:
        """Prepare a cell that was never used; its words are all 0."""
        self._robust.make_mutex(self._mutex)

    def begin(self, object_id: int) -> None:
        """Be as new, for another object; nobody else knows of it yet."""
        for at in range(self._at, self._name_at):
            self._words[at] = 0
        self._words[self._name_at] = object_id

    def end(self) -> None:
        """There is no object in it any more."""
        self._words[self._name_at] = 0

    def is_of(self, object_id: int) -> bool:
        """Whether that object is in it; raises ManagerLost if there is no server any more."""
        if self._words[0]:
            self._segment.check()
        return self._words[self._name_at] == object_id

    def bury(self, seat: int) -> None:
        """That seat is dead, and what it has here is nobody's; raises TooLate."""

    def rouse(self) -> None:
        """Have whoever sleeps here, or is about to, look again: who should have said so is dead."""

    def _rouse(self, half: int) -> None:
        # Not inside: what matters is that the value is another than before whatever happened.
        self._halves[half] = (self._halves[half] + 1) & 0xFFFFFFFF
        self.wake(half)

    def fence(self) -> None:
        """Whatever was stored inside until now is seen."""
        code = self._try(self._mutex)
        if code == errno.EOWNERDEAD:
            self._robust.consistent(self._mutex)
        if code in GOT:
            self._unlock(self._mutex)

    def spin(self, at: int, seen: int, end: float | None) -> bool:
        """Whether that word changes from what was `seen` within a moment.

        Two that wait for each other in turns so need not be woken, which takes longer than what
        they do.  Only where the last wait was over soon (`waited`): else it would be in vain.
        """
        if not self._soon or end == NOW:
            return False
        words, until = self._words, time.monotonic() + SOON
        if end is not None and end < until:
            return False
        while words[at] == seen:
            os.sched_yield()  # to whoever is to change it, if there is no other processor
            if time.monotonic() > until:
                return False
        return True

    def waited(self, began: float) -> None:
        """A wait that began then is over."""
        self._soon = time.monotonic() - began < SOON

    def sleep(self, half: int, seen: int, end: float | None) -> bool:
        """Sleep while that half word is what was `seen`; False if `end` has come."""
        began = time.monotonic()
        left = SLICE if end is None else min(SLICE, end - began)
        if left <= 0:
            return False
        note = _context.note_wait if end is None else None
        if note is not None:
            note(self._words[self._name_at], seen)
        interruptible(self._robust.sleep, self._base + 4 * half, seen, left)
        if note is not None:
            note(0, 0)
        if self._words[0] or time.monotonic() - began >= SLICE:
            self._segment.check()
        return True

    def wake(self, half: int, number: int = 1 << 30) -> int:
        return self._robust.wake(self._base + 4 * half, number)
