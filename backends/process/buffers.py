"""Large objects as their receiver sees them: arrays that lie in the arena, everything else copied.

An array is not copied out of the arena: it looks at the block it was written to.  It is private to
its receiver all the same, and can be written to, since nobody else uses the block before the last
array in it is gone.

1. A block with arrays in it is leased until they are gone (see `leases`). All other blocks are done
   with as soon as they are read.
2. `collect` tells the blocks that are done with, for the one who writes them.
3. When the writer of a file is dead, what nobody looks at gives its memory back at once, and each
   block that somebody looks at does when its lease ends.
4. Where the arena cannot be mapped, and if copies were asked for, arrays get memory of their own.

Imported by a worker when the first large object comes, so it is as light as the worker.
"""

from __future__ import annotations

import os
from _pickle import Unpickler, loads
from collections import deque
from marshal import loads as marshal_loads

from .arena import SPAN, Memory, block_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .leases import Lease

ARRAYS = ("view", "copy")
"""How arrays may arrive."""
MAX_LINGERING = 32
"""Files of dead writers that arrays may keep open; beyond that, arrays are copied."""

_PILE = 1 << 25  # bytes that may be done with before the writer should be told
_lingering: dict[int, Reader] = {}  # by id: dead, but with leases; each has a descriptor of its own


class Reader:
    """The side that reads a file of an `Arena`; any thread may `load`.

    `fd` is the caller's to close, after `close`. `on_pile` is called, in any thread and at any
    time, when the writer should soon be told what it can have back.
    """

    def __init__(
        self, fd: int, arrays: str = "view", on_pile: Callable[[], object] | None = None
    ) -> None:
        self._memory = Memory(fd)
        self._arrays = arrays
        self._on_pile = on_pile
        self._dead = False  # so is the writer
        self._leases: dict[int, Lease] = {}  # by id
        self._shared: list[Lease] = []  # ended, but not in a child that was forked meanwhile
        self.done: deque[int] = deque()  # offsets of blocks, for `collect`
        self.loaded = 0  # bytes so far; about, likewise
        self._piled = 0  # bytes in them; about, as any thread adds to it

    @property
    def leases(self) -> int:
        """Blocks that somebody looks at."""
        return len(self._leases) + len(self._shared)

    def load(self, reference: bytes) -> Any:
        """The object; raises whatever unpickling it raises."""
        offset, size, spans, start, pickled, _ = marshal_loads(memoryview(reference)[1:])
        leased = False
        self.loaded += size
        try:
            whole, leased = self._open(offset, size, bool(spans))
            buffers = [whole[begin : begin + length] for begin, length in spans]
            if pickled is not None:
                return loads(pickled, buffers=buffers)
            return Unpickler(_Stream(whole, start), buffers=buffers).load()
        finally:
            if not leased:
                self._finish(offset, size)

    def _open(self, offset: int, size: int, has_arrays: bool) -> tuple[memoryview, bool]:
        """The bytes of a block, and whether it is leased."""
        if has_arrays and (self._arrays == "copy" or len(_lingering) >= MAX_LINGERING):
            return self._copy(offset, size), False
        try:
            window, start = self._memory.window(offset, size)
        except (OSError, ValueError):  # no address space, say
            return self._copy(offset, size), False
        if not has_arrays:
            return memoryview(window)[start : start + size], False
        from . import leases

        view, lease = leases.begin(window, start, block_size(size), offset, size, self._end)
        self._leases[id(lease)] = lease
        return view, True

    def _copy(self, offset: int, size: int) -> memoryview:
        copy = memoryview(bytearray(size))
        done = 0
        while done < size:
            count = os.preadv(self._memory.fd, [copy[done:]], offset + done)
            if not count:
                raise EOFError("the memory of a large object is gone")
            done += count
        return copy

    # -- done with: in any thread, at any time ----------------------------------------------------

    def _end(self, lease: Lease) -> None:
        from .leases import forget, has_ended

        if not has_ended(lease):
            self._shared.append(lease)
        elif self._dead:
            lease.give_back(block_size(lease.size))
        else:
            self._finish(lease.offset, lease.size)
        del self._leases[id(lease)]
        if self._dead:
            forget(lease)
            if not self._leases:
                self._let_go()

    def _finish(self, offset: int, size: int) -> None:
        self.done.append(offset)
        self._piled += size
        if self._piled >= _PILE and self._on_pile is not None:
            self._piled = 0
            self._on_pile()

    def collect(self) -> list[int]:
        """Blocks that are done with, each told once."""
        if self._shared:
            self._look_again()
        done = []
        while self.done:
            done.append(self.done.popleft())
        self._piled = 0
        return done

    def _look_again(self) -> None:
        from .leases import has_ended

        shared, self._shared = self._shared, []
        for lease in shared:
            if has_ended(lease):
                self.done.append(lease.offset)
            else:
                self._shared.append(lease)

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """The writer is dead, and nothing is loaded any more. Arrays stay what they are."""
        if self._dead:
            return
        self._dead = True
        self._memory.close()
        if self.leases:
            self._linger()
        if not self._leases:
            self._let_go()

    def _linger(self) -> None:
        from .leases import forget

        for lease in self._shared:
            forget(lease)
        try:
            self._memory.fd = os.dup(self._memory.fd)  # ours, until the last lease has ended
        except OSError:
            return  # out of descriptors: all of the memory comes back with the last lease
        _lingering[id(self)] = self
        self._clear()

    def _let_go(self) -> None:
        if _lingering.pop(id(self), None) is not None:
            os.close(self._memory.fd)

    def _clear(self) -> None:
        """Rule 3."""
        leases = [*self._leases.values(), *self._shared]
        taken = sorted((each.offset, each.offset + block_size(each.size)) for each in leases)
        at = 0
        for begin, end in (*taken, (SPAN, SPAN)):
            for start, stop in _written(self._memory.fd, at, begin):
                self._memory.give_back(start, stop - start)
            at = end

    def abandon(self) -> None:
        """In a forked child, before the descriptor is closed: what it writes shall be its own."""
        for lease in list(self._leases.values()):
            lease.make_private(self._memory.fd)
        self._memory.close()


def _written(fd: int, at: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range of a file that have memory behind them."""
    while at < end and hasattr(os, "SEEK_DATA"):
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:
            return  # nothing from here on
        if start < end:
            yield start, min(stop, end)
        at = stop


def _abandon_lingering() -> None:
    """In a forked child: as `Reader.abandon`, for those whose descriptors are ours."""
    for reader in list(_lingering.values()):
        reader.abandon()
        reader._let_go()


class _Stream:
    """What an Unpickler needs of a file, over memory."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview, at: int) -> None:
        self._view = view
        self._at = at

    def read(self, size: int) -> bytes:
        at = self._at
        self._at += size
        return bytes(self._view[at : at + size])

    def readinto(self, buffer: memoryview) -> int:
        at = self._at
        self._at += len(buffer)
        buffer[:] = self._view[at : self._at]
        return len(buffer)

    def readline(self) -> bytes:
        raise EOFError("a pickle of an old protocol")


os.register_at_fork(after_in_child=_abandon_lingering)
