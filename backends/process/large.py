"""Large objects in a worker: arguments that are read where they lie, results that are left there.

Light by rule: every worker process imports this file, and what it needs only when a large object
comes.
"""

from __future__ import annotations

from unirun import _context
from unirun._payload import REFERENCE, encode, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .arena import Arena
    from .buffers import Reader

_MARK = REFERENCE[0]


class LargeObjects:
    """The worker's side. Owns both descriptors."""

    def __init__(self, arguments: int, results: int) -> None:
        self._arguments = arguments
        self._results = results
        self._reader: Reader | None = None
        self._arena: Arena | None = None
        self._how: tuple[str, int | None, int] = ("view", None, 0)

    def configure(self, arrays: str, limit: int | None, keep: int) -> None:
        self._how = arrays, limit, keep

    def load(self, data: bytes) -> Any:
        """What a pickle or a reference stands for."""
        if data[0] != _MARK:
            return loads(data)
        if self._reader is None:
            from .buffers import Reader

            self._reader = Reader(self._arguments, self._how[0])
        return self._reader.load(data)

    def dump(self, value: Any, what: str) -> bytes:
        """A pickle, or a reference to one that was left in the arena."""
        return encode(value, what, store=self._store, inside=(value,))

    def _store(self, frames: list[bytes], buffers: list[memoryview]) -> bytes | None:
        if self._arena is None:
            from .arena import Arena

            if self._results < 0:
                return None  # a task has forked, and this is its child
            _, limit, keep = self._how
            self._arena = Arena(self._results, limit=limit, keep=keep)
        return self._arena.store(frames, buffers)

    def free(self, offsets: Iterable[int]) -> None:
        """The parent is done with these results."""
        if self._arena is not None:
            for offset in offsets:
                self._arena.free(offset)
            self._arena.trim()

    def collect(self) -> list[int]:
        """Arguments that nobody here looks at any more."""
        return [] if self._reader is None else self._reader.collect()

    def abandon(self) -> list[int]:
        """In a child that a task forked; returns what it must close."""
        if self._reader is not None:
            self._reader.abandon()
        fds = [self._arguments, self._results]
        self._arguments = self._results = -1
        return fds


def prepare_for(data: bytes) -> None:
    """Proxies of multiprocessing's managers authenticate with the key of the parent."""
    if b"multiprocessing" not in data:
        return
    import multiprocessing.process as process

    if _context.authkey is not None:
        process.current_process().authkey = _context.authkey
