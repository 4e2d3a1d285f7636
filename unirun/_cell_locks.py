"""Lock and RLock in a cell: one word says who holds it, how deeply, and whether it was abandoned.

    63 SERVER | 62 ABANDONED | 61..32 depth | 31..0 seat of the owner

A seat is the number of a session: of one thread of one process.  Who finds the lock held looks
again for a moment, since most are held for a moment, and then has the server take over.
"""

from __future__ import annotations

import time
from errno import EOWNERDEAD

from unirun._cells import NOW, PATIENCE, Cell
from unirun._hosted_locks import UNACQUIRED, UNLOCKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LockCell"]

LOOKS = 30
"""How often to look whether a lock is free again before waiting for it at the server."""

_SERVER = 1 << 63
_ABANDONED = 1 << 62
_ONE = 1 << 32  # one more level of depth
_SEAT = _ONE - 1
_HELD = _SERVER | _ABANDONED - 1


class LockCell(Cell):
    """A lock of either kind; None as an answer means: ask the server."""

    __slots__ = ()

    def acquire(
        self,
        seat: int,
        reentrant: bool,
        note: list[bool],
        looks: int = 0,
        end: float | None = None,
        raises: bool = False,
    ) -> bool | None:
        """True if it is ours now, False if somebody has it after so many more `looks`.

        With `raises`, an abandoned one is a matter for the server.
        `note[0]` is True from the moment it is ours, also if we are interrupted then.
        """
        words, at = self._words, self._at
        while True:
            word = words[at]
            if not word & _HELD or (reentrant and word & _SEAT == seat):
                if raises and word & _ABANDONED:
                    return None
                got = self.within(self._take, seat, reentrant, note, raises, end=end)
                if got is not False:
                    return got
            elif word & _SERVER:
                return None
            if looks <= 0:
                return False
            looks -= 1
            time.sleep(0)  # whoever has it may need the processor, or our interpreter

    def _take(self, seat: int, reentrant: bool, note: list[bool], raises: bool) -> bool | None:
        word = self._words[self._at]
        if raises and word & _ABANDONED:
            return None
        if not word & _HELD:
            note[0] = True  # nothing can interrupt us between here and the store
            self._words[self._at] = word | _ONE | seat
            return True
        if word & _SERVER:
            return None
        if reentrant and word & _SEAT == seat:
            note[0] = True
            self._words[self._at] = word + _ONE
            return True
        return False

    def take(self, seat: int, note: list[bool]) -> bool:
        """Acquire it, if it is free and there is nothing else to say; the short way."""
        words, at = self._words, self._at
        if words[at]:
            return False
        try:
            code = self._try(self._mutex)
            if code:
                if code != EOWNERDEAD:
                    return False
                self._robust.consistent(self._mutex)
            taken = not words[at]
            if taken:
                note[0] = True  # nothing can interrupt us between here and the store
                words[at] = _ONE | seat
            self._unlock(self._mutex)
        except BaseException:
            self._robust.consistent(self._mutex)
            self._unlock(self._mutex)
            raise
        return taken

    def drop(self, seat: int | None) -> bool:
        """Release it, if it is held once and there is nothing else to say; the short way.

        With a seat, only if that one holds it.
        """
        words, at = self._words, self._at
        word = words[at]
        if word & ~_SEAT != _ONE or (seat is not None and word & _SEAT != seat):
            return False
        try:
            code = self._try(self._mutex)
            if code:
                if code != EOWNERDEAD:
                    return False
                self._robust.consistent(self._mutex)
            dropped = words[at] == word
            if dropped:
                words[at] = 0
            self._unlock(self._mutex)
        except BaseException:
            self._robust.consistent(self._mutex)
            self._unlock(self._mutex)
            raise
        return dropped

    def release(self, seat: int, reentrant: bool) -> bool | None:
        """True if it is released, by one level; False if it was not held, or not by us."""
        return self.within(self._drop, seat, reentrant)

    def _drop(self, seat: int, reentrant: bool) -> bool | None:
        word = self._words[self._at]
        if word & _SERVER:
            return None
        if not word & _SEAT or (reentrant and word & _SEAT != seat):
            return False
        word -= _ONE
        self._words[self._at] = word if word & ~_ABANDONED >= _ONE else 0
        return True

    def state(self, seat: int) -> tuple[bool, bool, bool] | None:
        """Whether it is held, whether by that seat, and whether it is abandoned."""
        word = self._words[self._at]
        if word & _SERVER:
            return None
        return bool(word & _SEAT), word & _SEAT == seat, bool(word & _ABANDONED)

    def request(
        self, op: str, args: tuple[Any, ...], end: float | None, handle: Any
    ) -> tuple[str, Any] | None:
        """Serve a request as the server would; None if it has to."""
        seat, reentrant = handle._seat(end), handle.reentrant
        if op == "acquire":
            note = [False]
            looks = 0 if end == NOW else LOOKS
            try:
                until = time.monotonic() + PATIENCE if end == NOW else end
                got = self.acquire(seat, reentrant, note, looks, until, args[1])
            except BaseException:
                if note[0]:
                    self.release(seat, reentrant)
                raise
            return (
                ("ok", True) if got else ("timeout", None) if got is False and not looks else None
            )
        if op == "release":
            done = self.release(seat, reentrant)
            if done is False:
                return "runtime", UNACQUIRED if reentrant else UNLOCKED
            return None if done is None else ("ok", None)
        state = self.state(seat) if op == "state" else None
        if state is None:
            return None
        held, ours, abandoned = state
        # As the server has it: anybody owns a plain lock that is held.
        return "ok", (held, ours if reentrant else held, abandoned)

    def freeze(self, end: float | None) -> None:
        """Leave it to the server, which is about to be asked for something."""
        if not self._words[self._at] & _SERVER:
            self.within(self._freeze, end=end)

    def _freeze(self) -> None:
        self._words[self._at] |= _SERVER

    # -- for the server -----------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        return bool(self._words[self._at] & _SERVER)

    def read(self) -> tuple[int, int, bool]:
        """Seat and depth of the owner of a frozen one, and whether it is abandoned."""
        word = self._words[self._at]
        return word & _SEAT, (word & _ABANDONED - 1) >> 32, bool(word & _ABANDONED)

    def write(self, seat: int, depth: int, abandoned: bool) -> None:
        """Give it back; inside."""
        self._words[self._at] = seat | depth << 32 | (_ABANDONED if abandoned else 0)

    def bury(self, seat: int) -> None:
        """That seat is dead: what it holds is abandoned; raises TooLate."""
        if self._words[self._at] & _SEAT == seat:
            self.within(self._bury, seat, end=time.monotonic())

    def _bury(self, seat: int) -> None:
        word = self._words[self._at]
        if word & _SEAT == seat and not word & _SERVER:
            self._words[self._at] = _ABANDONED
