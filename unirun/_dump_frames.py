"""What the threads of this process do, read off their stacks: where each is, what it waits for.

Nothing is noted while a program runs, so a wait costs nothing for being told of here.  That a
thread waits is seen by the function it is in: of `threading`, `queue`, `concurrent.futures`, ours.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any, NamedTuple

__all__ = ["Thread", "place_of", "stack_of", "task_stack_of", "threads", "wait_of"]

DEEP = 64
"""Frames of a thread that are shown."""
_SHARED_QUEUES = "unirun._shared_queues"
_SHARED_LOCKS = "unirun._shared_locks"
# By module and qualified name: what a thread in there waits for; its `self` is the object.
_WAITS = {
    ("unirun._future", "Future._wait_ended"): "the result of",
    ("concurrent.futures._base", "Future.result"): "the result of",
    ("concurrent.futures._base", "Future.exception"): "the result of",
    ("concurrent.futures._base", "wait"): "futures, in concurrent.futures.wait()",
    ("concurrent.futures._base", "as_completed"): "futures, in as_completed()",
    ("threading", "Thread.join"): "the end of",
    ("threading", "Event.wait"): "",
    ("threading", "Barrier.wait"): "",
    ("threading", "Condition.wait"): "",
    ("threading", "Semaphore.acquire"): "",
    ("queue", "Queue.get"): "an item of",
    ("queue", "Queue.put"): "room in",
    ("queue", "Queue.join"): "all items to be done of",
    ("unirun._thread_queues", "_WithShutdown.get"): "an item of",
    ("unirun._thread_queues", "_WithShutdown.put"): "room in",
    ("unirun._pending", "Gate._enter"): "room: max_pending calls have not ended",
    (_SHARED_QUEUES, "SharedSimpleQueue.get"): "an item of",
    (_SHARED_QUEUES, "SharedQueue.get_many"): "an item of",
    (_SHARED_QUEUES, "SharedQueue.put"): "room in",
    (_SHARED_QUEUES, "SharedQueue.put_many"): "room in",
    (_SHARED_QUEUES, "SharedQueue.join"): "all items to be done of",
    (_SHARED_LOCKS, "SharedLock.acquire"): "",
    (_SHARED_LOCKS, "SharedCondition.wait"): "",
    (_SHARED_LOCKS, "SharedSemaphore.acquire"): "",
    ("unirun._shared_barriers", "SharedBarrier.wait"): "",
    ("unirun._shared_barriers", "SharedEvent.wait"): "",
    ("unirun._shutdown", "Shutdown.shutdown"): "the end of all calls of",
}
_OURS = ("threading", "queue", "concurrent.futures", "unirun")


class Wait(NamedTuple):
    """`what` it waits for, in words, and the object, if it is known."""

    what: str
    subject: Any


class Thread(NamedTuple):
    """One thread of this process."""

    ident: int
    name: str
    frame: FrameType


def threads() -> list[Thread]:
    """Those that run Python code, but for the one that asks."""
    names = {ident: each.name for ident, each in list(threading._active.items())}  # type: ignore[attr-defined]  # without its lock
    me = threading.get_ident()
    frames = sys._current_frames()
    return [
        Thread(ident, names.get(ident, "not of threading"), frame)
        for ident, frame in frames.items()
        if ident != me
    ]


def wait_of(frame: FrameType | None) -> Wait | None:
    """What a thread with that innermost frame waits for, as far as its stack shows it."""
    found = None
    while frame is not None and _is_ours(frame):
        words = _WAITS.get((frame.f_globals.get("__name__", ""), frame.f_code.co_qualname))
        if words is not None:
            found = Wait(words, frame.f_locals.get("self"))
        frame = frame.f_back
    return found


def _is_ours(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name in _OURS or name.startswith(("concurrent.futures.", "unirun."))


def place_of(frame: FrameType | None) -> str:
    """Where in the code of the user that thread is, for one line."""
    inner = frame
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    frame = frame or inner
    if frame is None:
        return ""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"


def stack_of(frame: FrameType | None) -> list[str]:
    """The innermost call first, as faulthandler has it; no source is read: a disk may hang, too."""
    lines: list[str] = []
    while frame is not None and len(lines) < DEEP:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_qualname}')
        frame = frame.f_back
    return lines if frame is None else [*lines, "  ..."]


def task_stack_of(frame: FrameType | None) -> list[str]:
    """The part of it that is the user's: neither how it waits, nor who called the task."""
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    lines = stack_of(frame)
    depth = 0
    while frame is not None and not _is_ours(frame):
        frame, depth = frame.f_back, depth + 1
    return lines[:depth]
