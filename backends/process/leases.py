"""Blocks that arrays look at, and how one learns that nobody does any more.

1. A ctypes array is made over the block, and every view of the memory keeps that array alive, so
   its death is the end of the lease.  (A memoryview would not do: it dies while numpy still uses
   its memory.)
2. A process that was forked while a lease ran looks at the same block.  Its windows are made
   private at once, so what it writes is its own; and the block is not done with before that
   process is gone as well, or runs another program: then a pipe ends, whose writing end it has.

Imported when the first array comes: ctypes takes some milliseconds.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
from _thread import get_ident
from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

_libc = ctypes.CDLL(None)  # now, since a forked child must not wait for the loader's locks
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_MAP_FIXED = 0x10  # of Linux, macOS and the BSDs; `mmap` has no name for it

_types: dict[int, Any] = {}  # array types by length: to make one takes longer than to use it
# By id. The first keeps them, and through `on_end` their readers, alive.
_running: dict[int, Lease] = {}
_ended: dict[int, Lease] = {}  # but seen by a child that may be alive


class Lease(ref):  # type: ignore[type-arg]  # `typing` is not for workers
    """Of one block; `on_end` is called in any thread, at any time."""

    __slots__ = ("born", "ended", "offset", "on_end", "size", "start", "window")

    def __new__(cls, array: Any, *_: object) -> Self:
        return super().__new__(cls, array, _end)

    def __init__(
        self,
        array: Any,
        offset: int,
        size: int,
        window: mmap.mmap,
        start: int,
        on_end: Callable[[Lease], None],
    ) -> None:
        self.offset = offset  # in the file
        self.size = size
        self.window = window
        self.start = start  # in the window
        self.on_end = on_end
        self.born = self.ended = forks.count

    def make_private(self, fd: int) -> None:
        """Rule 2, in a forked child: the whole window, which may be done more than once."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.window))
        how = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
        _libc.mmap(address, len(self.window), *how, fd, self.offset - self.start)

    def give_back(self, length: int) -> None:
        """Take the memory away from the block; nobody is to see it again."""
        if hasattr(mmap, "MADV_REMOVE"):
            try:
                self.window.madvise(mmap.MADV_REMOVE, self.start, length)
            except OSError:
                return  # not on this file system: it comes back with the last lease of the file


def begin(
    window: mmap.mmap,
    start: int,
    length: int,
    offset: int,
    size: int,
    on_end: Callable[[Lease], None],
) -> tuple[memoryview, Lease]:
    """A view of `size` bytes, in a block of `length`, and its lease."""
    kind = _types.get(length)
    if kind is None:
        kind = _types[length] = ctypes.c_char * length
    array = kind.from_buffer(window, start)
    lease = Lease(array, offset, size, window, start, on_end)
    _running[id(lease)] = lease
    return memoryview(array).cast("B")[:size], lease


def _end(lease: Any) -> None:
    del _running[id(lease)]
    lease.ended = forks.count
    lease.on_end(lease)
    forks.forget()


def has_ended(lease: Lease) -> bool:
    """Whether nobody looks at the block, also no child; to be asked again until it is so."""
    if forks.have_seen(lease):
        _ended[id(lease)] = lease
        return False
    forget(lease)
    return True


def forget(lease: Lease) -> None:
    """Nobody will ask again."""
    if _ended.pop(id(lease), None) is not None:
        forks.forget()


class Forks:
    """The children that were forked, as far as they still look at what was leased then.

    A fork has a number, and `count` is it from before the fork until after, and then the next:
    a lease was seen by the forks from `born` to `ended`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._children: dict[int, int] = {}  # number -> reading end, ours; -1 if there is none
        self._forking: dict[int, tuple[int, int, int]] = {}  # thread -> number, both ends

    def have_seen(self, lease: Lease) -> bool:
        """Whether a child that lives can look at the block."""
        seen = [n for n in list(self._children) if lease.born <= n <= lease.ended]
        return any(self._lives(number) for number in seen)

    def _lives(self, number: int) -> bool:
        reader = self._children.get(number, -1)
        if reader < 0:
            return number in self._children
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        if not poll.poll(0):
            return True
        self._drop(number)
        return False

    def _drop(self, number: int) -> None:
        reader = self._children.pop(number, -1)
        if reader >= 0:
            os.close(reader)

    def forget(self) -> None:
        """Children that have seen nothing of what is looked at, here or there."""
        if self._children:
            oldest = min((lease.born for lease in _leases()), default=self.count + 1)
            for number in [n for n in list(self._children) if n < oldest]:
                self._drop(number)

    def before(self) -> None:
        self.count += 1
        if not _running:
            return
        try:
            self._forking[get_ident()] = (self.count, *os.pipe())
        except OSError:
            self._children[self.count] = -1  # never known to have ended

    def after_in_parent(self) -> None:
        number, reader, writer = self._forking.pop(get_ident(), (self.count, -1, -1))
        if reader >= 0:
            os.close(writer)
            self._children[number] = reader
        elif any(lease.born == number for lease in _leases()):
            self._children[number] = -1  # it began in another thread, just before the fork
        self.count += 1

    def after_in_child(self) -> None:
        """The writing end stays open until this process ends, or runs another program."""
        _, reader, _ = self._forking.pop(get_ident(), (0, -1, -1))
        for fd in (reader, *self._children.values()):
            if fd >= 0:
                os.close(fd)
        self._children.clear()
        for lease in _leases():
            lease.on_end = _no_concern_of_a_child


def _leases() -> list[Lease]:
    return [*list(_running.values()), *list(_ended.values())]


def _no_concern_of_a_child(lease: Lease) -> None:
    """The blocks are the parent's to give back."""


forks = Forks()
os.register_at_fork(
    before=forks.before,
    after_in_parent=forks.after_in_parent,
    after_in_child=forks.after_in_child,
)
