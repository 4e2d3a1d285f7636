"""Large pickles in memory that other processes map instead of getting a copy.

    keep(pieces) ──▶ Blob: a descriptor of nameless memory, and its place:
                          (key, "/proc/PID/fd/N", size, where each piece is)
    load(place)  ◀── any process of this machine; elsewhere at a path of its own (`elsewhere`)

1. Who has made a blob owns it: its memory goes with it, and nothing of it can be left behind by a
   process that was killed. Who has mapped it keeps what he mapped.
2. What was loaded is the loader's: its buffers are pages that are copied when they are written to.
3. The first byte says that the owner still has it: what was put (`_put`) is loaded once in each
   process, which keeps the object for its calls as long as there is something that refers to it.

Off Linux it is a file in the directory for such files.
"""

from __future__ import annotations

import marshal
import mmap
import os
import sys
import threading
import weakref

from unirun._payload import REFERENCE, is_reference, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import Any, TypeAlias

    Place: TypeAlias = tuple[str, str, int, tuple[tuple[int, int], ...]]

__all__ = ["Blob", "Spare", "arrived", "blobs_in", "can_map", "decode", "load", "mine", "moved"]

_HEAD = 64
_ALIGN = 64
_HERE = sys.platform == "linux" and not {"memfd", "proc"} & set(
    os.environ.get("UNIRUN_WITHOUT", "").split(",")
)

elsewhere: dict[str, str] = {}
"""By key: the paths of copies on this machine, of what was made on another one."""


class Memory:
    """A descriptor of so many bytes, with a path by which others can map it; owns both."""

    def __init__(self, size: int) -> None:
        if _HERE:
            self.fd = os.memfd_create("unirun-blob", os.MFD_CLOEXEC)
            self.path, removed = f"/proc/{os.getpid()}/fd/{self.fd}", ""
        else:
            import tempfile

            self.fd, self.path = tempfile.mkstemp(prefix="unirun-")
            removed = self.path
        self.size = size
        self._end = weakref.finalize(self, _end, self.fd, removed, os.getpid())

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """All of it; raises OSError where there is no room."""
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)

    def close(self) -> None:
        self._end()


def _end(fd: int, path: str, pid: int) -> None:
    if os.getpid() == pid:
        os.pwrite(fd, b"\0", 0)  # rule 3
        if path:
            os.unlink(path)
    os.close(fd)  # in a forked child, our copy


class Blob(Memory):
    """A pickle in pieces, kept for as long as this object."""

    def __init__(self, frames: list[bytes], buffers: list[memoryview]) -> None:
        end = _HEAD + sum(map(len, frames))
        spans = [(_HEAD, end - _HEAD)]
        for buffer in buffers:
            start = -(-end // _ALIGN) * _ALIGN
            end = start + buffer.nbytes
            spans.append((start, buffer.nbytes))
        super().__init__(end)
        self.key = os.urandom(12).hex()
        self.place: Place = (self.key, self.path, end, tuple(spans))
        self.write(0, b"\1")
        at = _HEAD
        for frame in frames:
            self.write(at, frame)
            at += len(frame)
        for (start, _), buffer in zip(spans[1:], buffers, strict=True):
            self.write(start, buffer)

    def named(self) -> bytes:
        """What stands for it in place of a pickle."""
        return REFERENCE + marshal.dumps(self.place)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, min(size, self.size - offset), offset)


def blobs_in(handles: list[Any]) -> list[Blob]:
    """The memory that a call needs, by the handles that were pickled in it."""
    found: dict[str, Blob] = {}
    todo = list(handles)
    while todo:
        each = todo.pop()
        if isinstance(each, Blob):
            found[each.key] = each
        elif hasattr(type(each), "_holds"):  # a Reference
            todo += each._holds()
    return list(found.values())


class Spare(Memory):
    """A copy that is filled bit by bit; `is_full` once all of it has come."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._came = 0

    def fill(self, offset: int, data: bytes) -> None:
        self.write(offset, data)
        self._came += len(data)

    @property
    def is_full(self) -> bool:
        return self._came >= self.size


def moved(data: bytes, paths: dict[str, str]) -> bytes:
    """`data`, where the blobs it needs have these paths."""
    return REFERENCE + marshal.dumps((paths, data))


def decode(data: bytes) -> Any:
    """What was pickled, be it in `data` or in a blob that is named there."""
    if not is_reference(data):
        return loads(data)
    told = marshal.loads(data[1:])
    if type(told[0]) is dict:
        elsewhere.update(told[0])
        return decode(told[1])
    return load(told)


def can_map(pid: int) -> bool:
    """Whether we may map what that process of this machine has made."""
    return not _HERE or os.access(f"/proc/{pid}/fd", os.R_OK | os.X_OK)


def load(place: Place) -> Any:
    """What was pickled; raises DeserializationError where its owner cannot be reached."""
    _, _, size, spans = place
    memory = _mapped(place, lambda fd: mmap.mmap(fd, size, access=mmap.ACCESS_COPY))
    view = memoryview(memory)
    first, *rest = [view[start : start + length] for start, length in spans]
    return loads(first, buffers=rest)


mine: MutableMapping[str, Any] = weakref.WeakValueDictionary()
"""By key: what this process has put."""
_arrived: dict[str, tuple[mmap.mmap, Any]] = {}
_lock = threading.Lock()  # guards that dict


def arrived(place: Place) -> Any:
    """Rule 3: what was put, where something that refers to it is unpickled."""
    key = place[0]
    own = mine.get(key)
    if own is not None:
        return own.get()
    with _lock:
        over = [each for each, (head, _) in _arrived.items() if head[0] != 1]
        dropped = [_arrived.pop(each) for each in over]
        found = _arrived.get(key)
    del dropped  # their `__del__` may do anything: without the lock
    if found is None:
        made = _mapped(place, lambda fd: mmap.mmap(fd, 1, access=mmap.ACCESS_READ)), load(place)
        with _lock:
            found = _arrived.setdefault(key, made)
    return found[1]


def _mapped(place: Place, make: Callable[[int], mmap.mmap]) -> mmap.mmap:
    path = elsewhere.get(place[0], place[1])
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            return make(fd)
        finally:
            os.close(fd)
    except (OSError, ValueError) as exc:  # too short: the descriptor is another one by now
        from unirun._errors import DeserializationError

        raise DeserializationError(
            f"{place[2]} bytes of an argument that was handed over by reference are gone, or on "
            f"another machine ({exc}); keep the Reference as long as calls need it, and its "
            "executor"
        ) from exc


def _renew_in_forked_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_forked_child)
