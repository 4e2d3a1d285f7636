"""Large objects outside the pipes: written once into memory that the receiver maps as well.

One file without a name for the arguments of all calls, written by the parent; one for the results
of each worker, written by the worker.  Both are empty space of `SPAN` bytes, of which only what was
written takes memory; when the last process that has a file is gone, so is its memory.

    Blocks    which parts of a file are taken, which are free; pure
    Memory    a file seen through windows that are mapped at need and stay mapped
    Arena     the side that writes: objects in, references out (`buffers.Reader` is the other)
    Parcel    a reference that frees its block when nobody holds it any more

1. A block is taken for one object and belongs to its receiver until that says it is done with it.
2. Pages written before are many times faster than new ones, so free blocks keep theirs; above
   `keep` bytes the oldest give them back to the system.
3. What does not fit, or cannot be mapped, travels in the pipe: an arena refuses, it never fails.

Imported by a worker when the first large object comes, so it is as light as the worker.
"""

from __future__ import annotations

import mmap
import os
from _thread import RLock
from collections import deque
from marshal import dumps as marshal_dumps

from unirun._payload import REFERENCE, may_name

from .system import has_disk_behind, map_memory, write_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

SPAN = 1 << 43
"""Bytes of a file; the largest file systems without holes count only what was written."""
KEEP = 256 << 20
"""Bytes that free blocks may hold on to."""

_SMALLEST = 1 << 16
_WINDOW = 1 << 26
_MAX_WINDOWS = 16
_INLINE = 1 << 12  # pickles up to this travel in the reference
_STRIDE = 1 << 23  # copied at once, so that other threads get their turn
_ALIGNMENT = 64  # of buffers, for vector instructions and cache lines
_KEYED = b"multiprocessing"  # whose proxies need a key; a worker looks for it in what it gets


def block_size(size: int) -> int:
    """What is taken for `size` bytes: a power of two."""
    return max(_SMALLEST, 1 << (size - 1).bit_length())


