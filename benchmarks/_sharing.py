"""What two workers do with shared objects: each part is run by one of them, the same for all.

A part gets the objects and a count, and returns what proves that it did its work; see `shared.py`.
A worker imports this file, so it imports next to nothing.
"""

from __future__ import annotations

import mmap
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from benchmarks._crew import Part

PATIENCE = 20.0  # seconds that a worker, and who waits for it, gives the others
ITEMS = tuple(bytes([n]) * 65536 for n in range(1, 17))
"""Sixteen items of 64 KiB that can be told apart."""

_inherited: tuple[Any, ...] = ()
# Of the last run: a stock proxy that loses its last one here gives up its connection.
_kept: tuple[Any, ...] = ()


def inherit(objects: tuple[Any, ...]) -> None:
    """For objects that only travel to a process when it starts: `run` finds them here."""
    global _inherited
    _inherited = objects


def run(
    part: Part, objects: tuple[Any, ...] | None, directory: str, seat: int | None, count: int
) -> tuple[float, float, int]:
    """When `part` began and ended, on the clock that all processes share, and what it returned.

    With a `seat`, 0 or 1, it begins when the other has come too.
    """
    global _kept
    objects = _inherited if objects is None else objects
    if seat is not None:
        _meet(directory, seat)
    start = time.perf_counter()
    told = part(objects, count)
    end = time.perf_counter()
    _kept = objects
    return start, end, told


def _meet(directory: str, seat: int) -> None:
    """By two named pipes, which the parent holds open: a byte that is sent early is not lost."""
    mine, theirs = (os.open(f"{directory}/{n}", os.O_RDWR) for n in (seat, 1 - seat))
    try:
        os.write(theirs, b".")
        if not select.select([mine], [], [], PATIENCE)[0]:
            raise TimeoutError(f"the other worker did not come within {PATIENCE:g} s")
        os.read(mine, 1)
    finally:
        os.close(mine)
        os.close(theirs)


# -- locks ----------------------------------------------------------------------------------------


def lock(objects: tuple[Any, ...], count: int) -> int:
    acquire, release = objects[0].acquire, objects[0].release
    for _ in range(count):
        acquire()
        release()
    return count


def lock_and_count(objects: tuple[Any, ...], count: int) -> int:
    """Inside the lock, add one to a number in shared memory, in steps that can be torn apart."""
    acquire, release, counter = objects[0].acquire, objects[0].release, Counter(objects[1])
    cell = counter.cell
    for _ in range(count):
        acquire()
        number = cell[0]
        cell[0] = number + 1
        release()
    counter.close()
    return count


class Counter:
    """A number in a file that all who open it see."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)  # a new file is all zeros
            self._map = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        self.cell = memoryview(self._map).cast("q")

    def close(self) -> None:
        self.cell.release()
        self._map.close()


# -- events and barriers --------------------------------------------------------------------------


def serve(objects: tuple[Any, ...], count: int) -> int:
    """Set the first event, wait for the second; returns how often it was set."""
    ping, pong = objects
    seen = 0
    for _ in range(count):
        ping.set()
        seen += pong.wait()
        pong.clear()
    return seen


def strike_back(objects: tuple[Any, ...], count: int) -> int:
    ping, pong = objects
    seen = 0
    for _ in range(count):
        seen += ping.wait()
        ping.clear()
        pong.set()
    return seen


def pass_barrier(objects: tuple[Any, ...], count: int) -> int:
    """The sum of what it returned: 0 or 1 each time, and the other one to the other worker."""
    wait = objects[0].wait
    return sum(wait() for _ in range(count))


# -- queues ---------------------------------------------------------------------------------------


def put_small(objects: tuple[Any, ...], count: int) -> int:
    put = objects[0].put
    for n in range(count):
        put(n)
    return sum(range(count))


def get_small(objects: tuple[Any, ...], count: int) -> int:
    get = objects[0].get
    return sum(get() for _ in range(count))


def put_large(objects: tuple[Any, ...], count: int) -> int:
    put = objects[0].put
    for n in range(count):
        put(ITEMS[n % 16])
    return sum(_number(ITEMS[n % 16]) for n in range(count))


def get_large(objects: tuple[Any, ...], count: int) -> int:
    get = objects[0].get
    return sum(_number(get()) for _ in range(count))


def _number(item: bytes) -> int:
    """Both ends and the length prove that it arrived; reading all would measure the memory."""
    return item[0] + item[-1] + len(item)


def ask(objects: tuple[Any, ...], count: int) -> int:
    put, get = objects[0].put, objects[1].get
    total = 0
    for n in range(count):
        put(n)
        total += get()
    return total


def answer(objects: tuple[Any, ...], count: int) -> int:
    get, put = objects[0].get, objects[1].put
    total = 0
    for _ in range(count):
        item = get()
        put(item)
        total += item
    return total
