"""Large pickles on their way to the places of an engine: which place has which, and who sends it.

    the program                                   a place
      Blob ── in pieces, ahead of the call ─────▶ Spare ──▶ its worker processes map it
      its end ── "forget" ──────────────────────▶ gone

1. A place that sees the program's files (the same machine) maps the program's own memory, and is
   sent nothing.  Any other place is sent each blob once, however many calls need it.
2. The program alone decides how long a place keeps what it has: as long as itself.
3. A call that overtakes what it needs waits for it at its place.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable

from unirun._blobs import Blob, Spare, moved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Deliveries", "Spares"]

PIECE = 1 << 20
"""Bytes sent at a time: what else is said to that place comes between them."""


class Deliveries:
    """The program's side; any thread may use it."""

    def __init__(self, tell: Callable[..., None]) -> None:
        """`tell(host, what, *args)` says something to a place; it may wait until that is sent."""
        self._tell = tell
        self._lock = threading.Lock()  # guards the three below
        self._at: dict[int, set[str]] = {}  # by place: the keys of what it has, or is being sent
        self._seeing: set[int] = set()
        self._known: set[str] = set()
        # By finalizers, in whatever thread, which may hold the lock: this needs none.
        self._dropped: deque[str] = deque()

    def arrived(self, host: int, *, sees: bool) -> None:
        """There is such a place; `sees`: our memory, too."""
        with self._lock:
            self._at[host] = set()
            if sees:
                self._seeing.add(host)

    def gone(self, host: int) -> None:
        with self._lock:
            self._at.pop(host, None)
            self._seeing.discard(host)

    def near(self, blobs: list[Blob], host: int | None) -> int:
        """How many bytes of them are there already."""
        if host in self._seeing:
            return sum(blob.size for blob in blobs)
        there = self._at.get(host or 0) or ()
        return sum(blob.size for blob in blobs if blob.key in there)

    def deliver(self, host: int, blobs: list[Blob]) -> tuple[str, ...]:
        """Send what that place lacks; the keys of what it has of them by then, if it needs them."""
        self.forget()
        with self._lock:
            there = self._at.get(host)
            if there is None or host in self._seeing:
                return ()
            lacking = [blob for blob in blobs if blob.key not in there]
            there.update(blob.key for blob in lacking)
            new = [blob for blob in lacking if blob.key not in self._known]
            self._known.update(blob.key for blob in new)
        for blob in new:
            weakref.finalize(blob, self._dropped.append, blob.key).atexit = False
        for blob in lacking:
            for offset in range(0, blob.size, PIECE):
                piece = blob.read(offset, PIECE)
                self._tell(host, "blob", blob.key, blob.size, offset, piece)
        return tuple(blob.key for blob in blobs)

    def forget(self) -> None:
        """Rule 2."""
        while self._dropped:
            key = self._dropped.popleft()
            with self._lock:
                self._known.discard(key)
                hosts = [host for host, keys in self._at.items() if key in keys]
                for host in hosts:
                    self._at[host].discard(key)
            for host in hosts:
                self._tell(host, "forget", key)


class Spares:
    """A place's side; one thread at a time."""

    def __init__(self) -> None:
        self._spares: dict[str, Spare] = {}
        self._waiting: list[tuple[Any, ...]] = []  # the arguments of `run_with`

    def fill(self, key: str, size: int, offset: int, data: bytes) -> None:
        spare = self._spares.get(key)
        if spare is None:
            spare = self._spares[key] = Spare(size)
        spare.fill(offset, data)
        if spare.is_full:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                self.run_with(*each)

    def forget(self, key: str) -> None:
        spare = self._spares.pop(key, None)
        if spare is not None:
            spare.close()

    def run_with(
        self,
        run: Callable[..., None],
        lease: int,
        number: int,
        about: Any,
        payload: bytes,
        needed: tuple[str, ...],
    ) -> None:
        """`run` that call, now or when what it needs has come (rule 3)."""
        if not needed:
            run(lease, number, about, payload)
        elif all(key in self._spares and self._spares[key].is_full for key in needed):
            paths = {key: self._spares[key].path for key in needed}
            run(lease, number, about, moved(payload, paths))
        else:
            self._waiting.append((run, lease, number, about, payload, needed))

    def withdraw(self, number: int) -> int | None:
        """That call is not to run any more; its lease, if it was waiting here."""
        for each in self._waiting:
            if each[2] == number:
                self._waiting.remove(each)
                return int(each[1])
        return None

    def close(self) -> None:
        self._waiting = []
        for key in list(self._spares):
            self.forget(key)
