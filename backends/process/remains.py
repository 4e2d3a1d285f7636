"""What a dead worker leaves behind: the last its call wrote to stderr, and where it crashed.

Both are in the memory that a worker shares with the pool, and that outlives it however it ends:

    0            4096                         16384                          65536
    │ the pool's │ ring: the end of stderr    │ what faulthandler wrote      │

`prepare` and `arm` are for the worker, `read` for the pool, once the worker is dead.

1. stderr itself stays what it was: the same object, on the same descriptor.  Only its `write`
   is wrapped, so print, logging, warnings and tracebacks are seen whoever holds the stream.
2. A call that writes nothing pays nothing.  The ring begins anew at the first write of a call,
   and says whose it is; what an earlier call wrote is never taken for the words of a later one.
3. Not seen: what C code or a child process writes to descriptor 2, bytes that go straight to
   `sys.stderr.buffer`, and what is written to a stream that the task put in its place.  To see
   these, something would have to stand between the worker and its stderr and pass everything on:
   it would be no terminal any more, and as slow, full or dead as whoever passes on.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import os
import sys

from unirun import _dump_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

SIZE = 65536
_RING = 4096  # the call whose words these are, and how many bytes it wrote: 8 bytes each
_TEXT = _RING + 64
_STACK = 16384
_CAPACITY = _STACK - _TEXT
_HIGH = 200
WORKER = os.path.join(os.path.dirname(__file__), "worker.py")


# -- in the worker -------------------------------------------------------------------------------


def prepare() -> None:
    """What can be done before the memory is there: a zygote does it for all that it forks."""
    global _file, _prepared
    if _prepared:
        return
    _prepared = True
    import faulthandler

    _dump_signal.prepare()

    _tail.listen_to(sys.stderr)
    try:
        _file = _reserve()
    except OSError:
        return  # out of descriptors, which is no reason not to work: there will be no stack
    os.register_at_fork(after_in_child=_disarm)
    faulthandler.enable(_file, all_threads=True)  # also where the program had it on stderr


def _reserve() -> int:
    """A descriptor with a high number.

    A task that closes what it finds, and opens files of its own, must not get this one: the stack
    would be in its file.  A standard stream that is closed gets something harmless instead, as the
    mapping of a memory holds a copy of its descriptor, with the lowest number that is free.
    """
    import fcntl

    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    try:
        try:
            return fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        except OSError:
            return fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 3)  # so high they may not be here
    finally:
        os.close(null)


def arm(fd: int, memory: mmap.mmap, running: Callable[[], int]) -> None:
    """Leave remains in `memory`, which is that of `fd`, from now on.

    `running()` is a number for the call that runs.
    """
    prepare()
    _dump_signal.arm(in_python=True)
    _tail.begin(memory, running)
    _tail.listen_to(sys.stderr)  # it may have been replaced since
    try:
        os.dup2(fd, _file, inheritable=False)
        os.lseek(_file, _STACK, os.SEEK_SET)  # who shares this position with us maps the memory
    except OSError:
        return  # nothing was reserved


def _disarm() -> None:
    """In a child that a task forked: what it says, and how it dies, is not the worker's story."""
    size = _tail.end()
    if not size or not _is_memory(_file, size):
        return  # not armed; or the task has closed it, and the number may be somebody else's
    try:
        os.dup2(2, _file, inheritable=False)
    except OSError:
        os.close(_file)  # there is no stderr, and so nobody to be told


def _is_memory(fd: int, size: int) -> bool:
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return status.st_size == size and not status.st_nlink