class Blocks:
    """Which parts of a file are taken. One thread at a time, unless said otherwise.

    A block is aligned to its size, so none lies across the border of a window.
    """

    def __init__(self, limit: int | None = None, keep: int = KEEP) -> None:
        self.limit = limit
        self.keep = keep
        self.used = 0  # bytes in taken blocks
        self.kept = 0  # bytes in free ones that were written and not given back
        self._end = 0
        self._taken: dict[int, int] = {}  # offset -> bytes asked for
        self._written: dict[int, int] = {}  # offset -> bytes that have memory behind them
        self._warm: dict[int, dict[int, None]] = {}  # size -> offsets of free blocks with memory
        self._cold: dict[int, list[int]] = {}  # size -> offsets of free blocks without
        self._order: dict[int, int] = {}  # offset -> size of every warm block, the oldest first

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, size: int) -> int | None:
        """The offset of a block for `size` bytes; None if there is none to be had."""
        if self.limit is not None and self.used + size > self.limit:
            return None
        length = block_size(size)
        offset = self._take_free(length)
        if offset is None:
            offset = -(-self._end // length) * length
            if offset + length > SPAN:
                return None
            self._end = offset + length
        self._taken[offset] = size
        self._written[offset] = max(size, self._written.get(offset, 0))
        self.used += size
        return offset

    def _take_free(self, length: int) -> int | None:
        warm = self._warm.get(length)
        if warm:
            offset = warm.popitem()[0]
            del self._order[offset]
            self.kept -= self._written[offset]
            return offset
        cold = self._cold.get(length)
        return cold.pop() if cold else None

    def free(self, offset: int) -> None:
        size = self._taken.pop(offset)
        self.used -= size
        length = block_size(size)
        self._warm.setdefault(length, {})[offset] = None
        self._order[offset] = length
        self.kept += self._written[offset]

    def surplus(self) -> tuple[int, int] | None:
        """Offset and length of memory to give back, then `cooled`; until that, it is not taken."""
        if self.kept <= self.keep:
            return None
        offset = next(iter(self._order))
        del self._warm[self._order.pop(offset)][offset]
        written = self._written.pop(offset)
        self.kept -= written
        return offset, written

    def cooled(self, offset: int, written: int) -> None:
        self._cold.setdefault(block_size(written), []).append(offset)


class Memory:
    """A file seen through windows. Any thread; owns the windows, not the descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._windows: dict[int, mmap.mmap] = {}  # by where they begin

    def window(self, offset: int, size: int) -> tuple[mmap.mmap, int]:
        """A mapping that holds the block, and where in it the block begins.

        Raises OSError or ValueError if it cannot be mapped.
        """
        length = max(_WINDOW, block_size(size))
        start = offset // length * length
        found = self._windows.get(start)
        if found is None:
            found = self._windows[start] = map_memory(self.fd, length, start)
            for old in list(self._windows)[:-_MAX_WINDOWS]:
                self._windows.pop(old, None)  # unmapped once nobody looks through it
        return found, offset - start

    def windows(self) -> list[mmap.mmap]:
        return list(self._windows.values())

    def give_back(self, offset: int, length: int) -> None:
        """Take the memory away from a range, which reads as zeros then."""
        if not hasattr(mmap, "MADV_REMOVE"):
            return  # the memory comes back with the file
        for start in range(offset, offset + length, _WINDOW):
            piece = min(_WINDOW, offset + length - start)
            try:
                with map_memory(self.fd, piece, start) as window:
                    window.madvise(mmap.MADV_REMOVE)
            except (OSError, ValueError):
                return  # not on this file system, or no address space: kept, as in a plain heap

    def close(self) -> None:
        self._windows.clear()


class Arena:
    """The side that writes. Any thread may store and free. Owns `fd` from here on."""

    def __init__(self, fd: int, *, limit: int | None = None, keep: int = KEEP) -> None:
        self.fd = fd
        self._memory = Memory(fd)
        self._blocks = Blocks(limit, keep)
        # Guards `_blocks` and `_writing`, and the end of `fd`, which has the number to itself only
        # until then; no other I/O under it. Reentrant: a signal handler may submit.
        self._lock = RLock()
        # Blocks to be freed, put here by whoever is done with one, finalizers among them.
        self._freed: deque[int] = deque()
        self._writing = 0  # objects that are being copied
        self.stored = 0  # bytes so far; about, as any thread adds to it
        self._closed = False
        self._has_room: bool | None = None  # not known yet
        self._pid = os.getpid()

    def store(self, frames: list[bytes], buffers: list[memoryview]) -> bytes | None:
        """A copy of a pickle and its buffers, as a reference; None if it is refused (rule 3)."""
        stored = self._store(frames, buffers)
        return None if stored is None else stored[0]

    def pack(self, frames: list[bytes], buffers: list[memoryview]) -> Parcel | None:
        """As `store`, but the block is freed with the reference."""
        stored = self._store(frames, buffers)
        return None if stored is None else Parcel(*stored, self)

    def _store(
        self, frames: list[bytes], buffers: list[memoryview]
    ) -> tuple[bytes, int, int] | None:
        """Reference, offset and size."""
        spans, start = _lay_out(buffers)
        pickled = sum(map(len, frames))
        inline = b"".join(frames) if pickled <= _INLINE else None
        size = start + (pickled if inline is None else 0)
        offset = self._take(size)
        if offset is None:
            return None
        self.stored += size
        places: list[tuple[int, bytes | memoryview]] = [
            (begin, buffer) for (begin, _), buffer in zip(spans, buffers, strict=True)
        ]
        if inline is None:
            places += _one_after_another(frames, start)
        try:
            self._write(offset, size, places)
        except BaseException as exc:
            self.free(offset)
            if isinstance(exc, OSError | ValueError):
                return None
            raise
        finally:
            self._wrote()
        words = _KEYED if inline is None and _mentions(frames) else b""
        about = (offset, size, spans, start, inline, words)
        return REFERENCE + marshal_dumps(about), offset, size

    def _write(self, offset: int, size: int, places: list[tuple[int, bytes | memoryview]]) -> None:
        if has_disk_behind():
            for at, data in places:
                write_at(self.fd, offset + at, data)
            return
        window, start = self._memory.window(offset, size)
        with memoryview(window) as view:
            for at, data in places:
                _copy(view, start + at, data)

    def _take(self, size: int) -> int | None:
        if os.getpid() != self._pid:
            return None  # a forked child has a copy of what is known here, but the same memory
        self._settle()
        with self._lock:
            if self._closed or not self._make_room():
                return None
            offset = self._blocks.take(size)
            self._writing += offset is not None
            return offset

    def _wrote(self) -> None:
        with self._lock:
            self._writing -= 1
            self._close_unused()

    def _make_room(self) -> bool:
        """Give the file its size, once; False where it cannot have it."""
        if self._has_room is None:
            try:
                os.ftruncate(self.fd, SPAN)
                self._has_room = True
            except OSError:  # a limit on file sizes, or a file system without holes
                self._has_room = False
        return self._has_room

    def free(self, offset: int) -> None:
        """Take a block back. From any thread, a finalizer too."""
        self._freed.append(offset)

    def _settle(self) -> None:
        """Put what was freed to use again, and rule 2."""
        while True:
            with self._lock:
                while self._freed:
                    self._blocks.free(self._freed.popleft())
                surplus = None if self._closed else self._blocks.surplus()
                self._writing += surplus is not None
            if surplus is None:
                return
            self._memory.give_back(*surplus)
            with self._lock:
                self._blocks.cooled(*surplus)
            self._wrote()

    def trim(self) -> None:
        """Put what was freed to use again; give surplus memory back now rather than later."""
        self._settle()

    def used(self) -> tuple[int, int]:
        """Blocks and bytes that are taken."""
        self._settle()
        with self._lock:
            return len(self._blocks), self._blocks.used

    def close(self) -> None:
        """Nothing is stored any more; memory stays while somebody looks at it."""
        with self._lock:
            self._closed = True
            self._close_unused()

    def abandon(self) -> int:
        """In a forked child; returns what it must close."""
        self._lock = RLock()  # whoever holds the other is not here
        self._closed = True
        self._memory.close()
        fd, self.fd = self.fd, -1
        return fd

    def _close_unused(self) -> None:
        if self._closed and not self._writing and self.fd >= 0:
            self._memory.close()
            fd, self.fd = self.fd, -1
            os.close(fd)


class Parcel(bytes):
    """A reference that frees its block when it dies: with the last of those who may need it.

    That is the call until it was sent, or may be sent again, and the worker until it says that it
    is done with it, or dies.
    """

    def __new__(cls, reference: bytes, *_: object) -> Self:
        return super().__new__(cls, reference)

    def __init__(self, reference: bytes, offset: int, size: int, arena: Arena) -> None:
        self.offset = offset
        self.size = size
        self._arena = arena

    def __del__(self) -> None:
        self._arena.free(self.offset)


def _lay_out(buffers: Iterable[memoryview]) -> tuple[list[tuple[int, int]], int]:
    """Begin and length of each buffer in a block, and where the rest begins."""
    spans, at = [], 0
    for buffer in buffers:
        spans.append((at, buffer.nbytes))
        at += -(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT
    return spans, at


def _one_after_another(frames: list[bytes], at: int) -> Iterator[tuple[int, bytes]]:
    for frame in frames:
        yield at, frame
        at += len(frame)


def _copy(view: memoryview, at: int, data: bytes | memoryview) -> None:
    with memoryview(data) as source:
        for done in range(0, len(source), _STRIDE):
            piece = source[done : done + _STRIDE]
            view[at + done : at + done + len(piece)] = piece


def _mentions(frames: list[bytes]) -> bool:
    """Whether the receiver may have to know the key of this process."""
    return any(_KEYED in frame for frame in frames if may_name(frame))
