"""Large arrays as arguments: they travel as a place to map, not as bytes in every call.

A memory map of a file travels as its file.  Any other large array is written once, into a file
that has no name, and every call maps that.  Nothing is left when this process dies, as ever it may.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import threading
from typing import Any

__all__ = ["Shelf"]

_ACCESS = {"r": mmap.ACCESS_READ, "c": mmap.ACCESS_COPY}
"""Of `mmap_mode`; anything else writes to what all calls see."""


class Shelf:
    """The arrays that calls of one program have been given, until it is closed.

    Owns a descriptor for each array that it has written.
    """

    def __init__(self, least: int | None, mode: str | None) -> None:
        """`least` bytes make an array large, None: none does; `mode` as joblib's `mmap_mode`."""
        self._least = least if mode is not None and hasattr(os, "memfd_create") else None
        self._mode = mode or "r"
        # Guards _written: calls are handed over by several threads.
        self._lock = threading.Lock()
        self._written: dict[int, tuple[Any, _Mapped]] = {}  # by id of the array, kept alive here

    def place(self, value: Any) -> Any:
        """What to send instead of `value`, and arrives as an array; or `value` itself."""
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray):
            return value
        if isinstance(value, numpy.memmap) and (mapped := _in_its_file(value)) is not None:
            return mapped
        is_whole = value.flags.c_contiguous or value.flags.f_contiguous
        large = self._least is not None and value.nbytes >= max(self._least, 1)
        if large and is_whole and type(value) is numpy.ndarray and not value.dtype.hasobject:
            return self._write(value)
        return value

    def _write(self, array: Any) -> _Mapped:
        with self._lock:
            kept = self._written.get(id(array))
            if kept is None:
                fd = os.memfd_create("unirun-array")
                try:
                    _write_all(fd, memoryview(array.reshape(-1, order="A").view("u1")))
                    order = "C" if array.flags.c_contiguous else "F"
                    mapped = _Mapped(fd, array.dtype, array.shape, order, self._mode)
                except BaseException:
                    os.close(fd)
                    raise
                kept = self._written[id(array)] = array, mapped
            return kept[1]

    def close(self) -> None:
        """Forget them all; arrays that are mapped already stay as they are."""
        with self._lock:
            written, self._written = self._written, {}
        for _, mapped in written.values():
            os.close(mapped.fd)


class _Mapped:
    """Arrives in another process as an array."""

    def __init__(self, fd: int, dtype: Any, shape: tuple[int, ...], order: str, mode: str) -> None:
        self.fd = fd  # the shelf's
        self._about = dtype, shape, order, mode

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (os.getpid(), self.fd, os.fstat(self.fd).st_ino, *self._about)


def _open(
    pid: int, fd: int, inode: int, dtype: Any, shape: tuple[int, ...], order: Any, mode: str
) -> Any:
    import numpy

    access = _ACCESS.get(mode, mmap.ACCESS_WRITE)
    flags = os.O_RDWR if access == mmap.ACCESS_WRITE else os.O_RDONLY
    opened = os.open(f"/proc/{pid}/fd/{fd}", flags | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_ino != inode:
            raise ValueError("the array of this call was given up by who submitted it")
        memory = mmap.mmap(opened, 0, access=access)
    finally:
        os.close(opened)
    return numpy.ndarray(shape, dtype, memory, order=order)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data[: 1 << 30]) :]


class _InFile:
    """A part of a file; arrives as a memory map of it."""

    def __init__(self, *about: Any) -> None:
        self._about = about

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_file, self._about


def _in_its_file(array: Any) -> _InFile | None:
    """None for what the file does not hold: a copy made of a map, or changes that are private."""
    root = array
    while root is not None and not isinstance(root.base, mmap.mmap):
        root = root.base if hasattr(root, "base") else None
    mode = getattr(root, "mode", None)
    if root is None or mode not in ("r", "r+", "w+") or not array.size:
        return None
    if root.filename is None or array.dtype.hasobject or not os.path.exists(root.filename):  # noqa: PTH110
        return None
    reaches = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    lowest = sum(reach for reach in reaches if reach < 0)
    extent = sum(abs(reach) for reach in reaches) + array.itemsize
    begins = root.offset + _address(array) - _address(root)
    where = begins + lowest, extent, -lowest
    how = "r" if mode == "r" or not array.flags.writeable else "r+"  # w+ would empty the file
    return _InFile(os.fspath(root.filename), how, *where, array.dtype, array.shape, array.strides)


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _map_file(
    file: str,
    mode: Any,
    start: int,
    extent: int,
    first: int,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Any:
    import numpy

    order: Any
    for order in "CF":  # as a map of its own, so that it travels on as one
        if first == 0 and strides == _strides(shape, dtype.itemsize, order):
            return numpy.memmap(file, dtype, mode, start, shape, order)
    memory = numpy.memmap(file, "u1", mode, start, (extent,))
    return numpy.ndarray(shape, dtype, memory, first, strides)


def _strides(shape: tuple[int, ...], size: int, order: str) -> tuple[int, ...]:
    """Of an array that lies in one piece."""
    sizes = shape[:0:-1] if order == "C" else shape[:-1]
    steps = tuple(itertools.accumulate((size, *sizes), lambda a, b: a * b))
    return steps[::-1] if order == "C" else steps