class Tail:
    """The end of what the running call writes.

    No lock: a signal handler may write while its thread does.  Two threads that do so at the same
    instant may garble the copy, never what is passed on.
    """

    __slots__ = ("_call", "_count", "_memory", "_running", "_stream")

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._stream: Any = None

    def begin(self, memory: mmap.mmap, running: Callable[[], int]) -> None:
        self._running = running
        self._call = -1  # none yet
        self._count = 0
        self._memory = memory

    def end(self) -> int:
        """The size of the memory that is not written to any more; 0 if it never was."""
        memory, self._memory = self._memory, None
        return 0 if memory is None else len(memory)

    def listen_to(self, stream: Any) -> None:
        if stream is self._stream:
            return
        try:
            pass_on = stream.write

            def write(text: str, /) -> Any:
                self.note(text)
                return pass_on(text)

            stream.write = write
            self._stream = stream
        except AttributeError:
            return  # there is none, or one that somebody made who allows no such thing

    def note(self, text: object) -> None:
        memory = self._memory
        if memory is None or not isinstance(text, str):
            return  # whatever is wrong with it, the stream itself will say
        call = self._running()
        if call != self._call:
            self._turn_to(memory, call)
        skipped = max(0, len(text) - _CAPACITY)
        data = text[skipped:].encode("utf-8", "backslashreplace")
        skipped += max(0, len(data) - _CAPACITY)
        self._write(memory, data[-_CAPACITY:], skipped)

    def _turn_to(self, memory: mmap.mmap, call: int) -> None:
        memory[_RING + 8 : _RING + 16] = bytes(8)
        memory[_RING : _RING + 8] = call.to_bytes(8, "little")
        self._call = call
        self._count = 0

    def _write(self, memory: mmap.mmap, data: bytes, skipped: int) -> None:
        start = self._count + skipped
        self._count = start + len(data)
        at = start % _CAPACITY
        first, rest = data[: _CAPACITY - at], data[_CAPACITY - at :]
        memory[_TEXT + at : _TEXT + at + len(first)] = first
        memory[_TEXT : _TEXT + len(rest)] = rest
        # Last: who dies above has not written this yet.
        memory[_RING + 8 : _RING + 16] = self._count.to_bytes(8, "little")


_tail = Tail()
note = _tail.note  # for who writes elsewhere what was meant for stderr
_prepared = False
_file = -1  # where faulthandler writes: nowhere, then into the memory; open from `prepare` on


# -- in the pool ---------------------------------------------------------------------------------


class Remains:
    """`stderr` is what the call wrote last, `stack` where each thread was; "" if there is none."""

    __slots__ = ("stack", "stderr")

    def __init__(self, stderr: str = "", stack: str = "") -> None:
        self.stderr = stderr
        self.stack = stack


def read(memory: mmap.mmap | int, call: int) -> Remains:
    """What the worker left that ran `call` in `memory`, which may also be its descriptor.

    A task can write there whatever it likes, so nothing is believed: any bytes are some text.
    """
    data = os.pread(memory, SIZE, 0) if isinstance(memory, int) else memory[:SIZE]
    return Remains(_end_of_stderr(data, call), _stack(data))


def _end_of_stderr(data: bytes, call: int) -> str:
    if int.from_bytes(data[_RING : _RING + 8], "little") != call:
        return ""
    count = int.from_bytes(data[_RING + 8 : _RING + 16], "little")
    ring = data[_TEXT:_STACK]
    if count <= _CAPACITY:
        return ring[:count].decode("utf-8", "replace")
    at = count % _CAPACITY
    text = (ring[at:] + ring[:at]).decode("utf-8", "replace")
    return text.partition("\n")[2] or text  # the first line lacks its beginning


def _stack(data: bytes) -> str:
    text = data[_STACK:].partition(b"\0")[0].decode("utf-8", "replace")
    parts = [_without_worker(part) for part in text.strip().split("\n\n")]
    return "\n\n".join(parts)


def _without_worker(part: str) -> str:
    """The frames of a thread down to the task: how the worker came to call it helps nobody."""
    lines = part.splitlines()
    ours = [at for at, line in enumerate(lines) if f'"{WORKER}"' in line]
    return "\n".join(lines[: max(2, ours[0])] if ours else lines)
