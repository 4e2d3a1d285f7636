"""What travels between the pool and a worker: frames of marshalled tuples.

Light by rule: every worker process imports this file.

    frame = 8 bytes, length of the body, little-endian | body = marshal of (code, ...)

marshal, because both ends are the same interpreter and what it carries are atoms and bytes only;
the user's objects are inside those bytes, made by `_payload` and `_remote`.
"""

from __future__ import annotations

import os
from marshal import dumps, loads
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Message: TypeAlias = tuple[Any, ...]

# To a worker.  CALLS: (index of the first, groups), a group being calls of one function, (function
# number, function bytes or None, what for the context, call ids, payloads), a payload being a tuple
# of plain arguments or the pickle of (args, kwargs), of (function, args, kwargs) for the number 0.
# CANCEL: (index).  SETUP: (initializer bytes or None, ...).  FORGET: drop all functions known.
# LEARN: (function numbers and bytes), of functions that calls may come for.
# FREE: (offsets of results that the pool is done with).
# INNER: (number, what has become of that call, its outcome), of a call that a task submitted.
SETUP, CALLS, CANCEL, FORGET, PATH, FREE, LEARN, INNER = range(8)

# From a worker.  READY: ().  BROKEN: (exception bytes).  PART: (index, bytes).
# ANSWERS: (how many it gave before, microseconds these calls took, answers, offsets of arguments
# that the worker is done with, figures of calls by number of the answer as `meter` makes them, or
# None), an answer being a plain value, or (code, bytes) with one of the
# codes RETURNED, RAISED, UNREADABLE, UNSENDABLE: its value, the exception it raised, why its
# arguments could not be unpickled, why its value could not be pickled.
# Of calls that a task submits, under numbers that the worker gives them.  SUBMIT: (number, index of
# the call that submits, number of the executor, name, options, pickle).  TAKE: (number, whether to
# take it back if it waits, or only to ask).  LEND: (number), the task waits for it, and cannot run
# it.  END: (number, whether by force, grace).
# NEWS: (index of the call or 0, topic, value, by whom if it was passed on), see `unirun._news`.
# By force: 0, only ask it to stop if it runs; 1, kill it; DISCOURAGE: as 0, and as soon as it runs.
DISCOURAGE = 2
READY, BROKEN, PART, ANSWERS, SUBMIT, TAKE, LEND, END, NEWS = range(10, 19)
RETURNED, RAISED, UNREADABLE, UNSENDABLE = range(20, 24)
# What has become of a call that a task submitted.  The first three answer a TAKE: it waits still;
# it was taken back; some worker has it.  The others are its end, with an answer as above or the
# bytes of an exception.
WAITS, TAKEN, AWAY, ANSWERED, FAILED, KILLED, CANCELLED = range(30, 37)

PLAIN = frozenset({int, float, complex, bool, type(None)})
"""Kinds of values that marshal carries exactly, besides short strings and bytes."""
SHORT = 1 << 15
"""Bytes or characters up to which a string travels in the frame as it is."""


def is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in PLAIN or ((kind is str or kind is bytes) and len(value) < SHORT)


SPIN_SECONDS = 0.0001

_HEAD = 8
_CHUNK = 1 << 16


def pack(*message: Any) -> bytes:
    """One frame."""
    body = dumps(message)
    return len(body).to_bytes(_HEAD, "little") + body


class FrameReader:
    """Cuts what a pipe delivers into messages; one owner, one pipe."""

    __slots__ = ("_big", "_buffer", "_filled", "received")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.received = 0  # bytes, of all
        self._big: bytearray | None = None  # the body of a frame larger than one read
        self._filled = 0

    def receive(self, fd: int) -> list[Message]:
        """Read once and return the messages that are complete.

        Raises EOFError at the end of the pipe, BlockingIOError when a non-blocking one is empty,
        and ValueError when what comes is nothing of ours.
        """
        if self._big is not None:
            return self._receive_big(fd)
        data = os.read(fd, _CHUNK)
        if not data:
            raise EOFError
        self.received += len(data)
        if not self._buffer and len(data) == _HEAD + int.from_bytes(data[:_HEAD], "little"):
            return [_message(memoryview(data)[_HEAD:])]  # one whole frame: the usual case
        self._buffer += data
        return self._cut()

    def _cut(self) -> list[Message]:
        messages: list[Message] = []
        buffer, start = self._buffer, 0
        while len(buffer) - start >= _HEAD:
            length = int.from_bytes(buffer[start : start + _HEAD], "little")
            end = start + _HEAD + length
            if end > len(buffer):
                if length > _CHUNK:
                    self._begin_big(start + _HEAD, length)
                    return messages
                break
            with memoryview(buffer) as view:
                messages.append(_message(view[start + _HEAD : end]))
            start = end
        del buffer[:start]
        return messages

    def _begin_big(self, start: int, length: int) -> None:
        try:
            self._big = bytearray(length)
        except (MemoryError, OverflowError) as exc:
            raise ValueError(f"a frame of {length} bytes") from exc
        self._filled = len(self._buffer) - start
        self._big[: self._filled] = self._buffer[start:]
        self._buffer = bytearray()

    def _receive_big(self, fd: int) -> list[Message]:
        big = self._big
        assert big is not None
        with memoryview(big) as view:
            count = os.readv(fd, [view[self._filled :]])
        if not count:
            raise EOFError
        self._filled += count
        self.received += count
        if self._filled < len(big):
            return []
        self._big = None
        return [_message(big)]


def _message(body: bytearray | memoryview) -> Message:
    try:
        message = loads(body)
    except (EOFError, MemoryError, TypeError) as exc:
        raise ValueError("a frame that holds no message") from exc
    if type(message) is not tuple or not message:
        raise ValueError(f"a {type(message).__name__} instead of a message")
    return message


def poll_of(fd: int) -> Any:
    """Something to `spin` on; None where there is no such thing."""
    import select

    if fd < 0 or not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll


def spin(poll: Any, begun: float) -> bool:
    """Wait for news without sleeping, until SPIN_SECONDS after `begun`; False if there are none.

    To fall asleep and be woken takes longer than a short call, so who got news soon the last time
    spins the next time; who did not sleeps at once.
    """
    while not poll.poll(0):
        if perf_counter() - begun > SPIN_SECONDS:
            return False
    return True


def write_all(fd: int, data: bytes) -> None:
    """Write to a blocking pipe, whatever it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
