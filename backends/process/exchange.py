"""What the pool has to do with large objects: the arguments of its calls, and each worker's side.

A block of arguments belongs to its parcel, and the parcel to all who may still need it: the call,
until that is over, and the worker that got it, until it says that it is done with it or is dead.
A call that was taken back from a worker is the call's alone again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from unirun._errors import ConfigError

from .arena import KEEP, Arena, Parcel
from .buffers import ARRAYS, Reader
from .peer import above_standard
from .system import make_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .arena import Parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = ("arrays", "arena_limit")
_LEAST_KEPT = 1 << 25


class Exchange:
    """One for each pool; owns the memory of arguments."""

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        self.arrays = options.get("arrays", ARRAYS[0])
        if self.arrays not in ARRAYS:
            ways = ", ".join(map(repr, ARRAYS))
            raise ConfigError(f"arrays={self.arrays!r} is no way to arrive; use one of {ways}")
        self.limit: int | None = options.get("arena_limit")
        if self.limit is not None and (type(self.limit) is not int or self.limit < 0):
            given = f"arena_limit={self.limit!r}"
            raise ConfigError(f"{given} is no number of bytes; use an int from 0 on, or None")
        self._workers = workers
        self.arena = Arena(above_standard(make_memory(0)), limit=self.limit)

    def for_worker(self) -> tuple[str, int | None, int]:
        """How arrays arrive, how much may be stored, and how much free memory kept."""
        return self.arrays, self.limit, max(_LEAST_KEPT, KEEP // max(1, self._workers))

    def close(self) -> None:
        self.arena.close()

    def abandon(self) -> int:
        """In a forked child; returns what it must close."""
        return self.arena.abandon()


class Side:
    """The pool's side of one worker; owns the memory of its results, until the last is loaded.

    Used with the pool's role, but `load`, by whoever settles a call.
    """

    def __init__(self, arrays: str, on_pile: Callable[[], object]) -> None:
        self.fd = above_standard(make_memory(0))
        self._reader = Reader(self.fd, arrays, on_pile)
        self.finished = self._reader.done
        """Not empty if there is something to `collect`."""
        self._parcels: dict[int, tuple[int, Parcel]] = {}  # by offset: index of the call, parcel
        self._pid = os.getpid()

    def sent(self, index: int, parcel: Parcel) -> None:
        self._parcels[parcel.offset] = index, parcel

    def taken_back(self, first: int, last: int) -> None:
        """The worker will never look at the calls from `first` to `last`."""
        for offset, (index, _) in list(self._parcels.items()):
            if first <= index <= last:
                del self._parcels[offset]

    def done_with(self, offsets: Iterable[int]) -> None:
        """So the worker says."""
        for offset in offsets:
            self._parcels.pop(offset, None)

    def load(self, reference: bytes) -> Any:
        """A result; raises whatever unpickling it raises."""
        return self._reader.load(reference)

    @property
    def loaded(self) -> int:
        """Bytes of results so far."""
        return self._reader.loaded

    def collect(self) -> list[int]:
        """Blocks that the worker can have back."""
        return self._reader.collect()

    def abandon(self) -> int:
        """In a forked child; returns what it must close."""
        self._reader.abandon()
        fd, self.fd = self.fd, -1
        return fd

    def __del__(self) -> None:
        """The worker is dead, and no call that it answered is unsettled."""
        if self.fd >= 0 and os.getpid() == self._pid:
            self._reader.close()
            os.close(self.fd)
